"""Messages that could not be used, kept as they came so that somebody can find out why.

    <ManagedDirectory>/rejected/<time, UTC>-<16 random hexadecimal digits>.hl7   readable by its owner only

They hold patients' data. The oldest are removed when there are too many.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
from datetime import UTC, datetime
from pathlib import Path

log = logging.getLogger(__name__)


class RejectedMessages:
    """The folder. Thread-safe; one process only."""

    def __init__(self, directory: Path, maximum: int) -> None:
        """Make the folder if it is missing; at most `maximum` messages are kept.

        Raises:
            OSError: it cannot be made.
        """
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self._maximum = maximum
        self._lock = threading.Lock()
        self._names = sorted(name for name in os.listdir(directory) if name.endswith(".hl7"))

    def keep(self, content: bytes) -> str:
        """Keep a message; the name of its file, or `-` if the disk did not take it."""
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(8)}.hl7"
        try:
            descriptor = os.open(self._directory / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(descriptor)
        except OSError as error:
            log.error("hl7_message_not_kept reason=%s", error.strerror)  # noqa: TRY400 - one line per event
            (self._directory / name).unlink(missing_ok=True)
            return "-"
        with self._lock:
            self._names.append(name)
            while len(self._names) > self._maximum:
                (self._directory / self._names.pop(0)).unlink(missing_ok=True)
        return name
