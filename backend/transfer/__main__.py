"""`python -m backend.transfer`: the process that moves attachments between the local disk and S3.

The plugin starts it and sends `{"Settings": …, "Listener": descriptor, "Token": …}`; see `config.child_process`.
"""

from __future__ import annotations

import logging
import os
import signal
import socket

from backend.transfer.object_store.errors import CredentialsRefused, UnusableSettings
from backend.transfer.object_store.s3 import S3ObjectStore
from backend.transfer.orthanc_index import OrthancIndex
from backend.transfer.process import CannotStart, TransferProcess
from config.child_process import ParentLine
from config.logging_setup import set_up_logging
from config.settings import Settings

log = logging.getLogger(__name__)

_OTHER_USERS = 8  # connections besides those of uploads: deletes, canary, multipart


def main() -> None:
    """Run until SIGTERM, or until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for Orthanc, which stops us in order
    line = ParentLine()
    set_up_logging("transfer")
    message = line.launch_message()
    line.watch(on_command=lambda _: None, on_end=lambda: os._exit(0))
    all_settings = Settings.model_validate(message["Settings"])
    settings = all_settings.storage
    try:
        process = TransferProcess(
            settings,
            socket.socket(fileno=message["Listener"]),
            writes=S3ObjectStore(settings, settings.concurrent_uploads * 2 + _OTHER_USERS),
            reads=S3ObjectStore(settings, settings.concurrent_downloads),
            index=OrthancIndex(all_settings.orthanc, message.get("Token", "")),
            send_report=line.report,
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
    os.read(terminated, 1)
    process.drain()
    logging.shutdown()
    os._exit(0)  # without waiting for downloads: their readers ask the next process


if __name__ == "__main__":
    main()
