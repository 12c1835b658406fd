"""Ceph's radosgw on its own: a real S3 server, which verifies signatures and checksums, without a Ceph cluster.

It runs from a root file system of Debian testing that is made once and kept between runs:

    ${XDG_CACHE_HOME:-~/.cache}/isen/radosgw/        the root file system, about 400 MB; remove it to have it made anew
        srv/<unique>/                                data of one running server, removed when that stops

Making it takes root and the program mmdebstrap, and half a minute.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from backend.stack.ports import free_port
from backend.stack.processes import Process, wait_until
from tests.servers.real_s3 import ACCESS_KEY, SECRET_KEY, RealS3

KMS_KEY: Final = "key-of-the-tests"
_MIRROR: Final = "http://deb.debian.org/debian"
_MAKING: Final = 400.0  # seconds; a machine with nothing else to do needs 35
_DEADLINE: Final = 90.0  # seconds; a machine with nothing else to do needs a fraction of one
_LONGEST_RUN: Final = 86400.0  # seconds
_LEFT_OUT: Final = ("/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/man/*", "/usr/share/info/*")
_CONFIGURATION: Final = """[global]
rgw backend store = dbstore
rgw config store = dbstore
dbstore_db_dir = {data}
dbstore_config_uri = file:{data}/config.db
rgw frontends = beast endpoint=127.0.0.1:{port}
log file = {data}/radosgw.log
run dir = {data}
admin socket =
rgw crypt require ssl = false
rgw crypt s3 kms backend = testing
rgw crypt s3 kms encryption keys = {kms_key}=MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=
"""


class RadosgwUnavailable(Exception):
    """The server cannot be had on this machine; the message says why."""


class Radosgw(RealS3):
    """A running radosgw."""

    def __init__(self, log: Path) -> None:
        """Starts it, after making its root file system if there is none; returns once it answers.

        Raises:
            RadosgwUnavailable: it cannot be had here.
        """
        root = _root_file_system()
        _sweep(root / "srv")
        super().__init__(free_port())
        self._data = Path(tempfile.mkdtemp(dir=root / "srv"))
        inside = Path("/") / self._data.relative_to(root)
        (self._data / "ceph.conf").write_text(_CONFIGURATION.format(data=inside, port=self.port, kms_key=KMS_KEY))
        options = ["-c", inside / "ceph.conf", "--no-mon-config"]
        user = ["user", "create", "--uid=isen", "--display-name=isen"]
        keys = [f"--access-key={ACCESS_KEY}", f"--secret-key={SECRET_KEY}"]
        _run(["chroot", root, "radosgw-admin", *options, *user, *keys])
        self._process = Process(["chroot", root, "radosgw", *options, "-n", "client.admin", "-f"], log)
        try:
            wait_until(self._answers, _DEADLINE, "radosgw answers")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        self._process.stop()
        shutil.rmtree(self._data, ignore_errors=True)

    def _answers(self) -> bool:
        if self._process.exit_code is not None:
            raise RadosgwUnavailable(f"radosgw ended with {self._process.exit_code}: {self._process.output()[-500:]}")
        try:
            with urlopen(self.url, timeout=5):  # noqa: S310 - always http
                return True
        except HTTPError:
            return True
        except (URLError, OSError):
            return False


def _root_file_system() -> Path:
    """The folder of the root file system, made if need be; one process makes it, others wait.

    Raises:
        RadosgwUnavailable: this user may not chroot, or it could not be made.
    """
    if os.geteuid() != 0:
        raise RadosgwUnavailable("radosgw runs in a root file system of its own, which takes root")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "isen"
    cache.mkdir(parents=True, exist_ok=True)
    root = cache / "radosgw"
    with _locked(cache / "radosgw.lock"):
        if not root.exists():
            _make(root)
    return root


def _make(root: Path) -> None:
    program = shutil.which("mmdebstrap")
    if program is None:
        raise RadosgwUnavailable("radosgw runs in a root file system that mmdebstrap makes: apt-get install mmdebstrap")
    unfinished = root.with_name("radosgw.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    options = ["--variant=minbase", "--include=radosgw", '--aptopt=Acquire::Check-Valid-Until "false"']
    options += [f"--dpkgopt=path-exclude={pattern}" for pattern in _LEFT_OUT]
    _run([program, "--quiet", *options, "testing", unfinished, _MIRROR], timeout=_MAKING)
    unfinished.rename(root)


def _sweep(folder: Path) -> None:
    """Remove what runs that were killed have left behind."""
    for left in folder.iterdir():
        if time.time() - left.stat().st_mtime > _LONGEST_RUN:
            shutil.rmtree(left, ignore_errors=True)


def _run(arguments: list[str | Path], timeout: float = _DEADLINE) -> None:
    """Run to the end; its output is shown only if it fails.

    Raises:
        RadosgwUnavailable: it failed.
    """
    try:
        subprocess.run(
            [*map(str, arguments)],
            check=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
    except subprocess.CalledProcessError as error:
        raise RadosgwUnavailable(f"{Path(arguments[0]).name} failed: {error.stderr.strip()[-500:]}") from None
    except subprocess.TimeoutExpired:
        raise RadosgwUnavailable(f"{Path(arguments[0]).name} took longer than {timeout:g} s") from None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
