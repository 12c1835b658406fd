"""Reports of modalities that Orthanc has asked for storage commitment.

    received/<SHA-256 of the Transaction UID>   as Orthanc's `/storage-commitment/{id}` answers; read by the plugin

Orthanc itself cannot be told of them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from scp.durable_folder import DurableFolder, file_name
from scp.statuses import NOT_AUTHORIZED, Refusal
from scp.storage_commitment.transactions import Failures, Reference

MAXIMUM_REPORTS: Final = 1000  # the oldest go; Orthanc itself keeps 100 (StorageCommitmentReportsSize) in memory
_RECEIVED: Final = "received"
_DESCRIPTIONS: Final = {  # PS3.3 C.14.1.1, in Orthanc's words
    0x0110: "A general failure in processing the operation was encountered",
    0x0112: "One or more of the elements in the Referenced SOP Instance Sequence was not available",
    0x0119: "The SOP Class of an element in the Referenced SOP Instance Sequence did not correspond to the SOP class "
    "registered for this SOP Instance at the SCP",
    0x0122: "Storage Commitment has been requested for a SOP Instance with a SOP Class that is not supported by the "
    "SCP",
    0x0131: "The Transaction UID of the Storage Commitment Request is already in use",
    0x0213: "The SCP does not currently have enough resources to store the requested SOP Instance(s)",
}


class ReceivedReports:
    """Thread-safe, and shared by the workers."""

    def __init__(self, directory: Path) -> None:
        self._folder = DurableFolder(directory, _RECEIVED)

    def keep(
        self,
        transaction_uid: str,
        ae_title: str,
        committed: tuple[Reference, ...],
        failed: tuple[Reference, ...],
        failures: Failures,
    ) -> None:
        """On stable storage when this returns. A report that comes again replaces the earlier one.

        Raises:
            Refusal: another AE has reported on this transaction, and what it said must not be changed by this one.
            OSError: it was not kept; the modality sends it again if it is told so.
        """
        report: dict[str, Any] = {
            "Failures": [
                {
                    **_named(one),
                    "FailureReason": failures[one.sop_instance_uid],
                    "Description": _DESCRIPTIONS.get(failures[one.sop_instance_uid], "Unknown failure reason"),
                }
                for one in failed
            ],
            "RemoteAET": ae_title,
            "Status": "Failure" if failed else "Success",
            "Success": [_named(one) for one in committed],
        }
        name, content = file_name(transaction_uid), json.dumps(report, indent=1).encode() + b"\n"
        try:
            self._folder.add(_RECEIVED, name, content)
        except FileExistsError:
            self._require_reporter(name, ae_title)
            self._folder.put(_RECEIVED, name, content)
        names = self._folder.names(_RECEIVED)
        for name in names[: max(0, len(names) - MAXIMUM_REPORTS)]:
            self._folder.remove(_RECEIVED, name)

    def _require_reporter(self, name: str, ae_title: str) -> None:
        earlier = self._folder.read(_RECEIVED, name)
        if earlier is not None and json.loads(earlier)["RemoteAET"] != ae_title:
            raise Refusal(NOT_AUTHORIZED, "another AE has reported on this transaction")


def _named(reference: Reference) -> dict[str, str]:
    return {"SOPClassUID": reference.sop_class_uid, "SOPInstanceUID": reference.sop_instance_uid}
