"""Reports of storage commitment on associations of ours."""

from __future__ import annotations

import socket

import pytest

from config.settings import DicomSettings, Modality
from scp.storage_commitment.reporter import NotDelivered, Reporter
from scp.storage_commitment.transactions import Reference, Transaction


def test_nothing_is_sent_in_the_clear_to_a_modality_that_wants_tls() -> None:
    """UseDicomTls may be set over REST while Orthanc runs, without any certificate of ours to show."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        modality = Modality(name="ct", ae_title="CT1", host="127.0.0.1", port=port, use_dicom_tls=True, timeout=1)
        reporter = Reporter(DicomSettings(), lambda: (modality,))
        with pytest.raises(NotDelivered, match="DicomTlsCertificate"):
            reporter.deliver(Transaction("1.2", (Reference("1.3", "1.4"),), "ct", "CT1", "ISEN", 0.0), {})
        listener.setblocking(False)  # noqa: FBT003 -- the standard library's signature
        with pytest.raises(BlockingIOError):
            listener.accept()
