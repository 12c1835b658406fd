"""Log lines of the child processes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def lines_of(script: str) -> list[str]:
    """What a process prints on standard error that sets up logging as scp-1 and then runs `script`."""
    source = "import logging, warnings\nfrom config.logging_setup import set_up_logging\nset_up_logging('scp-1')\n"
    source += "log = logging.getLogger('scp.test')\n" + script
    process = subprocess.run([sys.executable, "-c", source], capture_output=True, cwd=ROOT, timeout=60, check=True)
    assert process.stdout == b""
    return process.stderr.decode().split("\n")[:-1]


def test_a_line_has_time_level_process_and_event() -> None:
    (line,) = lines_of("log.warning('store_refused status=0x%04X reason=%s', 0xA700, 'full')")
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z WARNING scp-1 store_refused status=0xA700 reason=full", line
    )


def test_an_exception_stays_in_its_events_line() -> None:
    (line,) = lines_of("try:\n    1 / 0\nexcept ZeroDivisionError:\n    log.exception('worker_failed attempt=%d', 2)")
    assert " ERROR scp-1 worker_failed attempt=2 | Traceback (most recent call last): | " in line
    assert line.endswith("ZeroDivisionError: division by zero")


def test_what_strangers_send_cannot_forge_a_line_or_drive_a_terminal() -> None:
    (line,) = lines_of(r"log.info('associated title=%s', 'A\nB\r\u2028C\x1b[31m\x00D')")
    assert line.endswith(r"associated title=A | B | C\x1b[31m\x00D")


def test_debug_is_off() -> None:
    assert lines_of("log.debug('noise')") == []


def test_libraries_are_quiet_and_those_that_know_patients_are_silent() -> None:
    lines = lines_of(
        "for name in ('botocore.retry', 'boto3', 'urllib3.connectionpool'):\n"
        "    logging.getLogger(name).info('chatter'); logging.getLogger(name).warning('trouble')\n"
        "for name in ('pynetdicom.acse', 'pynetdicom._handlers', 'pydicom'):\n"
        "    logging.getLogger(name).error('PATIENT^NAME')\n"
        "warnings.warn('PATIENT^NAME')\n"
    )
    assert [line.split(" ", 3)[3] for line in lines] == ["trouble"] * 3
