"""How the servers are verified that are reached over HTTPS: S3, and Orthanc's REST API."""

from __future__ import annotations

import ssl
from pathlib import Path


def verifying_context(ca_certificates: Path | str | None) -> ssl.SSLContext:
    """A context that wants a certificate of these authorities for the server's name; None: of the system's.

    Extensions that RFC 5280 asks for may be missing, as with boto3, curl and Orthanc: authorities that hospitals have
    made for themselves often lack them. Python takes such certificates before 3.13 and refuses them since, so an
    upgrade of the system would cut an archive off from its images.

    Raises:
        OSError: there are no certificates in that file.
    """
    context = ssl.create_default_context(cafile=ca_certificates)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
