"""An embedded S3: the moto server in a process of its own. It keeps objects in memory; its end is theirs."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from http import HTTPStatus
from pathlib import Path
from typing import Final
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from backend.stack.processes import Process, wait_until

_NAMESPACE: Final = "{http://s3.amazonaws.com/doc/2006-03-01/}"
# Without the header it answers 403; what the header says it does not verify.
_ANYBODY: Final = {"Authorization": "AWS4-HMAC-SHA256 Credential=anybody/20000101/us-east-1/s3/aws4_request"}
_LISTINGS: Final = 5  # tries
_DEADLINE: Final = 30.0  # seconds; it imports for one or two, on a busy machine for many


class S3Server:
    """A running moto server. It does not check signatures, so plain HTTP requests read it."""

    def __init__(self, port: int, log: Path, environment: dict[str, str] | None = None, mark: str = "") -> None:
        """Starts it; returns once it answers.

        Raises:
            RuntimeError: it ended, with what it printed.
        """
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        arguments = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        self._process = Process(arguments, log, environment, mark)
        try:
            wait_until(self._answers, _DEADLINE, "the S3 server answers")
        except BaseException:
            self.stop()
            raise

    @property
    def is_running(self) -> bool:
        return self._process.exit_code is None

    def stop(self) -> None:
        self._process.stop()

    def create_bucket(self, bucket: str) -> None:
        self._get(bucket, method="PUT")

    def keys(self, bucket: str) -> list[str]:
        """Every key in the bucket, sorted."""
        keys: list[str] = []
        query = {"list-type": "2"}
        while True:
            page = ET.fromstring(self._list(f"{bucket}?{urlencode(query)}"))  # noqa: S314 - our own server's
            keys += [element.text or "" for element in page.iter(f"{_NAMESPACE}Key")]
            token = page.findtext(f"{_NAMESPACE}NextContinuationToken")
            if not token:
                return sorted(keys)
            query["continuation-token"] = token

    def _list(self, path: str) -> bytes:
        """Moto stumbles over objects that are deleted while it lists them."""
        for _ in range(_LISTINGS):
            try:
                return self._get(path)
            except HTTPError as error:
                if error.code != HTTPStatus.INTERNAL_SERVER_ERROR:
                    raise
        return self._get(path)

    def object(self, bucket: str, key: str) -> bytes:
        """The bytes of one object.

        Raises:
            urllib.error.HTTPError: it does not exist.
        """
        return self._get(f"{bucket}/{key}")

    def replace(self, bucket: str, key: str, content: bytes) -> None:
        """Put other bytes under a key, and none of the metadata it had."""
        self._get(f"{bucket}/{key}", "PUT", content)

    def delete(self, bucket: str, key: str) -> None:
        """Take an object away."""
        self._get(f"{bucket}/{key}", "DELETE")

    def _answers(self) -> bool:
        if self._process.exit_code is not None:
            raise RuntimeError(f"the S3 server ended with {self._process.exit_code}:\n{self._process.output()}")
        try:
            self._get("moto-api/")
        except URLError:
            return False
        return True

    def _get(self, path: str, method: str = "GET", content: bytes | None = None) -> bytes:
        headers = {**_ANYBODY, "Content-Type": "application/octet-stream"}  # without it the server takes it for a form
        request = Request(f"{self.url}/{path}", content, headers, method=method)  # noqa: S310 - always http
        with urlopen(request, timeout=10) as response:  # noqa: S310 - always http
            body: bytes = response.read()
            return body
