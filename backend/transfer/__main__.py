"""`python -m backend.transfer`: the process that moves attachments between the local disk and S3.

The plugin starts it and sends `{"Settings": …, "Listener": descriptor, "Token": …, "Started": Unix time,
"StartedMonotonic": …}`, without the last three if Orthanc has no REST API; see `config.child_process`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
import socket
import threading
import time
from queue import SimpleQueue
from typing import Any

import backend.transfer.without_numpy  # noqa: F401 -- for what it does, before pydicom is imported
from backend.transfer.index_guard import Orthanc
from backend.transfer.object_store.errors import CredentialsRefused, UnusableSettings
from backend.transfer.process import CannotStart, TransferProcess
from backend.transfer.series_index import SeriesIndex
from backend.transfer.stores import open_object_store
from config.child_process import ParentLine
from config.logging_setup import set_up_logging
from config.settings import OrthancSettings, Settings

log = logging.getLogger(__name__)

_OTHER_USERS = 8  # connections besides those of uploads: deletes, canary, multipart


def main() -> None:
    """Run until SIGTERM, or until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for Orthanc, which stops us in order
    _raise_limits()
    line = ParentLine()
    set_up_logging("transfer")
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # it warns of each attempt; who asked logs the failure, once
    message = line.launch_message()
    commands: SimpleQueue[dict[str, Any]] = SimpleQueue()
    line.watch(on_command=commands.put, on_end=lambda: os._exit(0))
    all_settings = Settings.model_validate(message["Settings"])
    settings = all_settings.storage
    try:
        process = TransferProcess(
            settings,
            socket.socket(fileno=message["Listener"]),
            writes=open_object_store(settings, settings.concurrent_uploads * 2 + _OTHER_USERS),
            reads=open_object_store(settings, settings.concurrent_downloads),
            index=SeriesIndex(all_settings.orthanc, message.get("Token", "")),
            send_report=line.report,
            orthanc=_orthanc(all_settings.orthanc, message) if "Token" in message else None,
        )
        process.prepare()
    except (UnusableSettings, CredentialsRefused, CannotStart) as error:
        line.refuse(str(error))
    # A pipe: a signal that arrives just before this thread waits on a lock would not end the wait.
    terminated, written_by_signals = os.pipe()
    os.set_blocking(written_by_signals, False)
    signal.set_wakeup_fd(written_by_signals)
    signal.signal(signal.SIGTERM, lambda *_: None)  # until now there was nothing to finish
    process.start()
    line.ready()
    threading.Thread(target=_obey, args=(commands, process), name="commands", daemon=True).start()
    os.read(terminated, 1)
    process.drain()
    logging.shutdown()
    os._exit(0)  # without waiting for downloads: their readers ask the next process


def _raise_limits() -> None:
    """Have the open files that are allowed: the kernel lets no more than that wait in sockets."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # the system allows fewer than our limit by now
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _obey(commands: SimpleQueue[dict[str, Any]], process: TransferProcess) -> None:
    while True:
        if commands.get().get("Command") == "accept":
            process.orthanc_answers()


def _orthanc(settings: OrthancSettings, message: dict[str, Any]) -> Orthanc:
    """The Orthanc that has started us, now or a while ago; the system's clock may have been set since."""
    by_now = time.time() - (time.monotonic() - message["StartedMonotonic"])
    return Orthanc(settings, message["Token"], max(message["Started"], by_now))


if __name__ == "__main__":
    main()
