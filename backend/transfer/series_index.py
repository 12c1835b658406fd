"""What Orthanc's index says of series and their attachments, asked over its REST API with the plugin's token.

Every version of Orthanc since 1.10 tells the UUID of an instance's DICOM file wherever it describes the instance.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import urllib3
from urllib3.exceptions import HTTPError

from config.https import verifying_context
from config.settings import OrthancSettings

_CONNECT_TIMEOUT: Final = 5.0  # seconds
_READ_TIMEOUT: Final = 60.0  # seconds without a byte; a series of thousands takes Orthanc a second
_CONNECTIONS: Final = 3  # each holds one of Orthanc's HTTP threads while it is in use


class IndexUnavailable(Exception):
    """Orthanc did not answer, or not what was expected; it may later."""


@dataclass(frozen=True, slots=True)
class Instance:
    """An instance and its DICOM file."""

    orthanc_id: str
    sop_instance_uid: str
    uuid: str  # of the attachment
    size: int  # bytes, before a compression by Orthanc
    number: int = 0  # in its series; 0: unknown


class SeriesIndex:
    """Asks Orthanc. Thread-safe."""

    def __init__(self, settings: OrthancSettings, token: str) -> None:
        """`token` is what `GenerateRestApiAuthorizationToken` gave."""
        options: dict[str, Any] = {}
        if settings.url.startswith("https"):
            options["ssl_context"] = verifying_context(settings.ca_certificates)
            options["assert_hostname"] = False  # it is this machine: the certificate names the hospital's host
        self._url = settings.url.rstrip("/")
        self._headers = {"Authorization": token} if token else {}
        self._pool = urllib3.PoolManager(
            maxsize=_CONNECTIONS,
            block=True,
            timeout=urllib3.Timeout(connect=_CONNECT_TIMEOUT, read=_READ_TIMEOUT),
            retries=urllib3.Retry(2, redirect=0, raise_on_status=False),
            **options,
        )

    def series_with(self, series_instance_uid: str) -> list[str]:
        """Orthanc's identifiers of the series with this SeriesInstanceUID; more than one if patients share it.

        Raises:
            IndexUnavailable: as for every method.
        """
        found = self._ask("POST", "/tools/lookup", series_instance_uid.encode()) or []
        return [str(resource["ID"]) for resource in found if resource["Type"] == "Series"]

    def instances_of_series(self, series: str) -> list[Instance]:
        """In the order in which Orthanc lists them."""
        return _instances(self._ask("GET", f"/series/{series}/instances") or [])

    def series_of_study_with(self, series: str) -> list[str]:
        """This series and its siblings, in the order in which Orthanc puts them into an archive."""
        described = self._ask("GET", f"/series/{series}") or {}
        study = self._ask("GET", f"/studies/{described['ParentStudy']}") if "ParentStudy" in described else None
        return sorted((study or {}).get("Series", []))

    def instances_of(self, resource: str) -> list[Instance]:
        """All instances of a patient, study or series, or the instance itself; none if there is no such resource."""
        body = {"Resources": [resource], "Level": "Instance", "Short": True}
        return _instances(self._ask("POST", "/tools/bulk-content", json.dumps(body).encode()) or [])

    def head_of(self, instance: str) -> tuple[str, int] | None:
        """UUID and size of the attachment that holds the file up to its pixel data, if there is one."""
        info = self._ask("GET", f"/instances/{instance}/attachments/dicom-until-pixel-data/info")
        return (str(info["Uuid"]), int(info["CompressedSize"])) if info else None

    def _ask(self, method: str, path: str, body: bytes | None = None) -> Any:
        """The JSON of the answer; None: there is no such resource."""
        try:
            answer = self._pool.request(method, self._url + path, body=body, headers=self._headers)
        except HTTPError as error:
            raise IndexUnavailable(f"Orthanc does not answer: {type(error).__name__}") from None
        if answer.status == HTTPStatus.NOT_FOUND:
            return None
        if answer.status >= HTTPStatus.BAD_REQUEST:
            raise IndexUnavailable(f"{method} {path} was answered {answer.status}")
        try:
            return json.loads(answer.data)
        except ValueError:
            raise IndexUnavailable(f"{method} {path}: the answer is not JSON") from None


def _instances(rows: list[dict[str, Any]]) -> list[Instance]:
    return [
        Instance(
            str(row["ID"]),
            _sop_instance_uid(row),
            str(row["FileUuid"]),
            int(row["FileSize"]),
            int(row.get("IndexInSeries") or 0),
        )
        for row in rows
        if "FileUuid" in row
    ]


def _sop_instance_uid(row: dict[str, Any]) -> str:
    tags = row.get("MainDicomTags", {})
    return str(tags.get("SOPInstanceUID") or tags.get("0008,0018") or "")
