"""A DICOM peer made of bare sockets, which can do right and everything else."""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Sequence
from typing import Any, Self

from scp.upper_layer.associate import ContextProposal
from scp.upper_layer.associate_requestor import decode_associate_accept, encode_associate_request
from scp.upper_layer.command_set import decode_command_set, encode_command_set

VERIFICATION = "1.2.840.10008.1.1"
CT = "1.2.840.10008.5.1.4.1.1.2"
FIND = "1.2.840.10008.5.1.4.1.2.2.1"
GET = "1.2.840.10008.5.1.4.1.2.2.3"
MPPS = "1.2.840.10008.3.1.2.3.3"
IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
CONTEXTS = [
    ContextProposal(2 * n + 1, uid, (EXPLICIT, IMPLICIT)) for n, uid in enumerate((VERIFICATION, CT, FIND, GET, MPPS))
]
ID = {context.abstract_syntax: context.context_id for context in CONTEXTS}


class RawPeer:
    """One connection. Times out after `timeout` seconds without an answer, so that no test hangs."""

    def __init__(self, port: int, timeout: float = 10.0, tls: ssl.SSLContext | None = None) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            self.sock = tls.wrap_socket(self.sock, server_hostname="127.0.0.1")
        self.message_id = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def receive(self) -> tuple[int, bytes]:
        """The next PDU: type and body; (0, b"") when the connection was closed."""
        header = self._exactly(6)
        if len(header) < 6:
            return 0, b""
        kind, length = struct.unpack(">BxL", header)
        return kind, self._exactly(length)

    def associate(
        self, contexts: Sequence[ContextProposal] = CONTEXTS, *, calling: str = "PEER", called: str = "ISEN"
    ) -> tuple[int, bytes]:
        self.send(encode_associate_request(calling, called, contexts, 65536))
        return self.receive()

    def established(self, **options: Any) -> Self:
        kind, body = self.associate(**options)
        assert kind == 2, (kind, body)
        decode_associate_accept(body)
        return self

    def request(self, context_id: int, fields: dict[str, Any], data: bytes | None = None, pdu: int = 65536) -> None:
        self.message_id += 1
        command = {"MessageID": self.message_id, "CommandDataSetType": 0x0101 if data is None else 1, **fields}
        self.send(b"".join(message(context_id, command, data, pdu)))

    def response(self) -> tuple[dict[str, Any], bytes]:
        """The command set and data set of the next message."""
        command, data, has_data = b"", b"", None
        while has_data is None or has_data:
            kind, body = self.receive()
            assert kind == 4, (kind, body)
            while body:
                length, _, control = struct.unpack_from(">LBB", body)
                value, body = body[6 : 4 + length], body[4 + length :]
                if control & 1:
                    command += value
                    if control & 2:
                        has_data = decode_command_set(command)["CommandDataSetType"] != 0x0101
                else:
                    data += value
                    has_data = not control & 2
        return decode_command_set(command), data

    def echo(self) -> int:
        self.request(ID[VERIFICATION], {"CommandField": 0x30, "AffectedSOPClassUID": VERIFICATION})
        return int(self.response()[0]["Status"])

    def store(self, data: bytes, uid: str = "1.2.3", pdu: int = 65536) -> dict[str, Any]:
        fields = {"CommandField": 1, "AffectedSOPClassUID": CT, "AffectedSOPInstanceUID": uid, "Priority": 0}
        self.request(ID[CT], fields, data, pdu)
        return self.response()[0]

    def release(self) -> None:
        self.send(bytes((5, 0, 0, 0, 0, 4, 0, 0, 0, 0)))
        kind, _ = self.receive()
        assert kind == 6, kind
        self.sock.close()

    def is_closed_within(self, seconds: float) -> bool:
        """Whether the other side closes, or aborts and closes, in time."""
        deadline = time.monotonic() + seconds
        try:
            while (left := deadline - time.monotonic()) > 0:
                self.sock.settimeout(left)
                if not self.sock.recv(65536):
                    return True
        except TimeoutError:
            return False
        except OSError:
            return True
        return False

    def _exactly(self, count: int) -> bytes:
        received = bytearray()
        while len(received) < count:
            try:
                chunk = self.sock.recv(count - len(received))
            except ConnectionResetError:
                return bytes(received)
            if not chunk:
                break
            received += chunk
        return bytes(received)


def pdv(context_id: int, control: int, value: bytes) -> bytes:
    return struct.pack(">LBB", len(value) + 2, context_id, control) + value


def p_data(*pdvs: bytes) -> bytes:
    body = b"".join(pdvs)
    return struct.pack(">BxL", 4, len(body)) + body


def message(context_id: int, fields: dict[str, Any], data: bytes | None, pdu: int = 65536) -> list[bytes]:
    parts = [p_data(pdv(context_id, 3, encode_command_set(fields)))]
    if data is not None:
        room = pdu - 6
        chunks = [data[start : start + room] for start in range(0, len(data), room)] or [b""]
        parts += [p_data(pdv(context_id, 0, chunk)) for chunk in chunks[:-1]]
        parts.append(p_data(pdv(context_id, 2, chunks[-1])))
    return parts
