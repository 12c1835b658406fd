"""`isen status`: what a running Isen says about itself, as a table."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote, urlsplit, urlunsplit

from config.settings import MEGABYTE

_DEADLINE: Final = 10.0  # seconds
_LONG_SILENCE: Final = 10.0  # seconds; a process reports every second, and is killed when it has not for 30


class StatusUnavailable(Exception):
    """No Isen answered; the message says why and what to do."""


@dataclass(frozen=True)
class Line:
    """One line of the table; `healthy` is None where there is nothing to judge."""

    name: str
    value: str
    healthy: bool | None = None


def fetch(url: str) -> dict[str, Any]:
    """The JSON of `/isen/status` of the Orthanc at `url`, which may hold a user name and password.

    Raises:
        StatusUnavailable: no answer, or not Isen's.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise StatusUnavailable('--url must be the address of Orthanc, such as "http://127.0.0.1:8042"')
    address = urlunsplit(
        (parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/") + "/isen/status", "", "")
    )
    request = urllib.request.Request(address)  # noqa: S310 - http and https only, see above
    if parts.username:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        request.add_header("Authorization", "Basic " + base64.b64encode(pair.encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=_DEADLINE) as answer:  # noqa: S310 - as above
            document = json.load(answer)
    except urllib.error.HTTPError as error:
        raise StatusUnavailable(f"{address} answered {error.code}; {_remedy(error.code)}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise StatusUnavailable(
            f"{address} cannot be read ({reason}); is Orthanc running, and this its address?"
        ) from None
    if not isinstance(document, dict) or "Storage" not in document:
        raise StatusUnavailable(f"{address} answered, but is not Isen's status")
    return document


def _remedy(code: int) -> str:
    if code in (401, 403):
        return "put the credentials into the address (http://user:password@host) by the variable ISEN_URL"
    if code == 404:
        return "this Orthanc runs without Isen"
    return "see Orthanc's log"


def lines(document: dict[str, Any]) -> Iterator[Line]:
    """The table's lines; fields this version does not know are left out, missing ones shown as unknown."""
    storage = document["Storage"]
    store, spool, cache = (storage.get(name) or {} for name in ("ObjectStore", "Spool", "Cache"))
    state = store.get("State", "Unknown")
    yield Line("Object store", " ".join(filter(None, (state, store.get("Reason")))), state == "Available")
    yield Line("Bucket", f"{store.get('Bucket')} at {store.get('Endpoint') or 'AWS'}")
    used, maximum = spool.get("UsedBytes"), spool.get("MaximumBytes")
    yield Line("Spool", f"{_megabytes(used)} of {_megabytes(maximum)}", not maximum or (used or 0) < maximum)
    if spool.get("State", "Healthy") != "Healthy":
        yield Line("Spool's disk", f"{spool['State']} {spool.get('Reason', '')}".strip(), healthy=False)
    pending, oldest = spool.get("PendingCount"), spool.get("OldestPendingSeconds")
    yield Line("Waiting for upload", f"{_known(pending)}" + (f", the oldest for {oldest:.0f} s" if oldest else ""))
    yield Line("Waiting for deletion", _known(spool.get("TombstoneCount")))
    yield Line("Quarantined", _known(spool.get("QuarantineCount")), not spool.get("QuarantineCount"))
    yield Line("Cache", f"{_megabytes(cache.get('Bytes'))} of {_megabytes(cache.get('MaximumBytes'))}")
    yield _process("Transfer process", storage.get("Transfer") or {})
    dicom = document.get("Dicom")
    if not dicom:
        yield Line("DICOM server", "switched off")
        return
    yield Line("DICOM server", f"{dicom.get('AETitle')} on port {dicom.get('Port')}")
    yield Line("Associations", f"{_known(dicom.get('Associations'))} of {_known(dicom.get('MaximumAssociations'))}")
    for worker in dicom.get("Workers", ()):
        yield _process(f"DICOM process {worker.get('Name', '')}".strip(), worker)


def _process(name: str, child: dict[str, Any]) -> Line:
    ready = bool(child.get("Ready"))
    restarts = f", restarted {child['Restarts']} times" if child.get("Restarts") else ""
    silence = child.get("ReportAgeSeconds") or 0.0
    is_silent = ready and silence > _LONG_SILENCE
    state = f"silent for {silence:.0f} s" if is_silent else "ready" if ready else "not ready"
    return Line(name, f"{state} (process {_known(child.get('Pid'))}){restarts}", ready and not is_silent)


def _known(value: Any) -> str:
    return "unknown" if value is None else str(value)


def _megabytes(value: int | None) -> str:
    return "unknown" if value is None else f"{value / MEGABYTE:.1f} MB"
