"""A distance in front of any S3 server, in a process of its own: `python -m tests.bench.proxy PORT TARGET_PORT`.

It understands as much of HTTP/1.1 as tells one request from the next. Each waits for the latency before it goes on,
also if its connection is kept alive; answers pass as they come. Connections do not wait for each other, except for the
bandwidth they share.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress

from tests.bench.http_server import CONTROL, Distance

_CHUNK = 256 * 1024  # bytes


class Proxy:
    """Carries the connections."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._distance = Distance()

    async def carry(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        """Serve one connection until either side ends it."""
        server, to_server = await asyncio.open_connection("127.0.0.1", self._target_port, limit=_CHUNK)
        answers = asyncio.create_task(self._answers(server, to_client))
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await client.readuntil(b"\r\n\r\n")
                target = head.split(b" ", 2)[1].decode("latin-1")
                if target.startswith(CONTROL):
                    self._distance.change(target)
                    to_client.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                    continue
                await asyncio.sleep(self._distance.latency)
                to_server.write(head)
                await self._body(client, to_server, _content_length(head))
        to_server.close()
        await answers
        to_client.close()

    async def _body(self, client: asyncio.StreamReader, to_server: asyncio.StreamWriter, size: int) -> None:
        while size:
            chunk = await client.read(min(size, _CHUNK))
            if not chunk:
                raise ConnectionError
            size -= len(chunk)
            await asyncio.sleep(self._distance.link(asyncio.get_running_loop().time(), "up", len(chunk)))
            to_server.write(chunk)
            await to_server.drain()
        await to_server.drain()

    async def _answers(self, server: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while chunk := await server.read(_CHUNK):
                await asyncio.sleep(self._distance.link(asyncio.get_running_loop().time(), "down", len(chunk)))
                to_client.write(chunk)
                await to_client.drain()
            to_client.close()


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


async def _serve(port: int, target_port: int) -> None:
    server = await asyncio.start_server(Proxy(target_port).carry, "127.0.0.1", port, limit=_CHUNK, backlog=512)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), int(sys.argv[2])))
