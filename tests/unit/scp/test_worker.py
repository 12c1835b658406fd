"""A worker's life, in real processes: readiness, draining, limits shared by several, access, and the parent's death."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, build_role, evt
from pynetdicom.pdu_primitives import SOPClassExtendedNegotiation, UserIdentityNegotiation

from scp.upper_layer.associate import ContextProposal
from scp.upper_layer.associate_requestor import decode_associate_accept, encode_associate_request
from tests.fakes.raw_peer import CONTEXTS, CT, EXPLICIT, FIND, GET, ID, IMPLICIT, MPPS, VERIFICATION, RawPeer, message
from tests.fakes.scp_workers import WorkerProcess, Workers, eventually, workers

LIMIT_EXCEEDED = (3, b"\x00\x02\x03\x02")  # A-ASSOCIATE-RJ: transient, presentation related, local limit exceeded
QUERY = {"CommandField": 0x20, "AffectedSOPClassUID": FIND, "Priority": 0}


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    with workers(tmp_path_factory.mktemp("spool")) as running:
        yield running


def identifier(count: int, pause: str = "") -> bytes:
    """A query for `_find` of the sink worker, Explicit VR Little Endian."""
    value = str(count).encode()
    value += b" " * (len(value) % 2)
    encoded = struct.pack("<HH2sH", 0x10, 0x20, b"LO", len(value)) + value
    if pause:
        name = pause.encode() + b" " * (len(pause) % 2)
        encoded = struct.pack("<HH2sH", 0x10, 0x10, b"PN", len(name)) + name + encoded
    return encoded


def states(worker: WorkerProcess) -> Any:
    return worker.report.get("State")


def test_echo_store_find_on_one_association(group: Workers) -> None:
    with RawPeer(group.port).established() as peer:
        assert peer.echo() == 0
        assert peer.store(b"abcd" * 5000, pdu=128)["ErrorComment"].startswith("20000 ")
        peer.request(ID[FIND], QUERY, identifier(3))
        answers = [peer.response() for _ in range(4)]
        assert [answer["Status"] for answer, _ in answers] == [0xFF00] * 3 + [0]
        assert answers[0][1]
        peer.release()


def test_data_set_in_a_file_is_whole(group: Workers) -> None:
    """Beyond DataSetMemory it goes to an unnamed file; the digest is that of what was sent."""
    data = os.urandom(9_000_001) + b"\0"
    with RawPeer(group.port).established() as peer:
        assert peer.store(data)["ErrorComment"] == f"{len(data)} {hashlib.sha256(data).hexdigest()[:32]}"
        peer.release()


def test_cancel_while_a_service_runs(group: Workers) -> None:
    """C-CANCEL is seen by `Request.is_cancelled` within moments; the association goes on."""
    with RawPeer(group.port).established() as peer:
        peer.request(ID[FIND], QUERY, identifier(1000, "0.05"))
        assert peer.response()[0]["Status"] == 0xFF00
        start = time.monotonic()
        peer.request(ID[FIND], {"CommandField": 0x0FFF, "MessageIDBeingRespondedTo": peer.message_id})
        while (status := peer.response()[0]["Status"]) == 0xFF00:
            pass
        assert status == 0xFE00
        assert time.monotonic() - start < 0.5
        assert peer.echo() == 0
        peer.release()


def test_late_cancel_is_ignored(group: Workers) -> None:
    with RawPeer(group.port).established() as peer:
        peer.request(ID[FIND], {"CommandField": 0x0FFF, "MessageIDBeingRespondedTo": 77})
        assert peer.echo() == 0
        peer.release()


def test_peer_leaves_while_a_service_runs(group: Workers) -> None:
    """The service hears of it through `is_cancelled` and ends."""
    peer = RawPeer(group.port).established()
    peer.request(ID[FIND], QUERY, identifier(1000, "30"))
    time.sleep(0.1)
    peer.sock.close()
    eventually(lambda: group.associations() == 0)


@pytest.mark.parametrize(
    ("context", "fields", "status"),
    [
        (VERIFICATION, {"CommandField": 0x20, "AffectedSOPClassUID": VERIFICATION}, 0x0211),
        (VERIFICATION, {"CommandField": 0x77, "AffectedSOPClassUID": VERIFICATION}, 0x0211),
        (VERIFICATION, {"CommandField": 0x30, "AffectedSOPClassUID": CT}, 0x0122),
        (CT, {"CommandField": 0x01, "AffectedSOPClassUID": "1.2.3"}, 0x0122),
        (MPPS, {"CommandField": 0x0150, "RequestedSOPClassUID": MPPS}, 0x0211),
    ],
)
def test_what_is_not_offered_gets_a_status(group: Workers, context: str, fields: dict[str, Any], status: int) -> None:
    """PS3.7 9.1 and Annex C: no abort, the association goes on."""
    with RawPeer(group.port).established() as peer:
        peer.request(ID[context], fields, b"1234")
        response, _ = peer.response()
        assert response["Status"] == status
        assert response["CommandField"] == fields["CommandField"] | 0x8000
        assert response["MessageIDBeingRespondedTo"] == 1
        assert peer.echo() == 0
        peer.release()


def test_c_get_sends_on_the_same_association(group: Workers) -> None:
    """Sub-operations need the SCP role of the requestor; without it there is no suitable context."""
    received: list[int] = []

    def handle(event: Any) -> int:
        received.append(len(event.request.DataSet.getvalue()))
        return 0

    client = AE()
    client.add_requested_context(GET, EXPLICIT)
    client.add_requested_context(CT, EXPLICIT)
    query = Dataset()
    query.PatientID = "3"
    association = client.associate(
        "127.0.0.1", group.port, ext_neg=[build_role(CT, scp_role=True)], evt_handlers=[(evt.EVT_C_STORE, handle)]
    )
    assert association.is_established
    statuses = [status.Status for status, _ in association.send_c_get(query, GET)]
    association.release()
    assert statuses == [0xFF00, 0xFF00, 0xFF00, 0]
    assert received == [300016] * 3


def test_extended_negotiation_is_answered(group: Workers) -> None:
    """The service's `negotiate` sees the requestor's bytes; its answer travels in the A-ASSOCIATE-AC."""
    item = SOPClassExtendedNegotiation()
    item.sop_class_uid = FIND
    item.service_class_application_information = b"\x01\x01\x01"
    client = AE()
    client.add_requested_context(FIND, IMPLICIT)
    association = client.associate("127.0.0.1", group.port, ext_neg=[item])
    assert association.acceptor.sop_class_extended == {FIND: b"\x01"}
    association.release()


def test_access_control(tmp_path: Path) -> None:
    """Unknown callers are rejected when nothing is open to all; a refused service gets 0124."""
    closed = {f"AlwaysAllow{name}": False for name in ("Echo", "Store", "Find", "Get")}
    modalities = [{"Name": "ct", "AeTitle": "CT1", "Host": "127.0.0.1", "Port": 104, "AllowFind": False}]
    with workers(tmp_path, CheckCalledAet=True, AeTitle="ISEN", Modalities=modalities, **closed) as running:
        with RawPeer(running.port) as peer:
            assert peer.associate(calling="OTHER") == (3, b"\x00\x01\x01\x03")
        with RawPeer(running.port) as peer:
            assert peer.associate(calling="CT1", called="WRONG") == (3, b"\x00\x01\x01\x07")
        with RawPeer(running.port).established(calling="ct1", called="isen") as peer:
            assert peer.echo() == 0
            peer.request(ID[FIND], QUERY, identifier(1))
            assert peer.response()[0]["Status"] == 0x0124
            assert peer.store(b"1234")["Status"] == 0
            peer.release()


def test_required_user_identity(tmp_path: Path) -> None:
    """PS3.7 D.3.3.7: missing or wrong is rejected; right is confirmed when a response is asked for."""
    client = AE()
    client.add_requested_context(VERIFICATION)
    with workers(tmp_path, UserIdentityRequired=True, UserIdentities={"reader": "secret"}) as running:
        with RawPeer(running.port) as peer:
            assert peer.associate() == (3, b"\x00\x01\x02\x01")
        for passcode, accepted in ((b"wrong", False), (b"secret", True)):
            item = UserIdentityNegotiation()
            item.user_identity_type = 2
            item.primary_field, item.secondary_field = b"reader", passcode
            item.positive_response_requested = True
            association = client.associate("127.0.0.1", running.port, ext_neg=[item])
            assert association.is_established is accepted
            association.release()
        assert "secret" not in running[0].log()


def test_limits_hold_over_all_workers(tmp_path: Path) -> None:
    """Two workers share four associations: the fifth is rejected, and one that ends makes room again."""
    with workers(tmp_path, count=2, MaximumAssociations=4) as running:
        peers = [RawPeer(running.port).established() for _ in range(4)]
        with RawPeer(running.port) as fifth:
            assert fifth.associate() == LIMIT_EXCEEDED
        eventually(lambda: [w.report["Associations"] for w in running.workers] == [2, 2])
        peers.pop().release()
        eventually(lambda: sum(w.report["Associations"] for w in running.workers) == 3)
        peers.append(RawPeer(running.port).established())
        assert all(peer.echo() == 0 for peer in peers)
        for peer in peers:
            peer.release()


@pytest.mark.parametrize("setting", ["MaximumAssociationsPerAddress", "MaximumAssociationsPerAeTitle"])
def test_limit_per_peer(tmp_path: Path, setting: str) -> None:
    with workers(tmp_path, count=2, **{setting: 2}) as running:
        peers = [RawPeer(running.port).established() for _ in range(2)]
        with RawPeer(running.port) as third:
            assert third.associate(calling="PEER") == LIMIT_EXCEEDED
        other = RawPeer(running.port)
        assert other.associate(calling="OTHER")[0] == (3 if setting.endswith("Address") else 2)
        other.sock.close()
        for peer in peers:
            peer.release()


def test_sigterm_finishes_what_is_under_way(tmp_path: Path) -> None:
    """A running C-FIND is answered to its end, an idle association is aborted, then the worker exits with 0."""
    with workers(tmp_path) as running:
        idle = RawPeer(running.port).established()
        busy = RawPeer(running.port).established()
        busy.request(ID[FIND], QUERY, identifier(5, "0.1"))
        assert busy.response()[0]["Status"] == 0xFF00
        running[0].process.send_signal(signal.SIGTERM)
        assert idle.receive()[0] == 7
        assert [busy.response()[0]["Status"] for _ in range(5)] == [0xFF00] * 4 + [0]
        assert busy.receive()[0] == 7
        busy.sock.close()
        idle.sock.close()
        assert running[0].process.wait(5) == 0


def test_a_connection_from_before_the_drain_still_associates(tmp_path: Path) -> None:
    """Its A-ASSOCIATE-RQ was on its way; rejecting it would make a rolling restart visible."""
    request = encode_associate_request("PEER", "ISEN", CONTEXTS, 65536)
    with workers(tmp_path) as running, RawPeer(running.port) as peer:
        peer.send(request[:100])
        eventually(lambda: running[0].report.get("Connections") == 1)
        running[0].process.send_signal(signal.SIGTERM)
        time.sleep(0.2)  # the signal has arrived, and the second it leaves such a connection is not over
        peer.send(request[100:])
        assert peer.receive()[0] == 2
        assert peer.echo() == 0
        peer.release()
        assert running[0].process.wait(5) == 0


def test_drain_has_a_deadline(tmp_path: Path) -> None:
    with workers(tmp_path, DrainTimeout=0.5) as running:
        busy = RawPeer(running.port).established()
        busy.request(ID[FIND], QUERY, identifier(1000, "0.1"))
        busy.response()  # it is being answered, for a hundred seconds
        start = time.monotonic()
        running[0].send({"Command": "drain"})
        assert running[0].process.wait(20) == 0
        assert time.monotonic() - start >= 0.5
        busy.sock.close()


def test_rolling_restart_refuses_nobody(tmp_path: Path) -> None:
    """A new worker takes over while the old one drains, with echoes all the time."""
    failures: list[BaseException] = []
    served = [0]
    stop = threading.Event()

    def client() -> None:
        while not stop.is_set():
            try:
                with RawPeer(running.port).established() as peer:
                    assert peer.echo() == 0
                    peer.release()
                served[0] += 1
            except (OSError, AssertionError) as error:
                failures.append(error)

    with workers(tmp_path, count=2) as running:
        threads = [threading.Thread(target=client) for _ in range(3)]
        for thread in threads:
            thread.start()
        for index in range(2):
            new = running.start(index)
            new.wait_for(lambda w: any(event["Event"] == "ready" for event in w.events))
            new.send({"Command": "accept"})
            new.wait_for(lambda w: states(w) == "accepting")
            old, running.workers[index] = running.workers[index], new
            old.process.send_signal(signal.SIGTERM)
            assert old.process.wait(10) == 0
            old.stop()
        time.sleep(0.5)
        stop.set()
        for thread in threads:
            thread.join()
    assert served[0] > 20
    assert [repr(failure) for failure in failures] == []


def test_worker_that_grew_too_large_ends_itself(tmp_path: Path) -> None:
    """MaximumWorkerMemory: drain, exit code 0; the parent starts another."""
    with workers(tmp_path, MaximumWorkerMemory=1024 * 1024) as running:
        assert running[0].process.wait(10) == 0
        assert "worker_recycled" in running[0].log()


def test_end_of_the_parent_ends_the_worker_at_once(tmp_path: Path) -> None:
    """Even with an operation under way: nobody is left to start another."""
    with workers(tmp_path) as running:
        busy = RawPeer(running.port).established()
        busy.request(ID[FIND], QUERY, identifier(1, "60"))
        time.sleep(0.2)
        assert running[0].process.stdin
        running[0].process.stdin.close()
        start = time.monotonic()
        running[0].process.wait(5)
        assert time.monotonic() - start < 1
        busy.sock.close()


def test_death_of_one_worker_leaves_the_listener_to_the_other(tmp_path: Path) -> None:
    """Its associations are lost; connections that wait are served by the other."""
    with workers(tmp_path, count=2) as running:
        running[0].process.kill()
        running[0].process.wait()
        for _ in range(20):
            with RawPeer(running.port).established() as peer:
                assert peer.echo() == 0
                peer.release()


def test_it_accepts_only_when_told(tmp_path: Path) -> None:
    """Before `accept` connections wait in the backlog: Orthanc's REST API is not up yet."""
    with workers(tmp_path, count=1) as running:
        waiting = running.start(0)
        waiting.wait_for(lambda w: states(w) == "ready")
        running[0].process.kill()
        running[0].process.wait()
        peer = RawPeer(running.port, timeout=0.5)
        with pytest.raises(TimeoutError):
            peer.associate()
        waiting.send({"Command": "accept"})
        peer.sock.settimeout(5)
        assert peer.receive()[0] == 2
        peer.sock.close()
        waiting.stop()


def test_bad_certificate_is_refused_with_a_sentence(tmp_path: Path) -> None:
    """Exit code 78 and a reason, so that the plugin does not try again for ever."""
    missing = str(tmp_path / "missing.crt")
    group = None
    try:
        group = Workers(
            tmp_path, 1, "tests.fakes.sink_worker", {"Tls": {"Certificate": missing, "PrivateKey": missing}}
        )
        assert group[0].process.wait(5) == 78
        assert any("DicomTlsCertificate" in event.get("Reason", "") for event in group[0].events)
    finally:
        if group:
            group.close()


def test_accepted_sockets_do_not_wait_for_acknowledgements(group: Workers) -> None:
    """A sender with Nagle on holds its second small segment back until our ACK: delayed, it takes 40 ms a round."""
    peer = RawPeer(group.port)
    peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
    peer.established()
    rounds = []
    fields = {"CommandField": 1, "MessageID": 1, "AffectedSOPClassUID": CT, "AffectedSOPInstanceUID": "1.2"}
    for _ in range(60):
        start = time.monotonic()
        for part in message(ID[CT], {**fields, "CommandDataSetType": 1}, b"x" * 10):
            peer.send(part)
        peer.response()
        rounds.append(time.monotonic() - start)
    # the kernel acknowledges a new connection's segments at once, and a busy machine makes some rounds slow
    assert sorted(rounds[20:])[10] < 0.03
    peer.release()


def test_no_contexts_is_acknowledged_as_orthanc_does(group: Workers) -> None:
    with RawPeer(group.port) as peer:
        kind, body = peer.associate([ContextProposal(1, "1.2.3.4", (IMPLICIT,))])
        assert kind == 2
        assert decode_associate_accept(body).transfer_syntaxes == {}
        peer.release()
