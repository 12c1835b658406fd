"""`GET /isen/status` and the metrics: what the children report and what the storage area counts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from backend.plugin.attachments import Attachments
from backend.plugin.mpps_routes import MppsRoutes
from backend.spool import Spool
from config.supervisor import Supervisor

TRANSFER = "transfer"
WORKER = "scp-"  # and a number


class Status:
    """Puts the state of spool, cache, S3, workers and associations together."""

    def __init__(
        self,
        host: Any,
        settings: dict[str, Any],
        spool: Spool,
        attachments: Attachments,
        supervisor: Supervisor,
        *,
        mpps: MppsRoutes,
    ) -> None:
        self._host = host
        self._settings = settings
        self._spool = spool
        self._attachments = attachments
        self._supervisor = supervisor
        self._mpps = mpps

    def answer(self, output: Any, _uri: str, **request: Any) -> None:
        """The REST callback."""
        if request["method"] != "GET":  # the Python plugin passes its name
            output.SendMethodNotAllowed("GET")
            return
        output.AnswerBuffer(json.dumps(self.document(), indent=2) + "\n", "application/json")

    def document(self) -> dict[str, Any]:
        """The JSON of `/isen/status`; sizes in bytes, times in seconds."""
        children = self._supervisor.status()
        transfer = next(child for child in children if child["Name"] == TRANSFER)
        workers = [child for child in children if child["Name"].startswith(WORKER)]
        others = [child for child in children if child["Name"] != TRANSFER and child not in workers]
        storage = self._settings["Storage"]
        dicom = self._settings["Dicom"]
        return {
            "Storage": {
                "Durability": storage["Durability"],
                "HybridMode": storage["HybridMode"],
                "StorageDirectory": storage["StorageDirectory"],  # null unless HybridMode is on
                "StorageArea": 3 if hasattr(self._host, "RegisterStorageArea3") else 1,  # Orthanc's API
                "Spool": {
                    "Directory": storage["SpoolDirectory"],
                    **self._spool.health.report(),
                    "UsedBytes": self._spool.used,
                    "MaximumBytes": self._spool.maximum_size,
                    "PendingCount": transfer.get("PendingCount"),
                    "PendingBytes": transfer.get("PendingBytes"),
                    "OldestPendingSeconds": transfer.get("OldestPendingSeconds"),
                    "TombstoneCount": transfer.get("TombstoneCount"),
                    "HeldTombstoneCount": transfer.get("HeldTombstoneCount"),
                    "QuarantineCount": transfer.get("QuarantineCount"),
                },
                "Cache": {"Directory": storage["CacheDirectory"], **transfer.get("Cache", {})},
                "ObjectStore": {
                    "Bucket": storage["BucketName"],
                    "Endpoint": storage["Endpoint"],
                    "EncryptionKey": (storage["Encryption"] or {}).get("CurrentKey"),  # its id; null: not encrypted
                    **transfer.get("ObjectStore", {"State": "Unknown"}),
                },
                "Reconciliation": transfer.get("Reconciliation", {"State": "Unknown"}),
                "Counters": {**self._attachments.counters, **transfer.get("Counters", {})},
                "Transfer": {name: transfer[name] for name in ("Pid", "Ready", "Restarts", "ReportAgeSeconds")},
            },
            "Dicom": {
                "AETitle": dicom["AeTitle"],
                "Port": dicom["Port"],
                "Associations": sum(worker.get("Associations", 0) for worker in workers),
                "MaximumAssociations": dicom["MaximumAssociations"],
                "Acknowledge": dicom["Acknowledge"],
                "Received": _received(workers),
                "Workers": workers,
                "PerformedProcedureSteps": self._mpps.forwarding(),  # None: nobody is told of them
            }
            if dicom
            else None,
            "Processes": others,
        }

    def publish_metrics(self) -> None:
        """Hand the figures to Orthanc, which shows them in `/tools/metrics-prometheus`."""
        document = self.document()
        storage = document["Storage"]
        metrics = {
            "spool_healthy": storage["Spool"]["State"] == "Healthy",
            "spool_used_bytes": storage["Spool"]["UsedBytes"],
            "spool_pending_count": storage["Spool"]["PendingCount"],
            "spool_oldest_pending_seconds": storage["Spool"]["OldestPendingSeconds"],
            "spool_quarantine_count": storage["Spool"]["QuarantineCount"],
            "spool_held_tombstone_count": storage["Spool"]["HeldTombstoneCount"],
            "reconciliation_undecided_count": storage["Reconciliation"].get("Undecided"),
            "cache_bytes": storage["Cache"].get("Bytes"),
            "object_store_available": storage["ObjectStore"]["State"] == "Available",
            **{f"storage_{name}_total": value for name, value in storage["Counters"].items()},
        }
        if document["Dicom"]:
            workers = document["Dicom"]["Workers"]
            metrics["scp_associations"] = document["Dicom"]["Associations"]
            metrics["scp_workers_ready"] = sum(worker["Ready"] for worker in workers)
            received = document["Dicom"]["Received"]
            if received:
                metrics["scp_received_count"] = received["Count"]
                metrics["scp_received_bytes"] = received["Bytes"]
                metrics["scp_received_oldest_seconds"] = received["OldestSeconds"]
                metrics["scp_received_refused_count"] = received["RefusedCount"]
            forwarding = document["Dicom"]["PerformedProcedureSteps"]
            if forwarding:
                metrics["mpps_forward_pending_count"] = forwarding["Outgoing"]
                metrics["mpps_forward_refused_count"] = forwarding["Refused"]
            names = {name for worker in workers for name in worker.get("Counters", {})}
            for name in names:
                metrics[f"scp_{name}_total"] = sum(worker.get("Counters", {}).get(name, 0) for worker in workers)
        for process in document["Processes"]:
            for name, value in process.get("Counters", {}).items():
                metrics[f"{process['Name']}_{name}_total"] = value
        for name, value in metrics.items():
            self._host.SetMetricsValue(f"isen_{name}", float(value or 0), self._host.MetricsType.DEFAULT)


def _received(workers: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """What is acknowledged and not in Orthanc yet, over all workers; None if they keep no such journal."""
    reports = [worker["Received"] for worker in workers if worker.get("Received")]
    if not reports:
        return None
    return {
        "Count": sum(report["Count"] for report in reports),
        "Bytes": sum(report["Bytes"] for report in reports),
        "OldestSeconds": max((report["OldestSeconds"] or 0.0 for report in reports), default=0.0),
        "RefusedCount": max(report["RefusedCount"] for report in reports),  # a folder that they share
    }
