"""`POST /isen/origins`: where instances came from, written into Orthanc's metadata as its own DICOM server does.

Instances reach Orthanc over its REST API, which notes the worker as their origin. Only code inside Orthanc may correct
that, from Orthanc 1.12.2 on; an older one refuses, and then nobody asks again.
"""

from __future__ import annotations

import base64
import hmac
import json
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

from backend.plugin.commitment_routes import send_status
from backend.plugin.request_json import read_json

MAXIMUM_ORIGINS: Final = 200  # of one request
_DICOM_PROTOCOL: Final = b"DicomProtocol"  # the value of Origin


class OriginRoutes:
    """The callback. Only our workers may use it: an origin is what Orthanc itself says of an instance."""

    def __init__(self, host: Any, token: str, front_end_users: Sequence[str] = ()) -> None:
        """`token` is what the workers send as `Authorization`; a front end sends name and password of its user."""
        self._host = host
        self._token = token.encode()
        self._front_end_users = front_end_users
        self._is_supported: bool | None = None  # known once there was an instance to try it on
        self._lock = threading.Lock()
        self.counters = {"origins": 0, "origins_refused": 0}

    def routes(self) -> dict[str, Callable[..., None]]:
        """Pattern → callback."""
        return {"/isen/origins": self.answer}

    def answer(self, output: Any, _uri: str, **request: Any) -> None:
        """Body: `[{"Instance", "Series", "RemoteAET", "CalledAET", "RemoteIP"}, …]`; answer: `{"Supported": …}`."""
        if request["method"] != "POST":
            output.SendMethodNotAllowed("POST")
            return
        if not self._is_worker(request["headers"].get("authorization", "")):
            send_status(output, 403)
            return
        try:
            origins = read_json(request["body"])
            named = {(one["Series"], one["RemoteAET"]) for one in origins}
            written = [(one["Instance"], one["RemoteAET"], one["CalledAET"], one["RemoteIP"]) for one in origins]
            if len(written) > MAXIMUM_ORIGINS:
                raise ValueError("too many")
        except (ValueError, KeyError, TypeError):
            send_status(output, 400)
            return
        for values in written:
            if self._is_supported is not False:
                self._write_instance(*values)
        if self._is_supported:
            for series, ae_title in named:
                self._write_series(series, ae_title)
        output.AnswerBuffer(json.dumps({"Supported": self._is_supported is not False}), "application/json")

    def _is_worker(self, authorization: str) -> bool:
        """Orthanc has verified the password before it asked us: the configuration is refused without its log-in."""
        if hmac.compare_digest(authorization.encode(), self._token):
            return True
        scheme, _, credentials = authorization.partition(" ")
        try:
            user = base64.b64decode(credentials, validate=True).decode().partition(":")[0]
        except ValueError:
            return False
        return scheme.lower() == "basic" and user in self._front_end_users

    def _write_instance(self, instance: str, remote: str, called: str, address: str) -> None:
        metadata = f"/instances/{instance}/metadata/"
        if self._put(metadata + "RemoteAET", remote.encode()):
            self._is_supported = True
            self._put(metadata + "CalledAET", called.encode())
            self._put(metadata + "RemoteIP", address.encode())
            self._put(metadata + "Origin", _DICOM_PROTOCOL)
            self._count("origins")
        elif self._is_supported is None and self._exists(instance):
            self._is_supported = False
        elif self._exists(instance):
            self._count("origins_refused")  # with CheckRevisions Orthanc lets nobody overwrite what exists

    def _write_series(self, series: str, ae_title: str) -> None:
        """A series keeps the AE title its first instance came from."""
        uri = f"/series/{series}/metadata/RemoteAET"
        try:
            if self._host.RestApiGet(uri):
                return
        except self._host.OrthancException:
            pass  # it has none, or is gone
        self._put(uri, ae_title.encode())

    def _put(self, uri: str, value: bytes) -> bool:
        try:
            self._host.RestApiPut(uri, value)
        except self._host.OrthancException:
            return False
        return True

    def _exists(self, instance: str) -> bool:
        try:
            self._host.RestApiGet(f"/instances/{instance}/metadata")
        except self._host.OrthancException:
            return False
        return True

    def _count(self, counter: str) -> None:
        with self._lock:
            self.counters[counter] += 1
