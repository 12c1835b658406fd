"""Orthanc's index as its REST API shows it: every attachment of every resource, page by page, while Orthanc works.

Orthanc numbers its pages by position, so a removal moves later resources into pages already read. Pages therefore
overlap, and each must contain something of the one before it; if it does not, reading goes back until it does. So
every resource that exists from the beginning to the end of the reading is seen, some of them twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO, Final
from urllib.parse import quote, unquote

from backend.maintenance.rest import OrthancRefused, OrthancRest, OrthancUnavailable
from backend.object_key import DICOM, DICOM_AS_JSON, DICOM_UNTIL_PIXEL_DATA, attachment_name

LEVELS: Final = ("patients", "studies", "series", "instances")
ORTHANC_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{8}){4}")
_PAGE: Final = 1000  # resources
_OVERLAP: Final = 100
_CONTENT_TYPES: Final = {
    "dicom": DICOM,
    "dicom-as-json": DICOM_AS_JSON,
    "dicom-until-pixel-data": DICOM_UNTIL_PIXEL_DATA,
}


@dataclass(frozen=True)
class IndexedAttachment:
    """What the index says of one attachment."""

    name: str  # of its object and of its file in spool and cache
    size: int  # bytes as stored
    md5: str  # hexadecimal, of the bytes as stored; "" with StoreMD5ForAttachments false
    level: str  # of LEVELS
    resource: str  # Orthanc id
    attachment: str  # "dicom", "dicom-until-pixel-data", …

    @property
    def path(self) -> str:
        """Where Orthanc's REST API has it."""
        return f"/{self.level}/{self.resource}/attachments/{quote(self.attachment, safe='')}"


class OrthancIndex:
    """Reads the index. Thread-safe."""

    def __init__(self, rest: OrthancRest, *, legacy: bool, parallel: int) -> None:
        """`parallel` requests at a time."""
        self._rest = rest
        self._legacy = legacy
        self._parallel = parallel

    def count(self) -> int:
        """Resources of all levels, for a progress bar.

        Raises:
            OrthancUnavailable: it cannot be asked.
        """
        found = self._rest.get("/statistics") or {}
        return sum(
            int(found.get(name, 0)) for name in ("CountPatients", "CountStudies", "CountSeries", "CountInstances")
        )

    def attachments(self) -> Iterator[tuple[int, list[IndexedAttachment]]]:
        """Page by page: the number of resources that were read, and their attachments.

        Raises:
            OrthancUnavailable: it cannot be asked.
        """
        with ThreadPoolExecutor(self._parallel, thread_name_prefix="index") as pool:
            for level in LEVELS:
                for page in self._pages(level):
                    found = pool.map(lambda resource, level=level: self.of_resource(level, resource), page)
                    yield len(page), [attachment for attachments in found for attachment in attachments]

    def of_resource(self, level: str, resource: str) -> list[IndexedAttachment]:
        """The attachments of one resource; none if it does not exist."""
        names = self._rest.get(f"/{level}/{resource}/attachments") or []
        found = (self._read(level, resource, str(name)) for name in names)
        return [attachment for attachment in found if attachment is not None]

    def refers_to(self, name: str, path: str) -> bool:
        """Whether the attachment at this path is still the one of this name."""
        current = self.at(path)
        return current is not None and current.name == name

    def at(self, path: str) -> IndexedAttachment | None:
        """The attachment that the index holds at this path, if any."""
        _, level, resource, _, attachment = path.split("/")
        return self._read(level, resource, unquote(attachment))

    def with_sop_instance(self, uid: str) -> list[IndexedAttachment]:
        """The attachments of every instance with this SOPInstanceUID: one, unless patients or studies were mixed up.

        One request if there is none: Orthanc looks it up in its index.

        Raises:
            OrthancUnavailable: it cannot be asked.
        """
        found = self._rest.post("/tools/lookup", uid.encode())
        if not isinstance(found, list):  # Orthanc's own answer is one, if an empty one; None is a 404
            raise OrthancUnavailable("POST /tools/lookup: unexpected answer; is this Orthanc?")
        instances = [str(entry["ID"]) for entry in found if entry.get("Type") == "Instance"]
        return [attachment for instance in instances for attachment in self.of_resource("instances", instance)]

    def is_builtin(self) -> bool:
        """Whether it is Orthanc's own SQLite, which may lose its last seconds in a power cut, and not a server's.

        Raises:
            OrthancUnavailable: it cannot be asked, or does not say.
        """
        system = self._rest.get("/system")
        if not isinstance(system, dict) or "DatabaseBackendPlugin" not in system:
            raise OrthancUnavailable("GET /system: the answer does not say which index Orthanc uses")
        return system["DatabaseBackendPlugin"] is None

    def delete_instance(self, instance: str) -> None:
        """Have Orthanc delete an instance; it need not exist any more.

        Raises:
            OrthancUnavailable: it cannot be asked, or refused.
        """
        self._rest.delete(f"/instances/{instance}")

    def post_instance(self, content: bytes | BinaryIO) -> dict[str, Any]:
        """Store a DICOM file; Orthanc's answer, with "Status" and "ID".

        Raises:
            OrthancUnavailable: it was not stored.
        """
        answer = self._rest.post("/instances", content)
        if not isinstance(answer, dict) or "Status" not in answer:
            raise OrthancRefused("POST /instances: unexpected answer")
        return answer

    def storage_of_isen(self) -> dict[str, Any] | None:
        """What `/isen/status` says of the storage; None if this Orthanc runs without Isen."""
        status = self._rest.get("/isen/status")
        storage = status.get("Storage") if isinstance(status, dict) else None
        return storage if isinstance(storage, dict) else None

    def _read(self, level: str, resource: str, attachment: str) -> IndexedAttachment | None:
        path = f"/{level}/{resource}/attachments/{quote(attachment, safe='')}/info"
        info = self._rest.get(path)
        if info is None:
            return None  # removed meanwhile
        try:
            content_type = int(info.get("ContentType", _CONTENT_TYPES.get(attachment, 0)))
            name = attachment_name(str(info["Uuid"]), content_type, legacy=self._legacy)
            size, md5 = int(info["CompressedSize"]), str(info.get("CompressedMD5", "")).lower()
        except (KeyError, TypeError, ValueError):
            raise OrthancUnavailable(f"GET {path}: unexpected answer; Orthanc 1.10.1 or later is needed") from None
        return IndexedAttachment(name, size, md5, level, resource, attachment)

    def _pages(self, level: str) -> Iterator[list[str]]:
        position = 0  # of the first resource not seen yet, if none was removed
        seen: set[str] = set()  # of the page before
        while True:
            start = max(0, position - _OVERLAP)
            page = self._page(level, start)
            back = _OVERLAP
            while start > 0 and seen.isdisjoint(page):
                back *= 4
                start = max(0, start - back)
                page = self._page(level, start)
            last_seen = max((number for number, resource in enumerate(page) if resource in seen), default=-1)
            yield page[last_seen + 1 :]
            if len(page) < _PAGE:
                return
            position = start + len(page)
            seen = set(page)

    def _page(self, level: str, start: int) -> list[str]:
        page = self._rest.get(f"/{level}?since={start}&limit={_PAGE}")
        if not isinstance(page, list):
            raise OrthancUnavailable(f"GET /{level}: unexpected answer")
        return [str(resource) for resource in page]
