"""An archive with a bucket that is open to vandals, and the operators' tools run on it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3

from tests.fakes.images import write_series
from tests.integration.harness import Node

ROOT = Path(__file__).parents[2]
NOW = ("--grace-hours", "0", "--settle", "1")
WITHOUT_DICOM = {"Isen": {"Dicom": {"Enabled": False}}}


def isen(node: Node, command: str, *options: str) -> tuple[int, Any]:
    """Run a tool with `--json`; exit code and what it printed."""
    run = run_isen(command, str(node.folder / "orthanc.json"), *options, "--json")
    assert run.stdout, run.stderr
    return run.returncode, json.loads(run.stdout)


def run_isen(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a tool to its end."""
    command = [sys.executable, "-m", "backend.cli", *arguments]
    return subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=120)


def found(document: dict[str, Any]) -> dict[str, str]:
    """Key → kind of every finding."""
    return {finding["Key"]: finding["Kind"] for finding in document["Findings"]}


class Bucket:
    """The node's bucket."""

    def __init__(self, node: Node) -> None:
        keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
        self.client: Any = boto3.client("s3", endpoint_url=node.s3.url, **keys)
        self.node = node
        self.name = node.bucket

    def list(self) -> set[str]:
        return set(self.node.keys())

    def get(self, key: str) -> bytes:
        return self.node.s3.object(self.name, key)

    def put(self, key: str, content: bytes, **options: Any) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=content, **options)

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=self.name, Key=key)

    def digest(self, key: str) -> str:
        return str(self.client.head_object(Bucket=self.name, Key=key)["Metadata"]["sha256"])


def orphan_key(number: int = 0, extension: str = ".dcm") -> str:
    """A key of no attachment."""
    return f"00000000-0000-4000-8000-{number:012}{extension}"


def store_images(node: Node, folder: Path, count: int, side: int = 64) -> dict[str, Path]:
    """Store made-up images and wait until they are in the bucket; Orthanc id → file."""
    stored = {}
    for path in write_series(folder, count, side=side):
        stored[json.loads(node.orthanc.post("/instances", path.read_bytes()))["ID"]] = path
    node.wait_until_uploaded()
    return stored


def key_of(node: Node, instance: str, attachment: str = "dicom") -> str:
    """The key of an instance's attachment."""
    info = node.orthanc.get_json(f"/instances/{instance}/attachments/{attachment}/info")
    return str(info["Uuid"]) + {"dicom": ".dcm", "dicom-until-pixel-data": ".dcm.head"}[attachment]
