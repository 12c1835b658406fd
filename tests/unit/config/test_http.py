"""The exchange of one HTTP request, against peers that say exactly what a test lets them say."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from queue import SimpleQueue

import pytest
import urllib3
from urllib3.exceptions import EmptyPoolError, HTTPError, NewConnectionError, ProtocolError, ReadTimeoutError

from config.http.answer import Answer
from config.http.asked import LARGEST_AWAITED, Asked, ask
from config.http.exchange import exchange
from config.http.request import FileBody

_TIMEOUT = 5.0
_CLOSE = "the peer ends the connection"
_WAIT = "the peer says nothing for a while"
_RESET = "the peer breaks the connection"
_TRICKLE = "the peer sends a byte now and then"


class Peer:
    """Answers the requests of each connection with the next of `answers`, byte for byte."""

    def __init__(self) -> None:
        self.requests: SimpleQueue[bytes] = SimpleQueue()
        self.connections = 0
        self._answers: list[Sequence[object]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def answers(self, *answers: Sequence[object]) -> None:
        self._answers = list(answers)

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(ConnectionError):  # who asked has heard enough
            while self._answers:
                head, body, length = _request(connection)
                if not head:
                    return
                answer = self._answers.pop(0)
                while len(body) < length and answer[0] is not _CLOSE:
                    piece = connection.recv(65536)
                    if not piece:
                        return
                    body += piece
                self.requests.put(head + body)
                if not all(_said(connection, piece) for piece in answer):
                    return


def _request(connection: socket.socket) -> tuple[bytes, bytes, int]:
    """Head, what has come of the body, and its length; all empty at the connection's end."""
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.recv(65536)
        if not piece:
            return b"", b"", 0
        received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    lengths = [int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")]
    return head + b"\r\n\r\n", body, sum(lengths)


def _said(connection: socket.socket, piece: object) -> bool:
    """Say it; whether the connection goes on."""
    if piece is _RESET:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    elif piece is _WAIT:
        time.sleep(0.3)
    elif piece is _TRICKLE:
        for _ in range(100):  # ten seconds
            connection.sendall(b"1")
            time.sleep(0.1)
    elif isinstance(piece, bytes):
        connection.sendall(piece)
        time.sleep(0.005)
    return piece not in (_RESET, _CLOSE)


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()


@pytest.fixture
def pool(peer: Peer) -> Iterator[urllib3.HTTPConnectionPool]:
    pool = urllib3.HTTPConnectionPool("127.0.0.1", peer.port, maxsize=1, block=True)
    yield pool
    pool.close()


def get(pool: urllib3.HTTPConnectionPool, method: str = "GET", timeout: float = _TIMEOUT) -> Answer:
    return exchange(pool, method, "/a", {"host": "h"}, timeout=timeout, pool_timeout=0.2)


def test_head_and_body_are_sent_as_given(peer: Peer, pool: urllib3.HTTPConnectionPool) -> None:
    peer.answers([b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"])
    body = [b"abc", memoryview(b"x" * 300_000), b""]
    headers = {"host": "h", "content-length": "300003"}
    with exchange(pool, "PUT", "/key?x=1", headers, body, timeout=_TIMEOUT) as answer:
        assert (answer.status, answer.read()) == (200, b"ok")
    expected = b"PUT /key?x=1 HTTP/1.1\r\nhost: h\r\ncontent-length: 300003\r\n\r\nabc" + b"x" * 300_000
    assert peer.requests.get(timeout=_TIMEOUT) == expected


@pytest.mark.parametrize("value", ["a\r\nx: y", "a\nb", "a\rb"])
def test_no_field_can_smuggle_in_another_one(pool: urllib3.HTTPConnectionPool, peer: Peer, value: str) -> None:
    with pytest.raises(ValueError, match="line break"):
        exchange(pool, "GET", "/", {"host": "h", "x-amz-tagging": value}, timeout=_TIMEOUT)
    assert peer.connections == 0


def test_a_connection_is_used_again_after_an_answer_was_read(peer: Peer, pool: urllib3.HTTPConnectionPool) -> None:
    peer.answers(*[[b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-A: 1\r\nx-a:2\r\n\r\nabc"]] * 3)
    for _ in range(3):
        with get(pool) as answer:
            assert answer.headers == {"content-length": "3", "x-a": "1, 2"}
            assert answer.read() == b"abc"
    assert peer.connections == 1


@pytest.mark.parametrize("rest", [b"", b"y" * 60_000])
def test_a_small_rest_of_a_body_is_drained_for_the_next_request(
    peer: Peer, pool: urllib3.HTTPConnectionPool, rest: bytes
) -> None:
    head = f"HTTP/1.1 200 OK\r\ncontent-length: {3 + len(rest)}\r\n\r\nabc".encode()
    peer.answers([head, rest], [head, rest])
    for _ in range(2):
        with get(pool) as answer:
            assert answer.read(3) == b"abc"
    assert peer.connections == 1


def test_a_long_rest_of_a_body_ends_the_connection(peer: Peer, pool: urllib3.HTTPConnectionPool) -> None:
    answer = [b"HTTP/1.1 200 OK\r\ncontent-length: 70003\r\n\r\nabc", b"y" * 70_000]
    peer.answers(answer, answer)
    for _ in range(2):
        with get(pool) as response:
            assert response.read(3) == b"abc"
    assert peer.connections == 2


def test_an_exception_while_reading_ends_the_connection_and_frees_its_place(
    peer: Peer, pool: urllib3.HTTPConnectionPool
) -> None:
    peer.answers(*[[b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc"]] * 2)
    with pytest.raises(KeyError), get(pool):
        raise KeyError
    with get(pool) as answer:
        assert answer.read() == b"abc"
    assert peer.connections == 2


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        ([b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nbody"], False),
        ([b"HTTP/1.0 200 OK\r\ncontent-length: 4\r\n\r\nbody"], False),
        ([b"HTTP/1.0 200 OK\r\ncontent-length: 4\r\nConnection: Keep-Alive\r\n\r\nbody"], True),
        ([b"HTTP/1.1 200 OK\r\n\r\nbo", b"dy", _CLOSE], False),
        ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n2;x=y\r\nbo\r\n0", b"2\r\ndy\r\n0\r\n\r\n"], True),
        ([b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r", b"\n0\r\nX-Sum: 1\r\n\r\n"], True),
        (
            [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 9\r\n\r\n4\r\nbody\r\n0\r\n\r\n"],
            False,
        ),
        ([b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200", b" OK\r\ncontent-length: 4\r\n\r\nbody"], True),
        ([b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\ncontent-length: 4\r\n\r\nbodyHTTP/1.1"], False),
        ([b"HTTP/1.1 200\r\ncontent-length: 4\r\n\r\nbody"], True),
    ],
)
def test_a_body_ends_where_its_framing_says(
    peer: Peer, pool: urllib3.HTTPConnectionPool, answer: Sequence[object], kept: bool
) -> None:
    """RFC 9112, 6.3 and 9.3."""
    peer.answers(answer, [b"HTTP/1.1 204 No Content\r\n\r\n"])
    with get(pool) as response:
        assert response.read() == b"body"
        assert response.read() == b""
    with get(pool) as response:
        assert (response.status, response.read()) == (204, b"")
    assert peer.connections == (1 if kept else 2)


@pytest.mark.parametrize(
    "status",
    [b"HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", b"HTTP/1.1 204 No\r\ncontent-length: 9\r\n\r\n"],
)
def test_what_has_no_body_is_not_waited_for(peer: Peer, pool: urllib3.HTTPConnectionPool, status: bytes) -> None:
    peer.answers([status], [b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n"])
    with get(pool) as answer:
        assert answer.read() == b""
    with get(pool, "HEAD") as answer:
        assert (answer.headers["content-length"], answer.read()) == ("9", b"")
    assert peer.connections == 1


def test_a_body_can_be_read_into_a_buffer(peer: Peer, pool: urllib3.HTTPConnectionPool) -> None:
    content = bytes(range(256)) * 2000
    peer.answers([b"HTTP/1.1 200 OK\r\ncontent-length: 512000\r\n\r\n" + content[:10], content[10:]])
    buffer = memoryview(bytearray(600_000))
    count = 0
    with get(pool) as answer:
        while received := answer.readinto1(buffer[count:]):
            count += received
    assert buffer[:count] == content


@pytest.mark.parametrize(
    "answer",
    [
        [b"SSH-2.0-OpenSSH\r\n\r\n"],
        [b"HTTP/2 200\r\n\r\n"],
        [b"HTTP/1.1 abc\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\nno field\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\n: nameless\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\nx: 1\r\n folded: 2\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\ncontent-length: 1_0\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nbody"],
        [b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000, b"y" * 70_000],
        [b"HTTP/1.1 100 Continue\r\n\r\n" * 50],
        [b"HTTP/1.1 200 OK\r\n", _CLOSE],
        [_CLOSE],
        [_RESET],
    ],
    ids=lambda answer: str(answer)[:50],
)
def test_what_is_no_answer_is_an_error(peer: Peer, pool: urllib3.HTTPConnectionPool, answer: Sequence[object]) -> None:
    peer.answers(answer, [b"HTTP/1.1 204 No Content\r\n\r\n"])
    with pytest.raises(ProtocolError):
        get(pool)
    with get(pool) as response:  # on another connection: the place of the first is free
        assert response.status == 204


@pytest.mark.parametrize(
    "answer",
    [
        [b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nbody", _CLOSE],
        [b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nbody", _WAIT, _RESET],
        [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n", _CLOSE],
        [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbodyX\r\n0\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nZ\r\nbody\r\n0\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-4\r\nbody\r\n0\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n" + b"x: y\r\n" * 20_000],
        [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"4" * 9000],
    ],
    ids=lambda answer: str(answer)[:70],
)
def test_a_body_that_does_not_come_to_its_end_is_an_error(
    peer: Peer, pool: urllib3.HTTPConnectionPool, answer: Sequence[object]
) -> None:
    peer.answers(answer, [b"HTTP/1.1 204 No Content\r\n\r\n"])
    with pytest.raises(ProtocolError), get(pool) as response:
        response.read()
    with get(pool) as response:
        assert response.status == 204


def test_a_peer_that_falls_silent_is_not_waited_for(peer: Peer, pool: urllib3.HTTPConnectionPool) -> None:
    peer.answers([_WAIT], [b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nbody", _WAIT])
    with pytest.raises(ReadTimeoutError):
        get(pool, timeout=0.1)
    with pytest.raises(ReadTimeoutError), get(pool, timeout=0.1) as answer:
        answer.read()


@pytest.mark.parametrize(
    "beginning",
    [
        b"HTTP/1.1 2",
        b"HTTP/1.1 200 OK\r\nx: ",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 2",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 404 Not Found\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 404 Not Found\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: ",
    ],
)
@pytest.mark.parametrize("is_asked", [False, True])
def test_a_peer_that_sends_a_byte_now_and_then_is_not_waited_for(
    peer: Peer, pool: urllib3.HTTPConnectionPool, beginning: bytes, is_asked: bool
) -> None:
    """None of its bytes is late."""
    peer.answers([beginning, _TRICKLE])

    def body() -> bytes:
        asked = ask(pool, "GET", "/a", {"host": "h"}, timeout=0.5, may_connect=True) if is_asked else None
        with asked.answer() if asked else get(pool, timeout=0.5) as answer:
            return answer.read()

    begun = time.monotonic()
    with pytest.raises(ReadTimeoutError):
        body()
    assert time.monotonic() - begun < 4


def test_nor_is_what_it_fills_a_buffer_with_or_what_is_left_of_an_error(
    peer: Peer, pool: urllib3.HTTPConnectionPool
) -> None:
    answer = [b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n", _TRICKLE]
    peer.answers(answer, answer)

    def fill() -> None:
        with get(pool, timeout=0.5) as response:
            while response.readinto1(memoryview(bytearray(1000))):
                pass

    begun = time.monotonic()
    with pytest.raises(ReadTimeoutError):
        fill()
    with get(pool, timeout=0.5):
        pass  # what is left is drained, for the next request
    assert time.monotonic() - begun < 8


def test_what_comes_steadily_may_take_longer_than_the_time_out(peer: Peer, pool: urllib3.HTTPConnectionPool) -> None:
    peer.answers([b"HTTP/1.1 200 OK\r\ncontent-length: 80000\r\n\r\n", *[bytes(8000), _WAIT] * 10])
    begun = time.monotonic()
    with get(pool, timeout=1) as answer:
        assert answer.read() == bytes(80_000)
    assert time.monotonic() - begun > 2


class SlowReader:
    """Reads what is sent at 500 KB a second."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection, suppress(ConnectionError):
            while connection.recv(25_000):
                time.sleep(0.05)


@pytest.mark.parametrize("is_file", [False, True])
@pytest.mark.parametrize(("slowest", "error"), [(10_000_000, "too slow"), (1000, "no answer in time")])
def test_a_peer_that_takes_a_request_too_slowly_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slowest: int, error: str, *, is_file: bool
) -> None:
    """None of the waits is as long as the time-out. One that is fast enough may take longer than twice that."""
    monkeypatch.setattr("config.http.request._SLOWEST", slowest)
    content = bytes(5_000_000)
    (tmp_path / "content").write_bytes(content)
    with closing(SlowReader()) as reader, (tmp_path / "content").open("rb") as file:
        body = FileBody(file.fileno(), len(content)) if is_file else [content]
        pool = urllib3.HTTPConnectionPool("127.0.0.1", reader.port)
        with pytest.raises(ReadTimeoutError, match=error):
            exchange(pool, "PUT", "/a", {"host": "h"}, body, timeout=0.4)
        pool.close()


def test_an_answer_that_comes_before_the_body_was_read_is_the_answer() -> None:
    """A server refuses a request by its head and closes; sending the rest fails."""

    def body() -> Iterator[bytes]:
        for _ in range(200):
            yield b"x" * 100_000
            time.sleep(0.001)

    class Refusing(Peer):
        def _serve(self, connection: socket.socket) -> None:
            connection.recv(1000)
            connection.sendall(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno")
            connection.close()  # unread bytes are left: the next ones are answered by a reset

    refusing = Refusing()
    pool = urllib3.HTTPConnectionPool("127.0.0.1", refusing.port)
    for _ in range(5):
        headers = {"host": "h", "content-length": "20000000"}
        with exchange(pool, "PUT", "/", headers, body(), timeout=_TIMEOUT) as answer:
            assert (answer.status, answer.read()) == (403, b"no")
    assert refusing.connections == 5
    refusing.close()


def test_an_error_of_the_body_passes_through_and_ends_the_connection(
    peer: Peer, pool: urllib3.HTTPConnectionPool
) -> None:
    def body() -> Iterator[bytes]:
        yield b"x"
        raise LookupError

    peer.answers(*[[b"HTTP/1.1 204 No Content\r\n\r\n"]] * 2)
    with pytest.raises(LookupError):
        exchange(pool, "PUT", "/", {"host": "h", "content-length": "2"}, body(), timeout=_TIMEOUT)
    with get(pool) as answer:
        assert answer.status == 204


def test_a_connection_that_urllib3_has_used_meanwhile_has_our_time_out_again(
    peer: Peer, pool: urllib3.HTTPConnectionPool
) -> None:
    empty = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
    peer.answers([empty], [_WAIT, empty])
    pool.request("GET", "/", timeout=0.1)
    with get(pool) as answer:
        assert answer.status == 200
    assert peer.connections == 1


def test_a_pool_with_a_limit_lends_no_more_connections(peer: Peer, pool: urllib3.HTTPConnectionPool) -> None:
    peer.answers(*[[b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"]] * 2)
    with get(pool), pytest.raises(EmptyPoolError):
        get(pool)
    with get(pool) as answer:
        assert answer.read() == b"ok"


def test_a_connection_the_peer_has_closed_meanwhile_is_replaced(peer: Peer, pool: urllib3.HTTPConnectionPool) -> None:
    peer.answers(
        [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", _CLOSE], [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"]
    )
    with get(pool) as answer:
        assert answer.read() == b"ok"
    assert pool.pool is not None
    (idle,) = (connection.sock for connection in pool.pool.queue if connection)
    assert select.select([idle], [], [], 5)[0]  # it is closed now
    with get(pool) as answer:
        assert answer.read() == b"ok"
    assert peer.connections == 2


def test_nobody_there_is_told_as_urllib3_does() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(NewConnectionError):
        get(urllib3.HTTPConnectionPool("127.0.0.1", port))
    with pytest.raises(HTTPError):
        get(urllib3.HTTPSConnectionPool("127.0.0.1", port))


def test_a_buffer_is_filled_however_the_bytes_come(peer: Peer, pool: urllib3.HTTPConnectionPool) -> None:
    body = bytes(range(256)) * 4000
    peer.answers(
        [b"HTTP/1.1 200 OK\r\ncontent-length: 1024000\r\n\r\n" + body[:100], body[100:500_000], body[500_000:]]
    )
    with get(pool) as answer:
        buffer = bytearray(len(body) + 10)
        view = memoryview(buffer)
        with_the_head = answer.readinto1(view)
        assert with_the_head + answer.readinto1(view[with_the_head:]) == len(body)
        assert buffer[:-10] == body
        assert answer.readinto1(view) == 0


def test_what_came_in_time_is_given_and_what_does_not_come_is_an_error(
    peer: Peer, pool: urllib3.HTTPConnectionPool
) -> None:
    peer.answers([b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n", b"some", _WAIT, _WAIT, _WAIT, _WAIT, _WAIT])
    with get(pool, timeout=0.6) as answer:
        assert answer.readinto1(memoryview(bytearray(9))) == 4
        with pytest.raises(ReadTimeoutError):
            answer.readinto1(memoryview(bytearray(5)))


def asked_for(pool: urllib3.HTTPConnectionPool) -> Asked:
    asked = ask(pool, "GET", "/a", {"host": "h"}, timeout=_TIMEOUT, may_connect=True)
    assert asked is not None
    return asked


def wait_for(asked: Asked) -> list[int]:
    """What was missing each time, until nothing is worth waiting for."""
    waiting = select.poll()
    waiting.register(asked.fileno(), select.POLLIN)  # it has none once something has broken
    missing = [asked.missing()]
    while 0 < missing[-1] <= LARGEST_AWAITED:
        assert waiting.poll(5000)
        missing.append(asked.missing())
    return missing


def test_an_answer_can_be_waited_for_with_poll(peer: Peer, pool: urllib3.HTTPConnectionPool) -> None:
    """Until all of it is here; the next answer on the connection may be shorter."""
    head, body = b"HTTP/1.1 200 OK\r\ncontent-length: 512000\r\n\r\n", bytes(range(256)) * 2000
    pieces = [head[:20], head[20:] + body[:10], body[10:1000], body[1000:400_000], _WAIT, body[400_000:]]
    peer.answers(pieces, [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", _WAIT])
    asked = asked_for(pool)
    missing = wait_for(asked)
    assert missing[0] == 1
    assert missing[-2:] == [len(body) - 10, 0]
    assert asked.is_here
    begun = time.monotonic()
    with asked.answer() as answer:
        assert answer.read() == body
    assert time.monotonic() - begun < 0.2, "it was all here"
    asked.close()  # it has been given away: nothing is left to close
    asked = asked_for(pool)
    assert wait_for(asked)[-1] == 0
    with asked.answer() as answer:
        assert answer.read() == b"ok"
    assert peer.connections == 1


@pytest.mark.parametrize("size", [100_000, 200_000, 500_000, LARGEST_AWAITED])
def test_the_first_answer_on_a_connection_is_waited_for_whole_as_well(
    peer: Peer, pool: urllib3.HTTPConnectionPool, size: int
) -> None:
    """A window that is small at first does not end poll(2)."""
    peer.answers([b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + bytes(size)])
    asked = asked_for(pool)
    wait_for(asked)
    assert asked.is_here
    with asked.answer() as answer:
        assert answer.read() == bytes(size)


def test_asking_does_not_wait_for_a_connection_unless_it_may(peer: Peer, pool: urllib3.HTTPConnectionPool) -> None:
    peer.answers(*[[b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"]] * 3)
    assert ask(pool, "GET", "/a", {"host": "h"}, timeout=_TIMEOUT, may_connect=False) is None
    assert peer.connections == 0
    with get(pool) as answer:
        answer.read()
    asked = ask(pool, "GET", "/a", {"host": "h"}, timeout=_TIMEOUT, may_connect=False)
    assert asked is not None
    with asked.answer() as answer:  # without having waited
        assert answer.read() == b"ok"


@pytest.mark.parametrize(
    ("pieces", "missing"),
    [
        ([b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"2\r\nok\r\n0\r\n\r\n"], 0),
        ([b"HTTP/1.1 200 OK\r\n\r\n", b"ok", _CLOSE], 0),
        ([b"HTTP/1.1 204 No Content\r\n\r\n"], 0),
        ([b"HTTP/1.1 200 OK\r\ncontent-length: 9000000\r\n\r\n"], 9_000_000),
        ([b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok", _CLOSE], 0),
        ([b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno"], 0),
        ([b"HTTP/1.1 103 Early Hints\r\n\r\n", _WAIT, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"], 0),
    ],
)
def test_what_cannot_be_waited_for_is_not(
    peer: Peer, pool: urllib3.HTTPConnectionPool, pieces: list[object], missing: int
) -> None:
    peer.answers(pieces, [b"HTTP/1.1 204 No Content\r\n\r\n"])
    with closing(asked_for(pool)) as asked:
        assert wait_for(asked)[-1] == missing
        assert not asked.is_here
    with get(pool) as answer:  # its connection is closed, and its place free
        assert answer.status == 204


@pytest.mark.parametrize(
    "answer", [[b"SSH-2.0-OpenSSH\r\n\r\n"], [b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000], [_CLOSE], [_RESET]]
)
def test_what_breaks_is_told_by_whoever_wants_the_answer(
    peer: Peer, pool: urllib3.HTTPConnectionPool, answer: Sequence[object]
) -> None:
    peer.answers(answer, [b"HTTP/1.1 204 No Content\r\n\r\n"])
    with closing(asked_for(pool)) as asked:
        assert wait_for(asked)[-1] == 0
        assert not asked.is_here
        with pytest.raises(ProtocolError):
            asked.answer()
    with get(pool) as response:
        assert response.status == 204


def test_what_cannot_be_sent_is_an_error_and_frees_its_place(peer: Peer, pool: urllib3.HTTPConnectionPool) -> None:
    peer.answers(*[[b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"]] * 2)
    with get(pool) as answer:
        answer.read()
    assert pool.pool is not None
    pool.pool.queue[-1].sock.shutdown(socket.SHUT_WR)
    with pytest.raises(ProtocolError):
        asked_for(pool)
    with get(pool) as answer:
        assert answer.read() == b"ok"
