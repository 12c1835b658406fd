"""The Minimal Lower Layer Protocol: 0x0B, message, 0x1C 0x0D, over TCP; one message at a time per connection.

Bounded are the connections, the length of a message, the time from its first byte to its last, and, if so configured,
the time between messages. What stands before a start block is skipped, because some senders end every message with one
line end too many; a missing 0x0D after 0x1C is forgiven.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Callable
from typing import Final

from config.settings import Hl7Settings

log = logging.getLogger(__name__)

START: Final = b"\x0b"
END: Final = b"\x1c"
TRAILER: Final = b"\x1c\r"
SEND_PATIENCE: Final = 30.0  # seconds for a sender to take its answer

Process = Callable[[bytes, str], bytes | None]  # of (message, peer's address) → answer


class MllpServer:
    """Accepts connections and hands each message to `process`, in a thread."""

    def __init__(self, settings: Hl7Settings, process: Process) -> None:
        self._settings = settings
        self._process = process
        self._networks = [ipaddress.ip_network(text) for text in settings.allowed_addresses]
        self.connections = 0

    async def start(self, listener: socket.socket) -> asyncio.Server:
        """Begin to accept on a listening socket."""
        return await asyncio.start_server(self._serve, sock=listener, limit=self._settings.maximum_message_length)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = str((writer.get_extra_info("peername") or ("?",))[0])
        refusal = self._refusal(peer)
        if refusal:
            log.warning("hl7_connection_refused address=%s reason=%s", peer, refusal)
            writer.transport.abort()
            return
        self.connections += 1
        try:
            while await self._serve_one(reader, writer, peer):
                pass
        except asyncio.IncompleteReadError:
            pass  # the sender has closed the connection
        except asyncio.LimitOverrunError:
            log.warning("hl7_connection_closed address=%s reason=message_too_long", peer)
        except TimeoutError:
            log.warning("hl7_connection_closed address=%s reason=timeout", peer)
        except OSError as error:
            log.info("hl7_connection_lost address=%s reason=%s", peer, error.strerror)
        finally:
            self.connections -= 1
            writer.transport.abort() if writer.transport.get_write_buffer_size() else writer.close()

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
