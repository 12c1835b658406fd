"""Where instances came from: noted when they are stored, told to Orthanc later and many at a time.

    <directory>/<random>.jsonl   one line for each instance that Orthanc has not been told of; its worker locks it

Noting is one write(2), so that a worker that is killed loses nothing; a power cut may take the last second. Orthanc is
told once no image has come for a moment, because its index has better things to do while images arrive, but not much
later than `LONGEST_WAIT`. What was told is told again after a crash, which changes nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import threading
import time
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Final
from uuid import uuid4

from scp.orthanc_client import OrthancClient, OrthancError
from scp.request import Peer

log = logging.getLogger(__name__)

BATCH: Final = 200  # instances in one request
LONGEST_WAIT: Final = 20.0  # seconds
_QUIET: Final = 1.0  # seconds without a new instance
_INTERVAL: Final = 0.25  # seconds
_PAUSE: Final = 5.0  # seconds after Orthanc could not be told


@dataclass(frozen=True)
class Origin:
    """One line; the names are those of Orthanc's metadata."""

    Instance: str  # Orthanc identifiers
    Series: str
    RemoteAET: str
    CalledAET: str
    RemoteIP: str

    @classmethod
    def of(cls, instance: str, series: str, peer: Peer) -> Origin:
        return cls(instance, series, **origin_of(peer))


def origin_of(peer: Peer) -> dict[str, str]:
    """What there is to say of the peer."""
    return {"RemoteAET": peer.calling_ae_title, "CalledAET": peer.called_ae_title, "RemoteIP": peer.address}


class Origins:
    """Thread-safe; one for each worker."""

    def __init__(self, directory: Path, client: OrthancClient) -> None:
        """Raises: OSError: the folder cannot be made."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory = directory
        self._client = client
        self._lock = threading.Lock()
        self._file: FileIO | None = None
        self._begun = self._noted = 0.0  # monotonic times of the file's first and last line
        self._is_supported = True

    def start(self) -> None:
        """Begin to tell Orthanc, first what earlier workers have left."""
        threading.Thread(target=self._run, name="origins", daemon=True).start()

    def note(self, origin: Origin) -> None:
        """Remember where a stored instance came from. Never fails: the instance is safe without it."""
        line = json.dumps(vars(origin)).encode() + b"\n"
        try:
            with self._lock:
                if not self._is_supported:
                    return
                self._noted = time.monotonic()
                if self._file is None:
                    self._file = _begun(self._directory)
                    self._begun = self._noted
                self._file.write(line)
        except OSError as error:
            log.warning("origin_not_noted instance=%s reason=%s", origin.Instance, error.strerror)

    def _run(self) -> None:
        for path in sorted(self._directory.glob("*.jsonl")):
            self._tell_left(path)
        while self._is_supported:
            time.sleep(_INTERVAL)
            file = self._take()
            if file is not None:
                with file:
                    self._try_to_tell(file)
        with self._lock:
            if self._file is not None:  # nothing more is noted
                Path(str(self._file.name)).unlink()
                self._file.close()

    def _take(self) -> FileIO | None:
        """The file being written, if it is time to tell what it says; the next line begins another."""
        with self._lock:
            now = time.monotonic()
            if self._file is None or (now - self._noted < _QUIET and now - self._begun < LONGEST_WAIT):
                return None
            file, self._file = self._file, None
            return file

    def _tell_left(self, path: Path) -> None:
        """What a worker has left that died; of those that live, nothing."""
        with contextlib.suppress(FileNotFoundError, BlockingIOError), _locked(path, "rb") as file:
            self._try_to_tell(file)

    def _try_to_tell(self, file: FileIO) -> None:
        """What a failing disk keeps from us is left to the next worker that starts."""
        try:
            self._tell(file)
        except OSError as error:
            log.warning("origins_not_told reason=%s", error.strerror)

    def _tell(self, file: FileIO) -> None:
        """Return when Orthanc knows it all and the file is gone."""
        path = Path(str(file.name))
        origins = _origins(path)
        for start in range(0, len(origins), BATCH):
            while self._is_supported and not self._told(origins[start : start + BATCH]):
                os.fsync(file.fileno())
                time.sleep(_PAUSE)
        path.unlink(missing_ok=True)

    def _told(self, origins: list[Origin]) -> bool:
        try:
            self._is_supported = self._client.set_origins([vars(origin) for origin in origins])
        except OrthancError as error:
            log.info("origins_postponed reason=%s", error)
            return False
        if not self._is_supported:
            log.info("origins_not_supported reason=%r", "Orthanc before 1.12.2 does not let RemoteAET be written")
        return True


def _begun(directory: Path) -> FileIO:
    """A new file of ours.

    Raises:
        OSError: none can be made.
    """
    while True:
        path = directory / f"{uuid4().hex}.jsonl"
        try:
            file = _locked(path, "xb")
        except BlockingIOError:
            continue  # a worker that starts has seen it before we could lock it, and is taking it away
        if path.exists():
            return file
        file.close()  # it has done so


def _locked(path: Path, mode: str) -> FileIO:
    """Open the file and lock it.

    Raises:
        BlockingIOError: a worker that lives has it.
        OSError: it cannot be opened.
    """
    file = FileIO(path, mode)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        file.close()
        raise
    return file


def _origins(path: Path) -> list[Origin]:
    """The lines; one that a power cut has cut off is left out."""
    origins = []
    for line in path.read_bytes().splitlines():
        with contextlib.suppress(ValueError, TypeError):
            origins.append(Origin(**json.loads(line)))
    return origins
