"""From a kept request to its delivered report: retries, hand-over between threads and workers, the end of patience."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from config.settings import DicomSettings, Modality
from scp.statuses import DUPLICATE_TRANSACTION_UID, RESOURCE_LIMITATION
from scp.storage_commitment import desk as module
from scp.storage_commitment import reporter as reporter_module
from scp.storage_commitment.desk import CommitmentDesk
from scp.storage_commitment.reporter import NotDelivered, Reporter
from scp.storage_commitment.transactions import Failures, Reference, Transaction, Transactions
from scp.store_association import AssociationRefused
from tests.fakes.scp_workers import eventually
from tests.unit.scp.storage_commitment.test_confirmation import CT, Index

REQUEST = Transaction("1.9", (Reference(CT, "1.1"),), "ct", "CT1", "ISEN", time.time())


class Recorder(Reporter):
    """Remembers the reports; fails as often as `fails` says."""

    def __init__(self) -> None:
        self.reports: list[tuple[Transaction, Failures]] = []
        self.fails = 0
        self.tries = 0
        self.on_try: Callable[[], object] = lambda: None

    def deliver(self, transaction: Transaction, failures: Failures) -> None:
        self.tries += 1
        self.on_try()
        if self.fails:
            self.fails -= 1
            raise NotDelivered("away")
        self.reports.append((transaction, dict(failures)))


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_INTERVAL", 0.01)
    monkeypatch.setattr(module, "_FIRST_PAUSE", 0.02)
    monkeypatch.setattr(module, "_LONGEST_PAUSE", 0.05)
    monkeypatch.setattr(module, "_FIRST_ATTEMPTS", (0.0, 0.0))


@pytest.fixture
def index() -> Index:
    return Index({"a": ("1.1", CT)})


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def make(tmp_path: Path, index: Index, recorder: Recorder) -> Iterator[Callable[..., CommitmentDesk]]:
    desks: list[CommitmentDesk] = []

    def made(*, patience: float = 100_000.0, report_patience: float = 100_000.0) -> CommitmentDesk:
        desks.append(
            CommitmentDesk(
                Transactions(tmp_path),
                index,
                recorder,
                supports={CT}.__contains__,
                patience=patience,
                report_patience=report_patience,
            )
        )
        return desks[-1]

    yield made
    for desk in desks:
        desk.stop()


def test_when_one_stops_another_goes_on(tmp_path: Path, make: Any, recorder: Recorder) -> None:
    first, second = make(), make()
    first.start()
    second.start()
    first.stop()
    Transactions(tmp_path).accept(REQUEST)
    eventually(lambda: recorder.reports == [(REQUEST, {})])


def silent(_within: float) -> bool:
    return False


def test_it_is_reported_at_once_while_the_peer_waits(tmp_path: Path, make: Any, recorder: Recorder) -> None:
    transactions, desk = Transactions(tmp_path), make()
    delivered: list[Failures] = []
    desk.answer_at_once(transactions.accept(REQUEST), lambda _, failures: delivered.append(failures), silent)
    assert delivered == [{}]
    assert transactions.names() == []
    assert recorder.tries == 0


def test_a_peer_that_wants_something_else_is_not_disturbed(tmp_path: Path, make: Any, recorder: Recorder) -> None:
    transactions, desk = Transactions(tmp_path), make()
    name = transactions.accept(REQUEST)

    def deliver(*_: object) -> None:
        raise AssertionError("the association is not ours now")

    desk.answer_at_once(name, deliver, lambda _: True)
    assert transactions.names() == [name]
    desk.start()
    eventually(lambda: recorder.reports == [(REQUEST, {})])
    eventually(lambda: transactions.names() == [])


def test_while_one_thread_has_it_no_other_reports_it(tmp_path: Path, make: Any, recorder: Recorder) -> None:
    transactions, desk = Transactions(tmp_path), make()
    name = transactions.accept(REQUEST)
    entered, leave = threading.Event(), threading.Event()

    def deliver(*_: object) -> None:
        entered.set()
        assert leave.wait(10)

    thread = threading.Thread(target=desk.answer_at_once, args=(name, deliver, silent))
    thread.start()
    assert entered.wait(10)
    desk.start()
    time.sleep(0.2)
    assert recorder.tries == 0
    leave.set()
    thread.join()
    eventually(lambda: transactions.names() == [])
    assert recorder.tries == 0


def test_undecided_instances_are_asked_about_until_they_are_decided(
    tmp_path: Path, make: Any, index: Index, recorder: Recorder
) -> None:
    index.states["file-a"] = "pending"
    Transactions(tmp_path).accept(REQUEST)
    make().start()
    eventually(lambda: len(index.asked) > 2)
    assert recorder.tries == 0
    index.is_away = True
    time.sleep(0.1)
    index.is_away = False
    index.states.clear()
    eventually(lambda: recorder.reports == [(REQUEST, {})])


def test_a_report_that_is_repeated_says_the_same(tmp_path: Path, make: Any, index: Index, recorder: Recorder) -> None:
    recorder.fails = 2
    recorder.on_try = index.instances.clear
    Transactions(tmp_path).accept(REQUEST)
    make().start()
    eventually(lambda: recorder.reports == [(REQUEST, {})])


def test_when_patience_ends_what_is_undecided_has_failed(
    tmp_path: Path, make: Any, index: Index, recorder: Recorder
) -> None:
    index.states["file-a"] = "unavailable"
    request = replace(REQUEST, received_at=time.time() - 50)
    Transactions(tmp_path).accept(request)
    make(patience=10.0).start()
    eventually(lambda: recorder.reports == [(request, {"1.1": RESOURCE_LIMITATION})])


def test_a_report_that_nobody_takes_is_given_up(
    tmp_path: Path, make: Any, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    recorder.fails = 1000
    transactions = Transactions(tmp_path)
    transactions.accept(replace(REQUEST, received_at=time.time() - 50))
    make(patience=10.0, report_patience=10.0).start()
    eventually(lambda: transactions.names() == [])
    assert "storage_commitment_not_reported calling_ae_title='CT1' action=give_up" in caplog.text


def test_0131_a_duplicate_is_reported_without_a_look(
    tmp_path: Path, make: Any, index: Index, recorder: Recorder
) -> None:
    transactions = Transactions(tmp_path)
    transactions.finish(transactions.accept(REQUEST))
    transactions.accept(REQUEST)
    make().start()
    duplicate = replace(REQUEST, is_duplicate=True)
    eventually(lambda: recorder.reports == [(duplicate, {"1.1": DUPLICATE_TRANSACTION_UID})])
    assert index.asked == []


def test_a_file_that_is_damaged_does_not_stop_the_others(tmp_path: Path, make: Any, recorder: Recorder) -> None:
    Transactions(tmp_path)
    (tmp_path / "requests" / "0damaged").write_bytes(b"{")
    Transactions(tmp_path).accept(REQUEST)
    make().start()
    eventually(lambda: recorder.reports == [(REQUEST, {})])


def test_a_modality_that_is_away_is_left_alone_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each attempt may take a connection's time-out, and others wait for their reports."""
    attempts: list[str] = []

    def refuse(host: str, *_: object, **__: object) -> None:
        attempts.append(host)
        raise AssociationRefused("cannot connect")

    monkeypatch.setattr(reporter_module, "open_association", refuse)
    monkeypatch.setattr(reporter_module, "_FIRST_PAUSE", 0.1)
    modalities = [Modality(name=name, ae_title=name.upper(), host=name, port=104) for name in ("ct", "mr")]
    reporter = Reporter(DicomSettings(), lambda: modalities)
    for _ in range(3):
        with pytest.raises(NotDelivered):
            reporter.deliver(REQUEST, {})
    with pytest.raises(NotDelivered):
        reporter.deliver(replace(REQUEST, modality="mr"), {})
    assert attempts == ["ct", "mr"]
    time.sleep(0.15)
    with pytest.raises(NotDelivered):
        reporter.deliver(REQUEST, {})
    assert attempts == ["ct", "mr", "ct"]


def test_a_report_goes_to_configured_modalities_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporter_module, "open_association", lambda *_, **__: pytest.fail("it has no address"))
    with pytest.raises(NotDelivered, match="not in DicomModalities"):
        Reporter(DicomSettings(), list).deliver(REQUEST, {})
