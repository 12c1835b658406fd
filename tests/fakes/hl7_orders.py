"""HL7 orders as a RIS sends them, about made-up patients, and a sender that speaks MLLP."""

from __future__ import annotations

import socket
import ssl
from itertools import count
from types import TracebackType
from typing import Self

_numbers = count(1)


def msh(
    kind: str, version: str, *, control_id: str | None = None, character_set: str = "UNICODE UTF-8", **more: str
) -> str:
    control_id = f"M{next(_numbers)}" if control_id is None else control_id
    accept, application = more.get("accept", ""), more.get("application", "")
    return (
        rf"MSH|^~\&|RIS|WARD|ISEN|PACS|20240229080000||{kind}|{control_id}|P|{version}|||{accept}|{application}||"
        f"{character_set}"
    )


def orm(order: str = "PL1", control: str = "NW", status: str = "SC", **fields: str) -> str:
    """ORM^O01 with one order; `fields` replace single parts."""
    f = {
        "name": "Muster^Jürgen^M^Jr^Dr^PhD",
        "patient_id": "P1^^^HOSP",
        "birth": "19700102",
        "sex": "M",
        "accession": "ACC1",
        "procedure": "RP1",
        "step": "SPS1",
        "modality": "CT",
        "start": "202402291030",
        "station": "CT1",
        "study": "1.2.3.4",
        "version": "2.3.1",
        **fields,
    }
    obr = ["OBR", "1", "", "", "CODE^CT head^99L^PROT^CT head native^99P"] + [""] * 40
    obr[16], obr[18], obr[19], obr[20] = "77^Request^Reno", f["accession"], f["procedure"], f["step"]
    obr[12], obr[13], obr[24], obr[30], obr[31] = "^Stable", "Allergic", f["modality"], "WALK", "^Head ache"
    obr[34], obr[44] = "88&Perform&Paul", "RPC^Head^99L"
    orc = (
        ["ORC", control, f"{order}^RIS", f"F{order}^RIS", "", status, "", f"^^^{f['start']}^^S"]
        + [""] * 10
        + [f["station"]]
    )
    segments = [
        msh(
            "ORM^O01",
            f["version"],
            **{k: v for k, v in fields.items() if k in ("control_id", "character_set", "accept", "application")},
        ),
        f"PID|1||{f['patient_id']}||{f['name']}||{f['birth']}|{f['sex']}||||||||||ADM1",
        "PV1|1|I|Ward 3|||||99^Refer^Rita|||||||B6||||ADM2",
        "|".join(orc),
        "|".join(obr).rstrip("|"),
        f"ZDS|{f['study']}^Isen^Application^DICOM" if f["study"] else "NTE|1||no study yet",
    ]
    return "\r".join(segments) + "\r"


def omi(order: str = "PL9", control: str = "NW", steps: tuple[str, ...] = ("S1", "S2"), study: str = "1.2.3.9") -> str:
    """OMI^O23 with a step for each of `steps`."""
    segments = [
        msh("OMI^O23^OMI_O23", "2.5.1"),
        "PID|1||P9^^^HOSP||Yamada^Tarou^^^^^L^A~山田^太郎^^^^^L^I||19800101|F",
        f"ORC|{control}|{order}^RIS|F9^RIS||SC",
        "TQ1|1||||||20240301083000+0100||R",
        f"OBR|1|{order}^RIS||CODE^MR knee^99L",
        *(f"IPC|ACC9|RP9|{study}|{step}|MR|PROT^MR knee native^99P|Scanner|Room 2|MR1" for step in steps),
    ]
    return "\r".join(segments) + "\r"


class Sender:
    """One MLLP connection."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        if tls:
            self._socket = tls.wrap_socket(self._socket, server_hostname="127.0.0.1")
        self._received = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def send(self, message: str | bytes) -> str:
        """Send one message and wait for its answer."""
        content = message.encode() if isinstance(message, str) else message
        self.send_bytes(b"\x0b" + content + b"\x1c\r")
        return self.receive()

    def send_bytes(self, content: bytes) -> None:
        self._socket.sendall(content)

    def receive(self) -> str:
        """One answer; empty when the connection has been closed."""
        while b"\x1c\r" not in self._received:
            chunk = self._socket.recv(4096)
            if not chunk:
                return ""
            self._received += chunk
        answer, _, self._received = self._received.partition(b"\x1c\r")
        assert answer.startswith(b"\x0b")
        return answer[1:].decode()


def code_of(answer: str) -> str:
    """MSA-1."""
    return next(line for line in answer.split("\r") if line.startswith("MSA")).split("|")[1]
