"""REST routes of storage commitment: whether attachments are in S3, and the reports that modalities sent to Orthanc.

    POST /isen/committed                 for the SCP workers: see `committed`, and `backend.transfer.confirmer`
    GET  /isen/storage-commitment/{uid}  the report of a modality that Orthanc had asked for commitment
    GET  /storage-commitment/{uid}       the same where Orthanc's users look for it

Orthanc cannot be told of a report that came to our port, and goes on saying that it is pending: so our answer goes
before its own, which stays the answer as long as no report has come.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from backend.object_key import DICOM, attachment_name
from backend.plugin.request_json import read_json
from backend.plugin.transfer_client import TransferClient, TransferError

_TIMEOUT: Final = 30.0  # seconds for one question; the worker asks again
_UID: Final = "([0-9.]{1,64})"


class CommitmentRoutes:
    """The callbacks. None of them holds the GIL while it waits, but for Orthanc's own answer to a pending request."""

    def __init__(self, host: Any, settings: dict[str, Any], transfer: TransferClient) -> None:
        storage = settings["Storage"]
        self._host = host
        self._transfer = transfer
        self._legacy = storage["StorageStructure"] == "legacy"
        # scp.storage_commitment.received writes there
        self._received = Path(storage["SpoolDirectory"]) / "commitments" / "received"
        self._offered = settings["Dicom"] is not None or bool(settings["FrontEndUsers"])

    def routes(self) -> dict[str, Callable[..., None]]:
        """Pattern → callback; none without a worker, here or in a front end, that asks."""
        if not self._offered:
            return {}
        return {
            "/isen/committed": self.committed,
            f"/isen/storage-commitment/{_UID}": self.own_report,
            f"/storage-commitment/{_UID}": self.report,
        }

    def committed(self, output: Any, _uri: str, **request: Any) -> None:
        """Body: `[{"Uuid", "Size", "MD5"}, …]` of DICOM attachments; answer: `{"States": […]}` in their order."""
        if request["method"] != "POST":
            output.SendMethodNotAllowed("POST")
            return
        try:
            attachments = [
                {
                    "Name": attachment_name(fields["Uuid"], DICOM, legacy=self._legacy),
                    "Size": int(fields["Size"]),
                    "MD5": str(fields["MD5"]),
                }
                for fields in read_json(request["body"])
            ]
        except (ValueError, KeyError, TypeError):
            send_status(output, 400)
            return
        try:
            states = self._transfer.confirm(attachments, _TIMEOUT)
        except TransferError:
            states = ["unavailable"] * len(attachments)
        output.AnswerBuffer(json.dumps({"States": states}), "application/json")

    def own_report(self, output: Any, _uri: str, **request: Any) -> None:
        """What a modality reported, or 404."""
        if request["method"] != "GET":
            output.SendMethodNotAllowed("GET")
            return
        report = self._read(request["groups"][0])
        if report is None:
            send_status(output, 404)
        else:
            output.AnswerBuffer(report, "application/json")

    def report(self, output: Any, uri: str, **request: Any) -> None:
        """The report that has come, in Orthanc's format, or else what Orthanc says."""
        if request["method"] != "GET":
            output.SendMethodNotAllowed("GET")
            return
        report = self._read(request["groups"][0])
        if report is None:
            try:
                report = self._host.RestApiGet(uri)
            except Exception:  # noqa: BLE001 -- orthanc.OrthancException, which only exists inside Orthanc: it knows none
                send_status(output, 404)
                return
        output.AnswerBuffer(report, "application/json")

    def _read(self, transaction_uid: str) -> bytes | None:
        try:
            return (self._received / hashlib.sha256(transaction_uid.encode()).hexdigest()).read_bytes()
        except FileNotFoundError:
            return None


def send_status(output: Any, status: int) -> None:
    """An answer without a body."""
    try:
        output.SendHttpStatusCode(status)
    except AttributeError:
        output.SendHttpStatus(status, b"")
