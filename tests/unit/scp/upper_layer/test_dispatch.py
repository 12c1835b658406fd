"""The boundary between messages and services: every way a service can end is one final response or none too many."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from config.settings import DicomSettings
from scp.access_control import AccessControl
from scp.request import Peer, Request, Service
from scp.statuses import CANNOT_UNDERSTAND, OUT_OF_RESOURCES, PENDING, SUCCESS, Refusal
from scp.upper_layer import AssociationEnded, ProtocolViolation
from scp.upper_layer.command_set import CommandSet
from scp.upper_layer.data_set_buffer import MemoryBudget
from scp.upper_layer.dispatch import Dispatcher
from scp.upper_layer.limits import Limits
from scp.upper_layer.messages import Command
from scp.upper_layer.negotiation import NegotiatedContext, _negotiated
from tests.fakes.raw_peer import CT, FIND, IMPLICIT

SETTINGS = DicomSettings(always_allow_find=True)
NAMES = {CT: "C_STORE", FIND: "C_FIND"}


class RecordingAssociation:
    """What the dispatcher uses of an association; answers are kept."""

    def __init__(self) -> None:
        self.peer = Peer("CT1", "ISEN", "192.0.2.1", None)
        self.contexts: dict[int, NegotiatedContext] = {
            1: _negotiated(1, CT, IMPLICIT, is_storage=True, peer_is_scp=False),
            3: _negotiated(3, FIND, IMPLICIT, is_storage=False, peer_is_scp=False),
        }
        self.extended: dict[str, bytes] = {}
        self.limits = Limits.of(SETTINGS)
        self.sent: list[CommandSet] = []

    def read_data_set(self, _command: Command, sink: Any) -> None:
        sink.write(memoryview(b"12345678"))

    def send(self, _context_id: int, command: CommandSet, _data_set: Any = None) -> None:
        self.sent.append(command)


def dispatch(
    serve: Callable[[Request], None], folder: Path, uid: str = CT, **fields: Any
) -> tuple[list[int], Dispatcher, list[CommandSet]]:
    service = Service("C-X", NAMES[uid], "allow_store" if uid == CT else "allow_find", (uid,), serve)  # type: ignore[arg-type]
    access = AccessControl(lambda: SETTINGS)
    budget = MemoryBudget(1000)
    dispatcher = Dispatcher([service], access=access, limits=Limits.of(SETTINGS), folder=folder, budget=budget)
    association = RecordingAssociation()
    command = {"CommandField": 1 if uid == CT else 0x20, "MessageID": 9, "AffectedSOPClassUID": uid, **fields}
    command["CommandDataSetType"] = 1
    try:
        dispatcher.dispatch(association, Command(1 if uid == CT else 3, command))  # type: ignore[arg-type]
    finally:
        assert budget.take(1000)  # nothing is held after the message
    return [one["Status"] for one in association.sent], dispatcher, association.sent


def test_the_answer_of_the_service(tmp_path: Path) -> None:
    def serve(request: Request) -> None:
        assert request.data_set.read() == b"12345678"
        assert request.data_set_length == 8
        request.respond(SUCCESS, ErrorComment="x" * 100)

    statuses, dispatcher, sent = dispatch(serve, tmp_path)
    assert statuses == [SUCCESS]
    assert len(sent[0]["ErrorComment"]) == 64
    assert sent[0]["MessageIDBeingRespondedTo"] == 9
    assert dispatcher.counters() == {"c_x_served": 1}


def test_a_refusal_keeps_its_status(tmp_path: Path) -> None:
    def serve(_request: Request) -> None:
        raise Refusal(0xA900, "does not match")

    assert dispatch(serve, tmp_path)[0] == [0xA900]


@pytest.mark.parametrize(("uid", "status"), [(CT, OUT_OF_RESOURCES), (FIND, CANNOT_UNDERSTAND)])
@pytest.mark.parametrize("error", [RuntimeError("Doe^Jane"), KeyError("Doe^Jane"), RecursionError(), MemoryError()])
def test_any_other_exception_is_a_failure(
    tmp_path: Path, uid: str, status: int, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def serve(_request: Request) -> None:
        raise error

    assert dispatch(serve, tmp_path, uid)[0] == [status]
    assert type(error).__name__ in caplog.text
    assert "Doe" not in caplog.text


def test_a_failure_after_the_final_answer_adds_none(tmp_path: Path) -> None:
    def serve(request: Request) -> None:
        request.respond(SUCCESS)
        raise RuntimeError

    assert dispatch(serve, tmp_path)[0] == [SUCCESS]


def test_a_service_that_forgets_to_answer(tmp_path: Path) -> None:
    """Pending alone is no answer: the peer would wait for ever."""
    assert dispatch(lambda request: request.respond(PENDING), tmp_path, FIND)[0] == [PENDING, CANNOT_UNDERSTAND]


def test_the_end_of_the_association_is_nobodys_failure(tmp_path: Path) -> None:
    def serve(_request: Request) -> None:
        raise AssociationEnded("closed_by_peer")

    with pytest.raises(AssociationEnded):
        dispatch(serve, tmp_path)


def test_a_message_without_an_identifier_of_its_own_cannot_be_answered(tmp_path: Path) -> None:
    with pytest.raises(ProtocolViolation):
        dispatch(lambda _request: None, tmp_path, CommandField=0x8001)
