"""Children are real processes here: started with their settings, heard, restarted, and gone when their parent is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from config.children import Child, ChildSpec
from config.supervisor import CannotStart, Supervisor

ROOT = Path(__file__).parents[4]
GOOD = """
from config.child_process import ParentLine
import os, signal
line = ParentLine()
message = line.launch_message()
line.report({"Secret": message["Secret"], "Commands": 0})
line.ready()
commands = []
def command(c):
    commands.append(c)
    line.report({"Commands": len(commands)})
line.watch(command, lambda: os._exit(0))
print("a stray print is no event")
signal.pause()
"""
STUBBORN = GOOD.replace("signal.pause()", "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: signal.pause()")
REFUSES = """
from config.child_process import ParentLine
line = ParentLine(); line.launch_message(); line.refuse("Isen.Storage.BucketName: there is no such bucket")
"""
DIES = "import sys; sys.exit(3)"
SILENT = GOOD.replace("line.ready()", "")


class Log(list[str]):
    """Log lines of one level."""


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[Callable[..., Supervisor]]:
    made: list[Supervisor] = []

    def make(*sources: str, on_death: Callable[[Child], None] = lambda _: None) -> Supervisor:
        children = []
        for index, source in enumerate(sources):
            (tmp_path / f"child_{index}.py").write_text(source)
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            spec = ChildSpec(f"child-{index}", f"child_{index}", lambda: {"Secret": "s3cret"}, (), environment)
            children.append(Child(spec, Path(sys.executable), tmp_path))
        supervisor = Supervisor(
            children, on_report=lambda _: None, on_death=on_death, log_warning=Log().append, log_error=Log().append
        )
        made.append(supervisor)
        return supervisor

    yield make
    for supervisor in made:
        supervisor.stop(supervisor.children, patience=1)


def wait_until(condition: Callable[[], object], deadline: float = 15) -> None:
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.01)


def pid(child: Child) -> int:
    assert child.process is not None
    return child.process.pid


def alive(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True


def runs(number: int) -> bool:
    """Unlike `alive`, a zombie that nobody reaps yet does not count."""
    command_line = Path(f"/proc/{number}/cmdline")
    return command_line.exists() and command_line.read_bytes() != b""


def test_start_all_returns_when_every_child_is_ready(supervised: Callable[..., Supervisor]) -> None:
    supervisor = supervised(GOOD, GOOD)
    supervisor.start_all()
    assert [child.is_ready for child in supervisor.children] == [True, True]
    assert supervisor.children[0].report["Secret"] == "s3cret"
    assert b"s3cret" not in Path(f"/proc/{pid(supervisor.children[0])}/cmdline").read_bytes()
    assert b"s3cret" not in Path(f"/proc/{pid(supervisor.children[0])}/environ").read_bytes()


def test_a_child_that_refuses_stops_the_start_with_its_sentence(supervised: Callable[..., Supervisor]) -> None:
    supervisor = supervised(GOOD, REFUSES)
    with pytest.raises(CannotStart, match="there is no such bucket"):
        supervisor.start_all()
    assert all(child.process is None for child in supervisor.children)


def test_a_child_that_dies_while_starting_stops_the_start(supervised: Callable[..., Supervisor]) -> None:
    supervisor = supervised(DIES)
    with pytest.raises(CannotStart, match="exit code 3"):
        supervisor.start_all()


def test_a_child_that_is_never_ready_stops_the_start(
    supervised: Callable[..., Supervisor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("config.supervisor.START_DEADLINE", 1.0)
    supervisor = supervised(SILENT)
    with pytest.raises(CannotStart, match="not ready"):
        supervisor.start_all()
    assert supervisor.children[0].process is None


def test_a_killed_child_is_started_within_two_seconds_and_accepts_again(supervised: Callable[..., Supervisor]) -> None:
    deaths: list[str] = []
    supervisor = supervised(GOOD, on_death=lambda child: deaths.append(child.spec.name))
    supervisor.start_all()
    supervisor.watch()
    supervisor.accept()
    child = supervisor.children[0]
    wait_until(lambda: child.report.get("Commands") == 1)
    first = pid(child)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: child.process is not None and pid(child) != first, deadline=2)
    wait_until(lambda: child.report.get("Commands") == 1)
    assert deaths == ["child-0"]
    assert supervisor.status()[0]["Restarts"] == 1


def test_the_status_says_how_long_a_child_has_been_silent(supervised: Callable[..., Supervisor]) -> None:
    supervisor = supervised(GOOD)
    supervisor.start_all()
    supervisor.watch()
    wait_until(lambda: supervisor.status()[0]["ReportAgeSeconds"] > 0.3)
    supervisor.accept()
    wait_until(lambda: supervisor.status()[0]["ReportAgeSeconds"] < 0.3)


def test_a_child_that_keeps_dying_is_started_less_and_less_often(supervised: Callable[..., Supervisor]) -> None:
    supervisor = supervised(GOOD)
    supervisor.start_all()
    child = supervisor.children[0]
    pauses = []
    for _ in range(12):
        os.kill(pid(child), signal.SIGKILL)
        while child.hear() is not None:
            pass
        supervisor._forget(child)
        child.bury()
        pauses.append(child.start_at - time.monotonic())
        child.start()
    assert pauses[0] == pytest.approx(0.1, abs=0.05)
    assert pauses[3] == pytest.approx(0.8, abs=0.05)
    assert pauses[-1] == pytest.approx(30, abs=0.1)


def test_a_hung_child_is_killed_and_started_again(
    supervised: Callable[..., Supervisor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("config.children.SILENCE_LIMIT", 0.5)
    monkeypatch.setattr("config.supervisor._NO_EVENT_PAUSE", 0.2)
    supervisor = supervised(GOOD)
    supervisor.start_all()
    first = pid(supervisor.children[0])
    supervisor.watch()
    wait_until(lambda: not alive(first))
    wait_until(lambda: supervisor.children[0].restarts >= 1)


def test_stop_ends_children_for_good(supervised: Callable[..., Supervisor]) -> None:
    supervisor = supervised(GOOD, STUBBORN)
    supervisor.start_all()
    supervisor.watch()
    pids = [pid(child) for child in supervisor.children]
    supervisor.stop(supervisor.children, patience=0.5)
    assert not any(map(alive, pids))
    time.sleep(0.5)  # longer than the first pause: no restart may follow
    assert all(child.process is None for child in supervisor.children)


def test_close_ends_the_watching_thread_too(supervised: Callable[..., Supervisor]) -> None:
    supervisor = supervised(GOOD)
    supervisor.start_all()
    before = threading.active_count()
    supervisor.watch()
    number = pid(supervisor.children[0])
    supervisor.close(patience=1)
    assert not alive(number)
    assert threading.active_count() == before


def test_children_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    (tmp_path / "child_0.py").write_text(GOOD)
    code = f"""
import os, sys, signal
from pathlib import Path
from typing import Any
from config.children import Child, ChildSpec
from config.supervisor import Supervisor
environment = {{**os.environ, "PYTHONPATH": {str(ROOT)!r}}}
spec = ChildSpec("child", "child_0", lambda: {{"Secret": ""}}, (), environment)
children = [Child(spec, Path(sys.executable), Path({str(tmp_path)!r})) for _ in range(3)]
Supervisor(children, on_report=print, on_death=print, log_warning=print, log_error=print).start_all()
print(*[child.process.pid for child in children], flush=True)
signal.pause()
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT)
    assert parent.stdout is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 3
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: not any(map(runs, pids)), deadline=5)


def test_a_child_keeps_the_memory_of_an_image_unless_the_operator_has_other_plans(
    supervised: Callable[..., Supervisor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child whose freed blocks go back to the system faults each page in again for the next image."""
    faults = """
import resource
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(100):
        [bytearray(600_000) for _ in range(4)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
"""
    source = faults + GOOD.replace('"Commands": 0', '"Faults": faults()')
    kept = supervised(source)
    kept.start_all()
    assert wait_for_report(kept.children[0])["Faults"] < 1000
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")  # each block by itself
    returned = supervised(source)
    returned.start_all()
    assert wait_for_report(returned.children[0])["Faults"] > 10_000


def wait_for_report(child: Child) -> dict[str, Any]:
    wait_until(lambda: child.report)
    return child.report
