"""What the documentation of Orthanc's Python plugin shows, put together by us: a contender, not a part of Isen.

Runs inside Orthanc's interpreter: pynetdicom's server in place of Orthanc's, storage callbacks that call boto3. The
process's environment names the bucket (BENCH_S3_ENDPOINT, BENCH_S3_BUCKET), its credentials and where the two packages
are (BENCH_PACKAGES).
"""

import json
import os
import sys

import orthanc  # type: ignore[import-not-found]  # provided by Orthanc

sys.path.append(os.environ["BENCH_PACKAGES"])

import boto3
from botocore.config import Config
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at run time
from pynetdicom.transport import ThreadedAssociationServer

_BUCKET = os.environ["BENCH_S3_BUCKET"]
_S3 = boto3.client(
    "s3",
    endpoint_url=os.environ["BENCH_S3_ENDPOINT"],
    region_name="us-east-1",
    config=Config(s3={"addressing_style": "path"}, max_pool_connections=50),
)
_servers: list[ThreadedAssociationServer | None] = []


def _create(uuid: str, content_type: int, data: bytes) -> None:
    _S3.put_object(Bucket=_BUCKET, Key=f"{uuid}.{int(content_type)}", Body=data)


def _read(uuid: str, content_type: int) -> bytes:
    return _S3.get_object(Bucket=_BUCKET, Key=f"{uuid}.{int(content_type)}")["Body"].read()


def _remove(uuid: str, content_type: int) -> None:
    _S3.delete_object(Bucket=_BUCKET, Key=f"{uuid}.{int(content_type)}")


def _store(event: evt.Event) -> int:
    """C-STORE: hand the instance to Orthanc's core."""
    try:
        orthanc.RestApiPost("/instances", event.encoded_dataset())
    except orthanc.OrthancException:
        return 0xA700
    return 0x0000


def _on_change(change: int, _level: int, _resource: str) -> None:
    if change == orthanc.ChangeType.ORTHANC_STARTED:
        entity = AE(ae_title="ORTHANC")
        entity.maximum_associations = 1000  # its default, 10, would refuse the sixteen senders
        entity.supported_contexts = AllStoragePresentationContexts
        entity.add_supported_context(Verification)
        port = json.loads(orthanc.GetConfiguration())["DicomPort"]
        _servers.append(entity.start_server(("", port), block=False, evt_handlers=[(evt.EVT_C_STORE, _store)]))
    elif change == orthanc.ChangeType.ORTHANC_STOPPED:
        for server in _servers:
            if server is not None:
                server.shutdown()


orthanc.RegisterStorageArea(_create, _read, _remove)
orthanc.RegisterOnChangeCallback(_on_change)
