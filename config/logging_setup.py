"""Logging of the child processes: one event per line on standard error, which Orthanc's service collects.

    2026-03-01T12:00:00.123Z WARNING scp-1 store_refused status=0xA700 calling_ae_title='CT1' …

An exception's traceback is folded into its event's line, so that a line is always a whole event. The libraries' own
loggers are kept short: pynetdicom's may print identifiers of patients and is silent below CRITICAL.
"""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Final

_FOLD: Final = " | "
_LIMITS: Final = {
    "pynetdicom": logging.CRITICAL,  # dumps of data sets and queries: patient data
    "pydicom": logging.CRITICAL,  # warnings quote element values
    "boto3": logging.WARNING,
    "botocore": logging.WARNING,
    "urllib3": logging.WARNING,
}


class OneLine(logging.Formatter):
    """UTC time, level, process, event; control characters escaped and line ends folded."""

    def __init__(self, process: str) -> None:
        super().__init__(f"%(asctime)s %(levelname)s {process.replace('%', '%%')} %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802 - override
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        return time.removesuffix("+00:00") + "Z"

    def format(self, record: logging.LogRecord) -> str:
        lines = [line.strip() for line in super().format(record).splitlines()]
        return "".join(map(_visible, _FOLD.join(line for line in lines if line)))


def _visible(character: str) -> str:
    """A character a terminal cannot take for a command; AE titles and addresses come from strangers."""
    return character if character.isprintable() else character.encode("unicode_escape").decode()


def set_up_logging(process: str, level: int = logging.INFO) -> None:
    """Send every event of this process to standard error, under the name `process` (`transfer`, `scp-1`)."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine(process))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    logging.getLogger("py.warnings").setLevel(logging.ERROR)  # pydicom's quote element values
    for name, limit in _LIMITS.items():
        logging.getLogger(name).setLevel(limit)
        logging.getLogger(name).propagate = True
    logging.raiseExceptions = False  # a full disk under standard error must not end a worker
