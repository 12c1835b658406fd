"""The pipeline to a real Orthanc: it takes several requests at once, and again on the same connection."""

from __future__ import annotations

import json
import time
from contextlib import closing
from pathlib import Path

import pytest

from config.settings import OrthancSettings
from scp.administration import Administration
from scp.orthanc_client import OrthancRefused
from scp.pipeline import Pipeline
from tests.integration.scp_fixtures import LocalOrthanc

PATHS = ("/tools/default-encoding", "/modalities?expand", "/tools/unknown-sop-class-accepted")


def test_answers_to_all_again_and_again_and_after_a_pause(tmp_path: Path) -> None:
    """Orthanc closes connections that are idle: that is nobody's error."""
    orthanc = LocalOrthanc(tmp_path, {"DicomModalities": {"ct": ["CT1", "192.0.2.1", 104]}, "KeepAliveTimeout": 1})
    settings = OrthancSettings(url=f"http://127.0.0.1:{orthanc.http_port}")
    try:
        with closing(Pipeline(settings, "", 5)) as pipeline:
            first = pipeline.get(*PATHS)
            assert (first[0], first[2]) == (b"Latin1", b"0")
            assert json.loads(first[1])["ct"]["AET"] == "CT1"
            assert [pipeline.get(*PATHS) for _ in range(50)] == [first] * 50
            time.sleep(1.5)
            assert pipeline.get(*PATHS) == first
            with pytest.raises(OrthancRefused, match="HTTP 404"):
                pipeline.get("/nonsense")
            assert Administration(pipeline)().modalities[0].ae_title == "CT1"
    finally:
        orthanc.stop()
