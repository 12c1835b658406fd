"""A PostgreSQL server of our own, as Debian's package has it, in a fresh folder and on a free port.

It refuses to run as root; then it runs as the package's user `postgres`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Final

from backend.stack.ports import free_port
from backend.stack.processes import Process, wait_until

INDEX_PLUGIN: Final = Path("/usr/share/orthanc/plugins/libOrthancPostgreSQLIndex.so")
_PROGRAMS: Final = Path("/usr/lib/postgresql")
_DEADLINE: Final = 30.0  # seconds


class PostgreSqlUnavailable(Exception):
    """It, or Orthanc's plugin for it, is not installed."""


class PostgreSql:
    """A running server with one database for Orthanc; it trusts this machine, and its end is that of the data."""

    def __init__(self) -> None:
        """Starts it; returns once it answers.

        Raises:
            PostgreSqlUnavailable: with the packages to install.
        """
        programs = sorted(_PROGRAMS.glob("*/bin/postgres"))
        if not programs or not INDEX_PLUGIN.exists():
            raise PostgreSqlUnavailable("these packages are not installed: postgresql orthanc-postgresql")
        self._programs = programs[-1].parent
        self._folder = Path(tempfile.mkdtemp(prefix="isen-postgresql-"))
        self._as_user = (
            ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.getuid() == 0 else []
        )
        if self._as_user:
            shutil.chown(self._folder, "postgres")
        self.port = free_port()
        data = self._folder / "data"
        self._run("initdb", "-D", data, "-U", "orthanc", "--auth=trust", "--no-sync")
        options = ["-c", f"port={self.port}", "-c", f"unix_socket_directories={self._folder}", "-c", "fsync=off"]
        self._process = Process(
            [*self._as_user, self._programs / "postgres", "-D", data, *options], Path(f"{self._folder}.log")
        )
        try:
            wait_until(self._answers, _DEADLINE, "PostgreSQL answers")
            self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "orthanc", "orthanc")
        except BaseException:
            self.stop()
            raise

    @property
    def options(self) -> dict[str, Any]:
        """Orthanc's section `PostgreSQL`, for one of several Orthancs."""
        return {
            "EnableIndex": True,
            "EnableStorage": False,
            "Host": "127.0.0.1",
            "Port": self.port,
            "Database": "orthanc",
            "Username": "orthanc",
            "Password": "",
            "Lock": False,  # otherwise the first one has it alone
            "MaximumConnectionRetries": 20,
        }

    def stop(self) -> None:
        self._process.stop()
        shutil.rmtree(self._folder)
        Path(f"{self._folder}.log").unlink()

    def _answers(self) -> bool:
        return self._call("pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)).returncode == 0

    def _run(self, program: str, *arguments: str | Path) -> None:
        done = self._call(program, *arguments)
        if done.returncode != 0:
            raise RuntimeError(f"{program} ended with {done.returncode}: {done.stderr.decode(errors='replace')}")

    def _call(self, program: str, *arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
        command = [*self._as_user, self._programs / program, *arguments]
        return subprocess.run(command, capture_output=True, cwd=self._folder, check=False)
