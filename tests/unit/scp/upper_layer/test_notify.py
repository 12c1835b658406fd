"""N-EVENT-REPORT of ours on an association that the peer has opened (PS3.7 10.1.1), while the peer goes on asking."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from config.settings import DicomSettings
from scp.request import Peer
from scp.upper_layer.associate import ContextProposal, decode_associate_request
from scp.upper_layer.associate_requestor import encode_associate_request
from scp.upper_layer.association import Association, Outcome
from scp.upper_layer.command_set import encode_command_set
from scp.upper_layer.errors import AssociationEnded
from scp.upper_layer.limits import Limits
from scp.upper_layer.messages import Command, MessageReader
from scp.upper_layer.pdu_stream import HEADER, RELEASE_RQ_PDU, PduStream
from scp.upper_layer.transport import Transport
from tests.fakes.raw_peer import p_data, pdv

LIMITS = replace(Limits.of(DicomSettings()), pdu_timeout=2.0, idle_timeout=2.0)
REPORT = {"AffectedSOPClassUID": "1.2", "CommandField": 0x0100, "AffectedSOPInstanceUID": "1.2.3", "EventTypeID": 1}


class Wire:
    """Both ends of one association: ours dispatches to `served`, the peer's is read and written by the test."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.socket = socket.create_connection(self._listener.getsockname())
        accepted, _ = self._listener.accept()
        self.served: list[Command] = []
        self.nested: list[type[BaseException]] = []
        self.association = Association(
            PduStream(Transport(accepted), pdu_timeout=2.0),
            Peer("CT1", "ISEN", "127.0.0.1", None),
            {},
            extended={},
            peer_maximum_length=0,
            limits=LIMITS,
            dispatch=self._dispatch,
        )
        self.reader = MessageReader(PduStream(Transport(self.socket), pdu_timeout=2.0), LIMITS)
        self.outcome: int | type[BaseException] | None = None

    def _dispatch(self, association: Association, command: Command) -> None:
        self.served.append(command)
        if command.has_data_set:
            association.read_data_set(command, io.BytesIO())
        try:
            association.notify(1, REPORT, io.BytesIO(b"x"))
        except AssociationEnded as ended:
            self.nested.append(type(ended))

    def notify(self) -> threading.Thread:
        """Send a report from a thread; `outcome` is the peer's status or what was raised."""

        def run() -> None:
            try:
                self.outcome = self.association.notify(1, REPORT, io.BytesIO(b"information")).get("Status")
            except AssociationEnded as ended:
                self.outcome = type(ended)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def send(self, fields: dict[str, object], data_set: bytes = b"") -> None:
        fields = {**fields, "CommandDataSetType": 1 if data_set else 0x0101}
        self.socket.sendall(p_data(pdv(1, 3, encode_command_set(fields))))
        if data_set:
            self.socket.sendall(p_data(pdv(1, 2, data_set)))

    def received(self) -> tuple[dict[str, object], bytes]:
        command, data = self.reader.read_command(2), io.BytesIO()
        if command.has_data_set:
            self.reader.read_data_set(command, data)
        return command.fields, data.getvalue()

    def close(self) -> None:
        self.association.stream.transport.close()
        self.socket.close()
        self._listener.close()


@pytest.fixture
def wire() -> Iterator[Wire]:
    made = Wire()
    yield made
    made.close()


def response(message_id: object, status: int = 0) -> dict[str, object]:
    return {"CommandField": 0x8100, "MessageIDBeingRespondedTo": message_id, "Status": status}


def test_the_peers_status_is_returned(wire: Wire) -> None:
    thread = wire.notify()
    fields, information = wire.received()
    assert fields.items() >= REPORT.items()
    assert information == b"information"
    wire.send(response(fields["MessageID"], 0x0110), b"an event reply")
    thread.join(5)
    assert wire.outcome == 0x0110


def test_requests_that_cross_the_report_are_served_first(wire: Wire) -> None:
    """The peer sent them before it could know; one carries a data set."""
    thread = wire.notify()
    fields, _ = wire.received()
    wire.send({"CommandField": 0x0030, "MessageID": 7})
    wire.send({"CommandField": 0x0130, "MessageID": 8}, b"action information")
    wire.send({"CommandField": 0x0FFF, "MessageIDBeingRespondedTo": 7})
    wire.send(response(12345))  # of nothing we have sent
    wire.send(response(fields["MessageID"]))
    thread.join(5)
    assert wire.outcome == 0
    assert [one.fields.get("MessageID") for one in wire.served[:2]] == [7, 8]
    assert wire.nested[:2] == [AssociationEnded] * 2  # no second report meanwhile


def test_a_release_instead_of_a_response_ends_it_in_order(wire: Wire) -> None:
    thread = wire.notify()
    wire.received()
    wire.socket.sendall(RELEASE_RQ_PDU)
    thread.join(5)
    assert isinstance(wire.outcome, type)
    assert issubclass(wire.outcome, AssociationEnded)


def test_what_the_peer_sends_is_noticed_and_left_unread(wire: Wire) -> None:
    assert not wire.association.has_message(0)
    wire.socket.sendall(RELEASE_RQ_PDU)
    assert wire.association.has_message(2)
    assert wire.association.serve(0) is Outcome.FINISHED
    assert wire.socket.recv(10)[0] == 0x06


def test_ps3_7_d_3_3_4_the_requestor_proposes_the_role_it_wants() -> None:
    context = ContextProposal(1, "1.2.840.10008.1.20.1", ("1.2.840.10008.1.2",))
    proposed = encode_associate_request("ISEN", "CT1", [context], 16384, as_scp=True)
    assert decode_associate_request(proposed[HEADER.size :], 512).roles == {"1.2.840.10008.1.20.1": (False, True)}
    plain = encode_associate_request("ISEN", "CT1", [context], 16384)
    assert decode_associate_request(plain[HEADER.size :], 512).roles == {}
