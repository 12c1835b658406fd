"""TLS of DICOM connections after PS3.15 B.12 (BCP 195): TLS 1.2 or later, forward secrecy, both sides known."""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from config.settings import TlsSettings

log = logging.getLogger(__name__)

# PS3.15 B.12 names these for TLS 1.2; the ciphers of TLS 1.3 are not chosen here.
_BCP_195: Final = (
    "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:DHE-RSA-AES256-GCM-SHA384:"
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:DHE-RSA-AES128-GCM-SHA256"
)
_TLS_1_3: Final = 5  # DicomTlsMinimumProtocolVersion, Orthanc's numbering
_RELOAD: Final = 5.0  # seconds between looks at the files


class TlsContext:
    """The context of new connections, made again when its files change; connections that exist keep theirs."""

    def __init__(self, settings: TlsSettings, *, server_side: bool) -> None:
        """Load the files.

        Raises:
            OSError: a file cannot be read, or the key does not fit the certificate; the text names neither's content.
        """
        self._make: Callable[[], ssl.SSLContext] = lambda: make_context(settings, server_side=server_side)
        paths = (settings.certificate, settings.private_key, settings.trusted_certificates)
        self._files = [path for path in paths if path]
        self._changed = self._times()
        self._context = self._make()
        self._next_look = time.monotonic() + _RELOAD
        self._lock = threading.Lock()

    def current(self) -> ssl.SSLContext:
        """The context to use now; a set of files that does not load leaves the last one in use."""
        with self._lock:
            if time.monotonic() >= self._next_look:
                self._next_look = time.monotonic() + _RELOAD
                self._reload()
            return self._context

    def _reload(self) -> None:
        changed = self._times()
        if changed == self._changed:
            return
        try:
            self._context = self._make()
        except OSError as error:
            log.error("tls_certificates_not_loaded reason=%r", str(error))  # noqa: TRY400 -- the trace adds nothing
        else:
            log.info("tls_certificates_loaded certificate=%s", self._files[0])
        self._changed = changed

    def _times(self) -> list[tuple[int, int]]:
        return [_stamp(path) for path in self._files]


def make_context(settings: TlsSettings, *, server_side: bool) -> ssl.SSLContext:
    """A context with these files.

    Raises:
        OSError: a file is missing or not what it should be.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
    # Orthanc's numbers below 4 stand for protocols nobody may use any more (RFC 8996): TLS 1.2 is the least.
    tls_1_3 = settings.minimum_protocol_version >= _TLS_1_3
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if tls_1_3 else ssl.TLSVersion.TLSv1_2
    chosen = settings.ciphers_accepted if settings.minimum_protocol_version else ()
    names = [name for name in chosen if not name.startswith("TLS_")]  # those of TLS 1.3 are not configurable in Python
    context.set_ciphers(":".join(names) or _BCP_195)
    context.load_cert_chain(settings.certificate, settings.private_key)
    context.check_hostname = False  # DICOM identifies nodes by certificate, their hosts are mostly bare addresses
    context.verify_mode = ssl.CERT_REQUIRED if settings.remote_certificate_required else ssl.CERT_NONE
    if settings.trusted_certificates is not None:
        context.load_verify_locations(settings.trusted_certificates)
    return context


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_ino
