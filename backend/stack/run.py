"""`make run`: an embedded S3 and an Orthanc with Isen in the foreground, until Ctrl-C or SIGTERM.

Everything is below `run/` of the checkout, or $RUN_FOLDER, and made anew at each start, because the embedded S3 keeps
its objects in memory: an index that outlives them would promise images that are gone. Only `worklists/` stays.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from backend.stack.orthanc import APPLICATION, BUCKET, NotStarted, Orthanc, configuration
from backend.stack.ports import PortsTaken, ports_from_environment
from backend.stack.processes import NotInTime
from backend.stack.s3_server import S3Server
from backend.stack.samples import real_files, worklist_item

PORTS: Final = {"HTTP_PORT": 8042, "DICOM_PORT": 4242, "S3_PORT": 9000}
_LOCK: Final = "make-run.lock"  # also says that the folder is ours
_MADE_ANEW: Final = ("index", "spool", "cache", "orthanc.log", "s3.log")
_POLL: Final = 0.2  # seconds between two looks at the processes and their log


class Stopped(BaseException):
    """The user or the system wants an end."""


def run() -> int:
    """Run the stack until it is told to stop; the exit code for the shell."""
    try:
        folder = Path(os.environ.get("RUN_FOLDER") or APPLICATION / "run").resolve()
        with stop_signals(), _only_user_of(folder):
            _run(folder, ports_from_environment(PORTS))
    except Stopped:
        return 0
    except (PortsTaken, NotInTime, OSError, RuntimeError, ValueError) as error:
        print(error, file=sys.stderr)  # noqa: T201 - a command line prints
    except NotStarted as error:
        print(error.log, file=sys.stderr)  # noqa: T201 - a command line prints
    return 1


def _run(folder: Path, ports: dict[str, int]) -> None:
    s3 = S3Server(ports["S3_PORT"], folder / "s3.log")
    try:
        orthanc = Orthanc(folder, configuration(folder, s3.url, ports["HTTP_PORT"], ports["DICOM_PORT"]))
        try:
            orthanc.start()
            _say(_welcome(orthanc, s3))
            _follow(orthanc, s3)
        finally:
            ignore_stop_signals()
            _say("Stopping …")
            orthanc.stop()
    finally:
        ignore_stop_signals()
        s3.stop()


def _follow(orthanc: Orthanc, s3: S3Server) -> None:
    """Show Orthanc's log lines until it ends."""
    with orthanc.log.open("rb") as log:
        while True:
            _show(log)
            if (code := orthanc.process.exit_code) is not None:
                _show(log)
                raise RuntimeError(f"Orthanc ended with exit code {code}; its log lines are above")
            if not s3.is_running:
                raise RuntimeError(f"the embedded S3 ended; see {orthanc.folder / 's3.log'}")
            time.sleep(_POLL)


def _show(log: BinaryIO) -> None:
    sys.stdout.write(log.read().decode(errors="replace"))
    sys.stdout.flush()


def _welcome(orthanc: Orthanc, s3: S3Server) -> str:
    peer = f"-aec ORTHANC 127.0.0.1 {orthanc.dicom_port}"
    level = "-k QueryRetrieveLevel=STUDY"
    return f"""
Isen runs. Ctrl-C stops it; what it stored is gone then, because the embedded S3 keeps it in memory.

  Orthanc    {orthanc.url}            (this machine only)
  status     {orthanc.url}/isen/status
  metrics    {orthanc.url}/tools/metrics-prometheus
  DICOM      AE title ORTHANC, port {orthanc.dicom_port}
  S3         {s3.url}, bucket {BUCKET}, path style, any keys
  files      {orthanc.folder}: orthanc.json, orthanc.log, s3.log, spool/, cache/, worklists/

Try it in another terminal:
  echoscu -v {peer}
  dcmsend -v {peer} {shlex.quote(str(real_files()[0]))}
  findscu -S {peer} {level} -k PatientName -k StudyDate -k StudyInstanceUID
  findscu -W {peer} -k PatientName -k "ScheduledProcedureStepSequence[0].Modality=CT"
  curl {orthanc.url}/isen/status
  curl "{s3.url}/{BUCKET}?list-type=2"
"""


@contextmanager
def stop_signals() -> Iterator[None]:
    """Inside, Ctrl-C, SIGTERM and the end of the terminal raise `Stopped`."""

    def stop(*_: object) -> None:
        raise Stopped

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    yield


def ignore_stop_signals() -> None:
    """A second Ctrl-C must not interrupt the orderly end."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def _only_user_of(folder: Path) -> Iterator[None]:
    """Inside, the folder is emptied and ours alone.

    Raises:
        RuntimeError: another `make run` uses it, or it holds files that are not ours to remove.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / _LOCK).exists():
        raise RuntimeError(
            f"{folder} holds other files; `make run` empties its folder, so name a new one as RUN_FOLDER"
        )
    (folder / "worklists").mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RuntimeError(
                f"another `make run` is running in {folder}; stop it, or choose another folder with RUN_FOLDER=…"
            ) from None
        for name in _MADE_ANEW:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        example = folder / "worklists" / "example.wl"
        if not example.exists():
            worklist_item().save_as(example, enforce_file_format=True)
        yield


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - a command line prints
