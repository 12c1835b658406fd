"""Each system call of the write path fails: once, and from then on. What is acknowledged is durable all the same."""

from __future__ import annotations

import re
import resource
from collections import Counter
from collections.abc import Callable, Iterator
from hashlib import sha256
from itertools import count
from pathlib import Path

import pytest

from tests.faults.injection import Call, Injection, Subject, why_no_strace
from tests.faults.write_path import content_of

SIZE = 150_000  # bytes: three calls of write(2)
ERRORS = ("EIO", "ENOSPC", "EDQUOT", "EROFS", "EINTR", "ENOMEM", "EMFILE")
CLEAN_UP = "unlink,unlinkat:error=EROFS:when=1+"  # the disk does not let anything be undone either
numbers = count(1)


pytestmark = pytest.mark.skipif(bool(why_no_strace()), reason=f"no failing system calls: {why_no_strace()}")


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    """One process for all cases: what one failure leaves behind, the next case meets."""
    running = Subject(tmp_path_factory.mktemp("write-path"))
    yield running
    running.close()


def new_uuid() -> str:
    return f"11111111-2222-3333-4444-{next(numbers):012d}"


def faults_of(calls: list[Call], once: tuple[str, ...], for_good: tuple[str, ...]) -> Iterator[str]:
    """Each of these calls failing once, and failing from there on, with each of these errors."""
    per_thread: Counter[tuple[str, str]] = Counter((call.thread, call.name) for call in calls if call.name != "write")
    for name in sorted({name for _, name in per_thread}):
        for occurrence in range(1, max(number for (_, other), number in per_thread.items() if other == name) + 1):
            for error in once:
                yield f"{name}:error={error}:when={occurrence}"
            for error in for_good:
                # a call that is interrupted for ever is none: the kernel says so after a signal only
                yield f"{name}:error={error}:when={occurrence}{f'..{occurrence + 3}' if error == 'EINTR' else '+'}"


def assert_was_durable(calls: list[Call], name: str) -> None:
    """Written, synced, renamed, folder synced, and only then answered, by the kernel's own record."""
    writes = [i for i, call in enumerate(calls) if call.name == "writev" and f"incoming/{name}" in call.arguments]
    assert_order(calls, writes[-1], f"incoming/{name}>", f"incoming/{name}")


def is_answer(call: Call) -> bool:
    return call.name == "write" and call.arguments.startswith("1<pipe:")


def assert_order(calls: list[Call], write: int, file: str, renamed: str) -> None:
    def first(kind: str, what: str) -> int:
        found = [i for i, call in enumerate(calls) if call.succeeded and call.name == kind and what in call.arguments]
        assert found, (kind, what, calls)
        return found[0]

    order = [
        write,
        first("fsync", file),
        first("rename", renamed),
        first("fsync", "/pending>"),
        # strace may have let go of the process before it saw the end of the answer that ended the injection
        next((number for number, call in enumerate(calls) if is_answer(call)), len(calls)),
    ]
    assert order == sorted(order), calls


def assert_no_sync_was_repeated(calls: list[Call]) -> None:
    """After a failed fsync the kernel takes the pages for clean: asking the same descriptor again means nothing."""
    for index, call in enumerate(calls):
        if call.name == "fsync" and call.was_injected and "EINTR" not in call.error:
            same = [c for c in calls[index + 1 :] if c.arguments == call.arguments and c.thread == call.thread]
            assert not same or same[0].name == "close", (call, same[0])


def heal(subject: Subject) -> None:
    """The disk works again: nothing is left over, the account is right, and stores are taken."""
    for _ in range(2):
        subject.do("tend")
        subject.do("transfer")
    state = subject.do("state")
    assert not state["needs_tending"], state
    assert state["health"] == "Healthy", state
    assert state["incoming"] == state["pending"] == state["tombstones"] == [], state
    assert state["used"] == state["measured"] == 0, state
    uuid = new_uuid()
    assert subject.do("create", uuid, 10) == 0
    assert subject.do("remove", uuid) == 0
    subject.do("transfer")


def assert_copy_was_durable(calls: list[Call], name: str) -> None:
    """The same, whoever wrote it."""
    write = max(index for index, call in enumerate(calls) if call.name == "writev" and call.succeeded)
    file = re.search(r"<[^>]*/(arriving|incoming)/[^>]*>", calls[write].arguments)
    assert file, calls[write]
    assert_order(calls, write, file[0], f"/pending/{name}")


def create(
    subject: Subject,
    log: Path,
    *faults: str,
    step: str = "create",
    assert_durable: Callable[[list[Call], str], None] = assert_was_durable,
) -> list[Call]:
    uuid = new_uuid()
    with Injection(subject.process.pid, log, *faults) as injection:
        code = subject.do(step, uuid, SIZE)
    calls, state, name = injection.calls(), subject.do("state"), f"{uuid}.dcm"
    assert state["used"] >= state["measured"], state  # more only if half of it cannot be unlinked
    assert state["used"] == state["measured"] or state["needs_tending"], state
    assert_no_sync_was_repeated(calls)
    if code == 0:
        assert_durable(calls, name)
        assert faults or any(is_answer(call) for call in calls), calls
        assert (subject.folder / "spool" / "pending" / name).read_bytes() == content_of(uuid, SIZE)
    else:
        assert name not in state["pending"] or name in state["tombstones"] or state["needs_tending"], state
    for left in state["arriving"]:  # it could not be unlinked
        (subject.folder / "spool" / "arriving" / left).unlink()
    heal(subject)
    assert (name in subject.do("state")["objects"]) == (code == 0)
    return calls


def take_over(subject: Subject, log: Path, *faults: str) -> list[Call]:
    calls = create(subject, log, *faults, step="take_over", assert_durable=assert_copy_was_durable)
    if not faults:
        assert not any(call.name == "writev" and "/incoming/" in call.arguments for call in calls), "written once only"
    return calls


def remove(subject: Subject, log: Path, *faults: str) -> list[Call]:
    uuid = new_uuid()
    assert subject.do("create", uuid, SIZE) == 0
    subject.do("transfer")
    with Injection(subject.process.pid, log, *faults) as injection:
        code = subject.do("remove", uuid)
    calls, state, name = injection.calls(), subject.do("state"), f"{uuid}.dcm"
    assert_no_sync_was_repeated(calls)
    if code == 0:
        made = next(i for i, call in enumerate(calls) if call.succeeded and f"tombstones/{name}" in call.arguments)
        synced = [i for i, c in enumerate(calls) if c.name == "fsync" and c.succeeded and "/tombstones>" in c.arguments]
        assert synced and made < synced[-1], calls  # noqa: PT018 - one thing
    else:
        assert state["needs_tending"], state
    heal(subject)  # remembered even if it failed: Orthanc would not ask again
    assert name not in subject.do("state")["objects"]
    return calls


def transfer(subject: Subject, log: Path, *faults: str) -> list[Call]:
    """Upload one, and take back two that were removed: one that is in S3, one that is still in the spool."""
    uploaded, stored, spooled = new_uuid(), new_uuid(), new_uuid()
    assert subject.do("create", stored, SIZE) == 0
    subject.do("transfer")
    for uuid in (spooled, uploaded):
        assert subject.do("create", uuid, SIZE) == 0
    for uuid in (spooled, stored):
        assert subject.do("remove", uuid) == 0
    with Injection(subject.process.pid, log, *faults) as injection:
        subject.do("transfer")
    calls, state = injection.calls(), subject.do("state")
    assert f"{uploaded}.dcm" in state["pending"] + state["objects"], state
    for uuid in (spooled, stored):
        assert f"{uuid}.dcm" in state["tombstones"] or f"{uuid}.dcm" not in state["objects"] + state["pending"], state
    heal(subject)
    objects = subject.do("state")["objects"]
    assert f"{uploaded}.dcm" in objects
    assert not {f"{stored}.dcm", f"{spooled}.dcm"} & set(objects)
    return calls


def start(subject: Subject, log: Path, *faults: str) -> list[Call]:
    """A start either counts what is owed and has swept the rest, or is refused."""
    uuid, spool = new_uuid(), subject.folder / "spool"
    swept = [spool / "incoming" / f"{new_uuid()}.dcm", spool / "arriving" / "0-4.part", spool / "arriving" / "0-4"]
    assert subject.do("create", uuid, SIZE) == 0
    for path in swept:
        path.write_bytes(b"half")
    with Injection(subject.process.pid, log, *faults) as injection:
        answer = subject.ask("start_again", ())
    if "Result" in answer:
        assert answer["Result"] == 1, answer
        assert not any(path.exists() for path in swept)
    else:
        assert answer["Exception"] in REFUSALS, answer
        for path in swept:
            path.unlink(missing_ok=True)
    heal(subject)
    return injection.calls()


REFUSALS = {"OSError", "SyncFailed", "InterruptedError", "PermissionError"}  # host.start makes sentences of them
STEPS: dict[str, Callable[..., list[Call]]] = {
    "create": create,
    "take_over": take_over,
    "remove": remove,
    "transfer": transfer,
    "start": start,
}


def run_all(
    subject: Subject,
    folder: Path,
    step: str,
    *more: str,
    once: tuple[str, ...] = ERRORS,
    for_good: tuple[str, ...] = ERRORS,
) -> None:
    """Each fault of this step, with `more` faults in each run."""
    operate = STEPS[step]
    operate(subject, folder / "log")  # whatever is opened once is open now
    hit = 0
    calls = operate(subject, folder / "log")
    if step == "start":  # strace leaves a descriptor open whose close it lets fail, and with it the lock
        calls = [call for call in calls if call.name != "close"]
    faults = list(faults_of(calls, once, for_good))
    for fault in faults:
        print(fault, *more)
        hit += any(call.was_injected for call in operate(subject, folder / "log", fault, *more))
    print(f"{step}: {len(faults)} faults, {hit} met")
    assert hit > 0.9 * len(faults)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.timeout(300)
def test_each_system_call_fails_once_and_for_good(subject: Subject, tmp_path: Path, step: str) -> None:
    run_all(subject, tmp_path, step, once=("EIO",), for_good=("ENOSPC",))


@pytest.mark.soak
@pytest.mark.parametrize("step", STEPS)
def test_each_system_call_fails_with_every_error(subject: Subject, tmp_path: Path, step: str) -> None:
    run_all(subject, tmp_path, step)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("step", ["create", "take_over"])
def test_a_store_that_fails_and_cannot_be_undone_is_no_store(subject: Subject, tmp_path: Path, step: str) -> None:
    run_all(subject, tmp_path, step, CLEAN_UP, once=("EIO",), for_good=("ENOSPC",))


def test_a_disk_that_has_become_read_only_takes_nothing_and_heals(subject: Subject, tmp_path: Path) -> None:
    everything = "openat,writev,fsync,rename,unlink,unlinkat,fsetxattr,mkdir,utimensat:error=EROFS:when=1+"
    for operate in (create, take_over, remove, transfer):
        operate(subject, tmp_path / "log", everything)


def test_after_some_failed_syncs_the_spool_is_suspect_and_a_trial_write_heals_it(
    subject: Subject, tmp_path: Path
) -> None:
    with Injection(subject.process.pid, tmp_path / "log", "fsync:error=EIO:when=1+") as injection:
        codes = [subject.do("create", new_uuid(), SIZE) for _ in range(5)]
        subject.do("tend")
        state = subject.do("state")
    assert 0 not in codes
    assert state["health"] == "Suspect"
    assert any("look at that disk" in line for line in state["log"]), state
    written = [c for c in injection.calls() if c.name == "openat" and "/incoming/11111111" in c.arguments]
    assert len(written) == 3  # the other two were not even tried
    heal(subject)


def test_a_write_that_is_cut_short_is_no_store(subject: Subject) -> None:
    """The limit of file sizes makes writev(2) take less than it is given, and nothing the next time."""
    resource.prlimit(subject.process.pid, resource.RLIMIT_FSIZE, (SIZE - 1000, resource.RLIM_INFINITY))
    try:
        assert subject.do("create", new_uuid(), SIZE) != 0
        uuid = new_uuid()
        assert subject.do("create", uuid, SIZE - 1000) == 0
    finally:
        resource.prlimit(subject.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    state = subject.do("state")
    assert state["incoming"] == []
    assert state["pending"] == [f"{uuid}.dcm"]
    assert state["used"] == state["measured"] == SIZE - 1000
    heal(subject)


def test_a_write_that_was_never_made_is_noticed_before_the_upload(tmp_path: Path) -> None:
    """The kernel says it has written and has not: no system call tells, but the digest does."""
    subject = Subject(tmp_path)
    with Injection(subject.process.pid, tmp_path / "log", "writev:retval=65536:when=1"):
        uuid = new_uuid()
        assert subject.do("create", uuid, SIZE) == 0
    subject.do("transfer")
    assert f"{uuid}.dcm" not in subject.do("state")["objects"]
    damaged = subject.folder / "spool" / "quarantine" / f"{uuid}.dcm"
    assert sha256(damaged.read_bytes()).digest() != sha256(content_of(uuid, SIZE)).digest()
    subject.close()
