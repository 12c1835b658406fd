"""One request and its answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from config.http.answer import Answer
from config.http.connection import lent, make_ready
from config.http.request import Buffer, encoded_head, send

if TYPE_CHECKING:
    import urllib3


def exchange(
    pool: urllib3.HTTPConnectionPool,
    method: str,
    target: str,
    headers: Mapping[str, str],
    body: Iterable[Buffer] = (),
    *,
    timeout: float,
    pool_timeout: float | None = None,
    patience: float | None = None,
) -> Answer:
    """Send one request and return its answer, whose body is still to be read.

    `headers` are complete, `host` and `content-length` included. `timeout` is in seconds, for each piece of the body
    and each wait for bytes, and one for all requests of a pool; `pool_timeout` for a connection to become free, if the
    pool has a limit; `patience` is that of `Answer`.

    Raises:
        urllib3.exceptions.HTTPError: there is no answer; see `config.http`. What `body` raises passes through, but for
            OSError.
        BodyUnreadable: of a FileBody.
    """
    head = encoded_head(method, target, headers)
    connection = pool._get_conn(timeout=pool_timeout)  # noqa: SLF001 - urllib3 has no other way to lend a connection
    with lent(pool, connection):
        make_ready(pool, connection, timeout)
        broken = send(pool, connection, head, body, timeout)
        return Answer(pool, connection, method, timeout, broken, patience=patience)
