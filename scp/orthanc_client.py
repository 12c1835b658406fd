"""Client of Orthanc's REST API: the only way a worker reaches images and index.

Connections are kept alive and shared by all threads of the worker; each has TCP_NODELAY set. Every request may be
repeated (`scp.orthanc_servers`). Every path is made of
constants, of Orthanc identifiers checked against their pattern, and of UIDs checked against theirs.

Errors, and whether a retry would help:

    OrthancError
    ├── OrthancUnreachable    no connection, lost connection or time-out: yes, later
    └── OrthancRefused        Orthanc answered with an error: only if what it names has changed
        └── ResourceMissing   404: no
"""

from __future__ import annotations

import io
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from types import MappingProxyType
from typing import Any, BinaryIO, Final, Literal, TypeAlias, cast
from urllib.parse import quote

from urllib3.exceptions import HTTPError

from config.http.answer import Answer
from config.settings import Modality, OrthancSettings
from scp.orthanc_servers import BLOCK_SIZE, READ_TIMEOUT, Body, OrthancServers

Level: TypeAlias = Literal["Patient", "Study", "Series", "Instance"]

ORTHANC_ID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{8}){4}")
UID: Final = re.compile(r"[0-9.]{1,64}")  # PS3.5 9.1; its finer rules are the Standard's business, not the path's
TAG: Final = re.compile(r"[0-9a-f]{4},[0-9a-f]{4}")

LEAST_CONNECTIONS: Final = 4  # of one worker
LONGEST_VALUE: Final = 64 * 1024  # bytes of an element that is matched or answered
MEMORY_LIMIT: Final = 16 * 1024 * 1024  # bytes of a file held in memory
NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})
BAD_FILE_FORMAT: Final = 15  # Orthanc's ErrorCode_BadFileFormat
INEXISTENT_TAG: Final = 21  # ErrorCode_InexistentTag: a data set without its identifying UIDs


class OrthancError(Exception):
    """Orthanc did not do what was asked. The text holds no patient data."""


class OrthancUnreachable(OrthancError):
    """No connection, a lost one, or a time-out; it may work later."""


class OrthancRefused(OrthancError):
    """Orthanc answered with an error."""

    def __init__(self, http_status: int, error_code: int, message: str) -> None:
        super().__init__(f"HTTP {http_status}, Orthanc error {error_code}: {message}")
        self.http_status = http_status
        self.error_code = error_code  # Orthanc's ErrorCode; -1 if the answer named none


class ResourceMissing(OrthancRefused):
    """Orthanc has no such resource, or not any more."""


def modality_of(name: str, fields: Mapping[str, Any]) -> Modality:
    """One entry of `GET /modalities?expand`; what this Orthanc does not say keeps its default."""

    def flag(field: str, *, default: bool = True) -> bool:
        return bool(fields.get(field, default))

    return Modality(
        name=name,
        ae_title=str(fields["AET"]),
        host=str(fields["Host"]),
        port=int(fields["Port"]),
        manufacturer=str(fields.get("Manufacturer", "Generic")),
        allow_echo=flag("AllowEcho"),
        allow_find=flag("AllowFind"),
        allow_find_worklist=flag("AllowFindWorklist"),
        allow_get=flag("AllowGet"),
        allow_move=flag("AllowMove"),
        allow_store=flag("AllowStore"),
        allow_n_action=flag("AllowNAction"),
        allow_event_report=flag("AllowEventReport"),
        allow_transcoding=flag("AllowTranscoding"),
        use_dicom_tls=flag("UseDicomTls", default=False),
        local_ae_title=str(fields.get("LocalAet", "")) or None,
        timeout=int(fields.get("Timeout", 0)),
    )


@dataclass(frozen=True)
class StoredInstance:
    """Orthanc's answer to a posted instance."""

    status: str  # "Success", "AlreadyStored", "FilteredOut" or "Failure"
    orthanc_id: str  # empty with "Failure"
    series_id: str = ""


class OrthancClient:
    """Thread-safe. A connection holds one of Orthanc's HTTP threads, in use or idle: who finds none free waits."""

    def __init__(
        self,
        settings: OrthancSettings,
        token: str = "",
        workers: int = 1,
        worker: int = 0,
        read_timeout: int = READ_TIMEOUT,
    ) -> None:
        """`workers` share Orthanc's HTTP threads; what they leave is for Orthanc's other users. This is number `worker`
        of them, from 0. `read_timeout`: seconds without a byte.
        """
        maximum_connections = max(LEAST_CONNECTIONS, settings.http_threads_count * 4 // 5 // workers)
        self._servers = OrthancServers(settings, token, worker, maximum_connections, read_timeout)

    def system(self) -> dict[str, Any]:
        """`GET /system`."""
        answer: dict[str, Any] = self._json("GET", "/system")
        return answer

    def modalities(self) -> tuple[Modality, ...]:
        """The modalities Orthanc knows now, those of the database and those changed through REST included."""
        answer: dict[str, dict[str, Any]] = self._json("GET", "/modalities?expand")
        return tuple(modality_of(name, fields) for name, fields in answer.items())

    def post_instance(self, body: Callable[[], Iterable[bytes]], length: int) -> StoredInstance:
        """Store one Part 10 file of `length` bytes; `body` is called again when the request has to be repeated.

        Repeating is safe: Orthanc answers AlreadyStored, or overwrites an instance with itself.

        Raises:
            OrthancRefused: see `error_code`; nothing was stored.
            OrthancUnreachable: unknown whether it was stored.
        """
        headers = {"Content-Type": "application/dicom", "Content-Length": str(length)}
        answer = self._json("POST", "/instances", body, headers)
        if not isinstance(answer, dict) or "Status" not in answer:
            raise OrthancRefused(200, -1, "unexpected answer to POST /instances")
        return StoredInstance(str(answer["Status"]), str(answer.get("ID", "")), str(answer.get("ParentSeries", "")))

    def find(self, level: Level, query: Mapping[str, str]) -> list[str]:
        """Orthanc identifiers of the resources of `level` that match `query` by the rules of `/tools/find`.

        Keys are `gggg,eeee`. All values are compared without case. Orthanc's own limits hold.
        """
        answer: list[str] = self._post_json("/tools/find", {"Level": level, "Query": dict(query)})
        return answer

    def resources(self, level: Level, ids: Sequence[str], *, metadata: bool = False) -> list[dict[str, Any]]:
        """What the index holds of these resources, tags named `gggg,eeee`; those removed meanwhile are left out.

        One request, no file is read. Not in the order of `ids`.
        """
        request = {"Resources": list(ids), "Level": level, "Short": True, "Metadata": metadata}
        answer: list[dict[str, Any]] = self._post_json("/tools/bulk-content", request)
        return answer

    def lookup(self, identifier: str) -> list[tuple[str, str]]:
        """(type, Orthanc identifier) of every resource with this PatientID, AccessionNumber or UID, case ignored."""
        answer = self._json("POST", "/tools/lookup", identifier.encode(), {"Content-Type": "text/plain"})
        return [(str(found["Type"]), str(found["ID"])) for found in answer]

    def changes(self, since: int, limit: int) -> dict[str, Any]:
        """Orthanc's log of changes after number `since`: Changes, Done, Last."""
        answer: dict[str, Any] = self._json("GET", f"/changes?since={since}&limit={limit}")
        return answer

    def last_change(self) -> int:
        """The number of the last change; 0 if there was none yet."""
        return int(self._json("GET", "/changes?last")["Last"])

    def dicom_attachment(self, instance_id: str) -> dict[str, Any]:
        """What the index holds of the DICOM file: Uuid, and CompressedSize (bytes) and CompressedMD5 as stored."""
        path = "/instances/" + _checked(ORTHANC_ID, instance_id) + "/attachments/dicom/info"
        answer: dict[str, Any] = self._json("GET", path)
        return answer

    def committed(self, attachments: Sequence[Mapping[str, Any]]) -> list[str]:
        """The states in the object store of attachments given as `Uuid`, `Size`, `MD5`; at most 200."""
        answer: dict[str, Any] = self._post_json("/isen/committed", list(attachments))
        return [str(state) for state in answer["States"]]

    def set_origins(self, origins: Sequence[Mapping[str, str]]) -> bool:
        """Note where instances came from; see `scp.origins`. False: this Orthanc cannot."""
        return bool(self._post_json("/isen/origins", list(origins))["Supported"])

    def instance_tags(self, instance_id: str) -> dict[str, Any]:
        """All tags of one instance, `gggg,eeee` to text, items or null (binary); Orthanc reads the file for it."""
        answer: dict[str, Any] = self._json("GET", "/instances/" + _checked(ORTHANC_ID, instance_id) + "/tags?short")
        return answer

    def instance_value(self, instance_id: str, name: str) -> bytes:
        """The encoded value of one element, `gggg,eeee`, of an instance."""
        path = f"/instances/{_checked(ORTHANC_ID, instance_id)}/content/{_checked(TAG, name).replace(',', '-')}"
        with self._file("GET", path) as file:
            return file.read(LONGEST_VALUE)

    def instance_file(self, instance_id: str) -> BinaryIO:
        """The Part 10 file as stored, at its start; in memory, or in an unnamed file above `MEMORY_LIMIT` bytes."""
        return self._file("GET", "/instances/" + _checked(ORTHANC_ID, instance_id) + "/file")

    def transcoded_instance(self, instance_id: str, transfer_syntax: str) -> BinaryIO:
        """The Part 10 file converted by Orthanc, which keeps the identifiers; ask for lossless syntaxes only.

        An Orthanc before `?transcode=` ignores it and answers the stored file: look at the syntax of what comes.

        Raises:
            OrthancRefused: Orthanc cannot convert it.
        """
        path = "/instances/" + _checked(ORTHANC_ID, instance_id)
        return self._file("GET", path + "/file?transcode=" + _checked(UID, transfer_syntax))

    def modified_instance(self, instance_id: str, transfer_syntax: str) -> BinaryIO:
        """The same for any Orthanc, through `/modify`, whose only modification is the transfer syntax."""
        request = {"Transcode": _checked(UID, transfer_syntax), "Keep": ["SOPInstanceUID"], "Force": True}
        path = "/instances/" + _checked(ORTHANC_ID, instance_id) + "/modify"
        return self._file("POST", path, json.dumps(request).encode())

    def submit_store_job(
        self, modality: str, ids: Sequence[str], local_ae_title: str, originator_ae_title: str, originator_id: int
    ) -> str:
        """Have Orthanc send `ids` to the modality of this name in the background; the job's identifier."""
        request = {
            "Resources": list(ids),
            "LocalAet": local_ae_title,
            "MoveOriginatorAet": originator_ae_title,
            "MoveOriginatorID": originator_id,
            "Asynchronous": True,
            "Permissive": True,  # one failed image must not end the others
        }
        answer = self._post_json("/modalities/" + quote(modality, safe="") + "/store", request)
        return str(answer["ID"])

    def _post_json(self, path: str, content: object) -> Any:
        return self._json("POST", path, json.dumps(content).encode())

    def _json(self, method: str, path: str, body: Body | None = None, headers: Mapping[str, str] = NO_HEADERS) -> Any:
        with self._response(method, path, body, headers) as response, _translated(method, path):
            content = response.read()
        try:
            return json.loads(content)
        except ValueError as error:
            raise OrthancRefused(response.status, -1, f"{method} {_route(path)}: the answer is not JSON") from error

    def _file(self, method: str, path: str, body: Body | None = None) -> BinaryIO:
        with self._response(method, path, body, NO_HEADERS) as response, _translated(method, path):
            length = int(response.headers.get("content-length", 0))
            if 0 < length <= MEMORY_LIMIT:
                return io.BytesIO(response.read())
            file = tempfile.SpooledTemporaryFile(MEMORY_LIMIT)  # noqa: SIM115 - the caller closes it
            try:
                shutil.copyfileobj(response, file, BLOCK_SIZE)
            except BaseException:
                file.close()
                raise
            file.seek(0)
            return cast("BinaryIO", file)

    @contextmanager
    def _response(self, method: str, path: str, body: Body | None, headers: Mapping[str, str]) -> Iterator[Answer]:
        """A good answer whose body is still to be read."""
        with _translated(method, path):
            response = self._servers.urlopen(method, path, body, headers)
        with response:
            if response.status >= HTTPStatus.BAD_REQUEST:
                with _translated(method, path):
                    content = response.read()
                raise _refusal(response.status, content, f"{method} {_route(path)}")
            yield response


@contextmanager
def _translated(method: str, path: str) -> Iterator[None]:
    try:
        yield
    except (HTTPError, OSError) as error:
        raise OrthancUnreachable(f"{method} {_route(path)}: {type(error).__name__}") from error


def _refusal(http_status: int, content: bytes, route: str) -> OrthancRefused:
    """Orthanc's own words are left out: its Details can quote values."""
    try:
        answer = json.loads(content)
        code, message = int(answer["OrthancStatus"]), str(answer["OrthancError"])
    except (ValueError, KeyError, TypeError):
        code, message = -1, ""
    kind = ResourceMissing if http_status == HTTPStatus.NOT_FOUND and code != INEXISTENT_TAG else OrthancRefused
    return kind(http_status, code, f"{route}: {message}")


def _route(path: str) -> str:
    """The path without what follows `?`."""
    return path.partition("?")[0]


def _checked(pattern: re.Pattern[str], text: str) -> str:
    """`text`, which is safe to be part of a path.

    Raises:
        ValueError: it is not.
    """
    if pattern.fullmatch(text) is None:
        raise ValueError("not an Orthanc identifier or UID")
    return text
