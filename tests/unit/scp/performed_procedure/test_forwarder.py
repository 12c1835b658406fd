"""Performed procedure steps forwarded to a RIS: durable, in order, until they are taken or refused for good."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from backend.stack.ports import free_port
from config.settings import DicomSettings, Modality
from scp.performed_procedure import forwarder as forwarder_module
from scp.performed_procedure import forwarding as forwarding_module
from scp.performed_procedure.forwarder import PERFORMED_PROCEDURE_STEP, Forwarder, connector_to
from scp.performed_procedure.store import PerformedProcedureSteps, StoredStep
from scp.performed_procedure.worklist_link import WorklistLink
from scp.retrieve.destination import connector
from scp.services.performed_procedure import PerformedProcedureService
from tests.fakes.dimse_request import RecordedRequest
from tests.fakes.performed_steps import creation, ending
from tests.fakes.ris import Ris

PATIENCE = 3600.0
UID = "1.2.3"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarder_module, "_FIRST_PAUSE", 0.0)
    monkeypatch.setattr(forwarding_module, "FIRST_PAUSE", 0.0)


@pytest.fixture
def ris() -> Iterator[Ris]:
    made = Ris(free_port()).start()
    yield made
    made.stop()


@pytest.fixture
def steps(tmp_path: Path) -> PerformedProcedureSteps:
    return PerformedProcedureSteps(tmp_path)


def forwarder(steps: PerformedProcedureSteps, ris: Ris, patience: float = PATIENCE) -> Forwarder:
    modality = Modality(name="ris", ae_title="RIS", host="127.0.0.1", port=ris.port, local_ae_title="MANAGER")
    connect = connector_to("ris", lambda: (modality,), connector(DicomSettings()))
    return Forwarder(steps, connect, "Latin1", patience)


class _Message:
    """What the service reads of a primitive."""

    def __init__(self, uid: str) -> None:
        self.AffectedSOPInstanceUID = self.RequestedSOPInstanceUID = uid


def report(steps: PerformedProcedureSteps, *messages: Dataset, uid: str = UID) -> None:
    """N-CREATE, then N-SETs, by the service."""
    service = PerformedProcedureService(steps, WorklistLink(None, "NOBODY"), forwards=True)
    for number, keys in enumerate(messages):
        request = RecordedRequest(_Message(uid), PERFORMED_PROCEDURE_STEP, keys=keys)
        (service.set if number else service.create)(request)
        assert request.final.status == 0


def step(steps: PerformedProcedureSteps, uid: str = UID) -> StoredStep:
    found = steps.get(uid)
    assert found
    assert found.forwarding
    return found


def state(steps: PerformedProcedureSteps, uid: str = UID) -> str:
    forwarding = step(steps, uid).forwarding
    assert forwarding
    return forwarding.state


def operations(ris: Ris, uid: str = UID) -> list[str]:
    return [operation for operation, _ in ris.of(uid)]


def test_f_7_2_a_step_is_told_as_the_modality_has_told_it(steps: PerformedProcedureSteps, ris: Ris) -> None:
    report(steps, creation(), ending())
    forwarder(steps, ris).run_once()
    assert operations(ris) == ["N-CREATE", "N-SET"]
    (_, created), (_, ended) = ris.of(UID)
    assert str(created.PatientName) == "Müller^Jörg"
    assert created.ScheduledStepAttributesSequence[0].ScheduledProcedureStepID == "SPS1"
    assert ended.PerformedProcedureStepStatus == "COMPLETED"
    assert ended.PerformedSeriesSequence[0].ProtocolName == "Schädel"
    assert "PatientName" not in ended
    assert set(ris.callers) == {"MANAGER"}
    assert state(steps) == "Forwarded"
    assert steps.outgoing() == []


def test_nothing_is_sent_twice(steps: PerformedProcedureSteps, ris: Ris) -> None:
    report(steps, creation())
    sender = forwarder(steps, ris)
    for _ in range(3):
        sender.run_once()
    assert operations(ris) == ["N-CREATE"]


def test_what_is_owed_survives_a_restart(steps: PerformedProcedureSteps, ris: Ris, tmp_path: Path) -> None:
    ris.stop()
    report(steps, creation(), ending("DISCONTINUED"))
    forwarder(steps, ris).run_once()
    ris.start()
    forwarder(PerformedProcedureSteps(tmp_path), ris).run_once()
    assert operations(ris) == ["N-CREATE", "N-SET"]
    assert state(steps) == "Forwarded"


def test_a_peer_that_is_away_is_left_alone_for_growing_pauses(
    steps: PerformedProcedureSteps, ris: Ris, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwarder_module, "_FIRST_PAUSE", 100.0)
    ris.stop()
    report(steps, creation())
    sender = forwarder(steps, ris)
    sender.run_once()
    ris.start()
    read: list[str] = []
    with monkeypatch.context() as patched:  # what is owed is not even read: it may be a lot, twice a second
        patched.setattr(PerformedProcedureSteps, "named", lambda _self, name: read.append(name))
        sender.run_once()
    assert read == []
    assert operations(ris) == []
    assert state(steps) == "Pending"
    assert sender._away_until - time.monotonic() > 90


def test_an_answer_that_was_lost_is_recognized_when_the_message_is_repeated(
    steps: PerformedProcedureSteps, ris: Ris
) -> None:
    """The peer has taken N-CREATE, then N-SET, and each time the association broke before its answer."""
    report(steps, creation(), ending())
    sender = forwarder(steps, ris)
    ris.aborts = 1
    sender.run_once()
    assert state(steps) == "Pending"
    ris.answer = lambda operation, _uid, _attributes: 0x0111 if operation == "N-CREATE" else 0x0000
    ris.aborts = 0
    original = ris.answer

    def lose_the_first_set(operation: str, uid: str, attributes: Dataset) -> int:
        if operation == "N-SET":
            ris.answer = lambda _operation, _uid, _attributes: 0xA710
            return 0x0213
        return original(operation, uid, attributes)

    ris.answer = lose_the_first_set
    sender.run_once()
    sender.run_once()
    assert operations(ris) == ["N-CREATE", "N-CREATE", "N-SET", "N-SET"]
    assert state(steps) == "Forwarded"


@pytest.mark.parametrize("status", [0x0106, 0x0117, 0x0120, 0x0121])
def test_a_step_whose_n_create_is_refused_for_good_is_not_told_any_more(
    steps: PerformedProcedureSteps, ris: Ris, status: int
) -> None:
    ris.answer = lambda _operation, _uid, _attributes: status
    report(steps, creation())
    sender = forwarder(steps, ris)
    sender.run_once()
    service = PerformedProcedureService(steps, WorklistLink(None, "NOBODY"), forwards=True)
    request = RecordedRequest(_Message(UID), PERFORMED_PROCEDURE_STEP, keys=ending())
    service.set(request)
    assert request.final.status == 0
    sender.run_once()
    assert operations(ris) == ["N-CREATE"]
    assert state(steps) == "Refused"
    forwarding = step(steps).forwarding
    assert forwarding
    assert forwarding.reason == f"N-CREATE: status 0x{status:04X}"
    assert (steps._folder.directory / "refused").exists()


def test_an_n_set_that_is_refused_for_good_does_not_hold_up_the_next(steps: PerformedProcedureSteps, ris: Ris) -> None:
    between = Dataset()
    between.PerformedProcedureStepDescription = "Between"
    ris.answer = lambda _operation, _uid, attributes: 0x0106 if len(attributes) < 3 else 0x0000
    report(steps, creation(), between, ending())
    forwarder(steps, ris).run_once()
    assert operations(ris) == ["N-CREATE", "N-SET", "N-SET"]
    assert state(steps) == "Refused"  # of one message; the others were taken
    assert steps.outgoing() == []


@pytest.mark.parametrize("status", [0x0110, 0x0213, 0x0124, 0xC000])
def test_what_may_be_taken_later_is_repeated_in_order(steps: PerformedProcedureSteps, ris: Ris, status: int) -> None:
    report(steps, creation(), ending())
    ris.answer = lambda _operation, _uid, _attributes: status
    sender = forwarder(steps, ris)
    sender.run_once()
    assert operations(ris) == ["N-CREATE"]
    ris.answer = lambda _operation, _uid, _attributes: 0x0000
    sender.run_once()
    assert operations(ris) == ["N-CREATE", "N-CREATE", "N-SET"]
    assert state(steps) == "Forwarded"


def test_one_step_that_must_wait_does_not_hold_up_others(steps: PerformedProcedureSteps, ris: Ris) -> None:
    ris.answer = lambda _operation, uid, _attributes: 0x0213 if uid == UID else 0x0000
    report(steps, creation())
    report(steps, creation(), ending(), uid="1.2.4")
    forwarder(steps, ris).run_once()
    assert (state(steps), state(steps, "1.2.4")) == ("Pending", "Forwarded")


@pytest.mark.parametrize("is_away", [True, False])
def test_after_too_long_it_is_given_up_and_said(steps: PerformedProcedureSteps, ris: Ris, is_away: bool) -> None:
    report(steps, creation())
    ris.answer = lambda _operation, _uid, _attributes: 0x0110
    if is_away:
        ris.stop()
    forwarder(steps, ris, patience=0.0).run_once()
    assert state(steps) == "Refused"
    assert steps.outgoing() == []


def test_warnings_are_successes(steps: PerformedProcedureSteps, ris: Ris) -> None:
    ris.answer = lambda _operation, _uid, _attributes: 0x0107
    report(steps, creation(), ending())
    forwarder(steps, ris).run_once()
    assert state(steps) == "Forwarded"


def test_a_modality_that_was_taken_out_of_the_configuration_may_come_back(
    steps: PerformedProcedureSteps, ris: Ris
) -> None:
    report(steps, creation())
    nobody = Forwarder(steps, connector_to("ris", lambda: (), connector(DicomSettings())), "Latin1", PATIENCE)
    nobody.run_once()
    assert state(steps) == "Pending"
    forwarder(steps, ris).run_once()
    assert state(steps) == "Forwarded"


def test_without_the_option_nothing_is_kept_for_anybody(steps: PerformedProcedureSteps) -> None:
    service = PerformedProcedureService(steps, WorklistLink(None, "NOBODY"))
    service.create(RecordedRequest(_Message(UID), PERFORMED_PROCEDURE_STEP, keys=creation()))
    found = steps.get(UID)
    assert found
    assert found.forwarding is None
    assert steps.outgoing() == []
