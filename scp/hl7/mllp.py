"""The Minimal Lower Layer Protocol: 0x0B, message, 0x1C 0x0D, over TCP or TLS; one message at a time per connection.

Bounded are the connections, the length of a message, the time from its first byte to its last, and, if so configured,
the time between messages. What stands before a start block is skipped, because some senders end every message with one
line end too many; a missing 0x0D after 0x1C is forgiven.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Callable, Coroutine
from typing import Any, Final

from config.settings import Hl7Settings
from scp.tls import TlsContext

log = logging.getLogger(__name__)

START: Final = b"\x0b"
END: Final = b"\x1c"
TRAILER: Final = b"\x1c\r"
HANDSHAKE_TIMEOUT: Final = 5.0  # seconds for TLS
ACCEPT_PAUSE: Final = 0.1  # seconds after a connection could not be accepted
SEND_PATIENCE: Final = 30.0  # seconds for a sender to take its answer

Process = Callable[[bytes, str], bytes | None]  # of (message, peer's address) → answer


class MllpServer:
    """Accepts connections and hands each message to `process`, in a thread."""

    def __init__(self, settings: Hl7Settings, process: Process, tls: TlsContext | None = None) -> None:
        """`tls`: how connections are encrypted; None: they are not."""
        self._settings = settings
        self._process = process
        self._tls = tls
        self._networks = [ipaddress.ip_network(text) for text in settings.allowed_addresses]
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections = 0

    async def start(self, listener: socket.socket) -> None:
        """Begin to accept on a listening socket."""
        listener.setblocking(False)  # noqa: FBT003 - the standard library's signature
        self._keep(self._accept(listener))

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, (peer, *_) = await loop.sock_accept(listener)
            except OSError as error:  # the peer has gone, or there is no descriptor left
                log.warning("hl7_connection_lost reason=%s", error.strerror)
                await asyncio.sleep(ACCEPT_PAUSE)
                continue
            refusal = self._refusal(peer)
            if refusal:
                log.warning("hl7_connection_refused address=%s reason=%s", peer, refusal)
                sock.close()
                continue
            self.connections += 1  # from here on, so that handshakes are bounded too
            self._keep(self._serve(sock, peer))

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        """Run it in the background; the event loop itself holds tasks only weakly."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, sock: socket.socket, peer: str) -> None:
        writer = None
        try:
            reader, writer = await self._connected(sock)
            while await self._serve_one(reader, writer, peer):
                pass
        except asyncio.IncompleteReadError:
            pass  # the sender has closed the connection
        except asyncio.LimitOverrunError:
            log.warning("hl7_connection_closed address=%s reason=message_too_long", peer)
        except TimeoutError:
            log.warning("hl7_connection_closed address=%s reason=timeout", peer)
        except OSError as error:
            log.info("hl7_connection_lost address=%s reason=%s", peer, error.strerror or type(error).__name__)
        finally:
            self.connections -= 1
            if writer is not None:
                writer.transport.abort() if writer.transport.get_write_buffer_size() else writer.close()

    async def _connected(self, sock: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Both ends of the stream, encrypted if so configured.

        Raises:
            OSError: the peer has gone, its certificate is not trusted, or the handshake took too long.
        """
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=self._settings.maximum_message_length)
        protocol = asyncio.StreamReaderProtocol(reader)
        context = self._tls.current() if self._tls else None
        transport, _ = await loop.connect_accepted_socket(
            lambda: protocol, sock, ssl=context, ssl_handshake_timeout=HANDSHAKE_TIMEOUT if context else None
        )
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: str) -> bool:
        """Read and answer one message; whether there may be another."""
        async with asyncio.timeout(self._settings.idle_timeout or None):
            await reader.readuntil(START)
        async with asyncio.timeout(self._settings.message_timeout):
            content = (await reader.readuntil(END))[: -len(END)]
        content = content.rpartition(START)[2]  # the sender began anew
        answer = await asyncio.to_thread(self._process, content, peer)
        if answer is not None:
            writer.write(START + answer + TRAILER)
            async with asyncio.timeout(SEND_PATIENCE):
                await writer.drain()
        return True

    def _refusal(self, peer: str) -> str | None:
        if self.connections >= self._settings.maximum_connections:
            return "too_many_connections"
        if not self._networks:
            return None
        address = ipaddress.ip_address(peer.partition("%")[0])
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        return None if any(address in network for network in self._networks) else "address_not_allowed"
