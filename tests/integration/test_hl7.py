"""HL7 orders sent over MLLP to a real Orthanc with Isen, found by DCMTK's findscu, and not lost by any crash."""

from __future__ import annotations

import os
import signal
import socket
import threading
from pathlib import Path

import pytest

from backend.stack.orthanc import NotStarted
from backend.stack.ports import free_port
from backend.stack.processes import wait_until
from tests.fakes.hl7_orders import Sender, code_of, omi, orm
from tests.integration.harness import Node, NodeMaker

STEP = "ScheduledProcedureStepSequence[0]"


def start(make_node: NodeMaker, folder: Path, port: int = 0) -> tuple[Node, int]:
    port = port or free_port()
    changes = {
        "Isen": {
            "Worklists": {"Directory": None, "ManagedDirectory": str(folder / "managed")},
            "Hl7": {"Enabled": True, "Port": port, "BindAddress": "127.0.0.1"},
        }
    }
    return make_node(changes).start(), port


def found(node: Node, *keys: str) -> list[str]:
    answer = node.peer.find("PatientName", "PatientID", "AccessionNumber", *keys, model="-W")
    assert answer.statuses[-1] == 0, answer.output
    return sorted(str(one.AccessionNumber) for one in answer.data_sets)


def test_an_order_is_placed_changed_and_cancelled(make_node: NodeMaker, tmp_path: Path) -> None:
    node, port = start(make_node, tmp_path)
    with Sender(port) as ris:
        assert code_of(ris.send(orm())) == "AA"
        assert found(node, f"{STEP}.Modality=CT", f"{STEP}.ScheduledProcedureStepStartDate=20240229") == ["ACC1"]
        assert code_of(ris.send(orm(control="XO", start="20240301"))) == "AA"
        assert found(node, f"{STEP}.ScheduledProcedureStepStartDate=20240229") == []
        assert found(node, f"{STEP}.ScheduledProcedureStepStartDate=20240301") == ["ACC1"]
        assert code_of(ris.send(omi())) == "AA"
        assert found(node, f"{STEP}.ScheduledStationAETitle=MR1") == ["ACC9", "ACC9"]
        assert code_of(ris.send(orm(control="CA", status="CA"))) == "AA"
        assert found(node, f"{STEP}.Modality=CT") == []
        assert code_of(ris.send("this is no HL7")) == "AR"
    assert len(list((tmp_path / "managed" / "rejected").iterdir())) == 1
    assert [process["Name"] for process in node.status()["Processes"]] == ["worklists", "hl7"]
    wait_until(
        lambda: b"isen_hl7_rejected_total 1" in node.orthanc.get("/tools/metrics-prometheus"), 20, "the metrics show it"
    )
    log = node.orthanc.log.read_text()
    assert "hl7_message_rejected" in log
    assert not any(name in log for name in ("Muster", "Yamada", "ACC1", "ACC9"))


def test_orthanc_does_not_start_without_the_port_or_the_folder(make_node: NodeMaker, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(NotStarted) as refused:
        start(make_node, tmp_path, taken.getsockname()[1])
    assert "Isen.Hl7: cannot listen on 127.0.0.1 port" in refused.value.log
    (tmp_path / "managed").rename(tmp_path / "was")
    (tmp_path / "managed").touch()
    with pytest.raises(NotStarted) as refused:
        start(make_node, tmp_path)
    assert "Isen.Worklists.ManagedDirectory:" in refused.value.log


def test_kills_of_the_listener_and_of_orthanc_lose_nothing_that_was_acknowledged(
    make_node: NodeMaker, tmp_path: Path
) -> None:
    node, port = start(make_node, tmp_path)
    acknowledged: list[str] = []
    stop = threading.Event()

    def send() -> None:
        """As interface engines do: the same message again until it is answered."""
        number = 0
        while not stop.is_set():
            message = orm(f"PL{number}", accession=f"A{number}", step=f"S{number}", control_id=f"C{number}")
            try:
                with Sender(port) as ris:
                    while not stop.is_set():
                        if code_of(ris.send(message)) == "AA":
                            acknowledged.append(f"A{number}")
                        number += 1
                        message = orm(f"PL{number}", accession=f"A{number}", step=f"S{number}", control_id=f"C{number}")
            except (OSError, StopIteration):
                stop.wait(0.05)

    ris = threading.Thread(target=send, daemon=True)
    ris.start()
    for kills in range(1, 4):
        enough = len(acknowledged) + 20
        wait_until(lambda enough=enough: len(acknowledged) >= enough, 30, "more orders are acknowledged")
        os.kill(node.child("scp.hl7"), signal.SIGKILL)
        wait_until(lambda kills=kills: node.status()["Processes"][1]["Restarts"] == kills, 30, "it is started again")
    node.orthanc.kill()
    stop.set()
    ris.join(30)
    node.wait_for_the_end()
    node.start()
    answers = found(node, f"{STEP}.ScheduledProcedureStepStartDate=20240229")
    assert len(answers) == len(set(answers))  # repeated messages made nothing twice
    assert set(acknowledged) <= set(answers)
    assert len(acknowledged) >= 60
