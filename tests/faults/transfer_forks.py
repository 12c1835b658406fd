"""`python -m tests.faults.transfer_forks MISTAKE`: transfer processes in a few milliseconds each, as many as wanted.

Importing boto3 and making its clients takes a second, which is all that this saves: it is done once, here, and each
request forks a child that runs `backend.transfer.__main__` from its launch message to its end. Pauses are twenty times
shorter, so that a day's history takes a second. A mistake can be made on purpose.

Standard input is a socket that keeps packets whole. A request is the child's standard input, output and error and the
listening socket; the answer is its process id. End of file ends this process, not its children, whose parents are the
pipes.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

from backend.transfer import (
    __main__,
    attachment_upload,
    canary,
    fetcher,
    pending_queue,
    removals,
    remover,
    report,
    spool_watch,
)
from backend.transfer.object_store import s3_object
from backend.transfer.stores import open_object_store
from config.settings import Settings
from tests.faults.forked_node import LISTENER

PAUSES: tuple[tuple[Any, str, Any], ...] = (
    (canary, "_FIRST_PAUSE", 0.02),
    (canary, "_LONGEST_PAUSE", 0.1),
    (pending_queue, "_FIRST_PAUSE", 0.02),
    (pending_queue, "_LONGEST_PAUSE", 0.2),
    (removals, "_SHORTEST", 0.02),
    (removals, "_LONGEST_PAUSE", 0.2),
    (remover, "_PAUSE", 0.02),
    (report, "_INTERVAL", 0.05),
    (spool_watch, "_INTERVAL", 0.1),
    (fetcher, "_MISSING_PAUSE", 0.05),
    (fetcher, "_FAIL_FAST", 0.05),
    (fetcher, "back_off", lambda *_, **__: 0.01),
    (attachment_upload, "_FIRST_PAUSE", 0.02),
)


def _drop_some_pending() -> None:
    """The uploader takes some files out of the spool without having uploaded them."""
    upload = attachment_upload.AttachmentUpload._upload

    def mistaken(self: Any, name: str, path: str) -> None:
        if name < "4":
            os.unlink(path)
        else:
            upload(self, name, path)

    attachment_upload.AttachmentUpload._upload = mistaken  # type: ignore[method-assign] # the mistake


def _leave_objects() -> None:
    """The remover ends removals whose objects are still there."""

    def mistaken(self: Any, name: str, removal: Any) -> None:
        self._drop_all(name, removal)

    remover.Remover._delete_all = mistaken  # type: ignore[method-assign] # the mistake


def _trust_the_server() -> None:
    """The SHA-256 that an object was stored with is not looked at."""
    s3_object.DIGEST = "x-not-there"  # type: ignore[misc] # the mistake


def _upload_after_removal() -> None:
    """The uploader does not look whether Orthanc has removed what it uploads, nor does it leave it to the remover."""
    attachment_upload.AttachmentUpload.is_removed = lambda *_: False  # type: ignore[method-assign] # the mistake
    remover.Remover._drop_pending = lambda *_: None  # type: ignore[method-assign] # the mistake


MISTAKES: dict[str, Callable[[], None]] = {
    "none": lambda: None,
    "drop-some-pending": _drop_some_pending,
    "leave-objects": _leave_objects,
    "trust-the-server": _trust_the_server,
    "upload-after-removal": _upload_after_removal,
}


def main() -> None:
    """Fork until standard input ends. The first message holds the settings of the object store."""
    requests = socket.socket(fileno=os.dup(0))
    for module, name, seconds in PAUSES:
        assert hasattr(module, name), name
        setattr(module, name, seconds)
    MISTAKES[sys.argv[1]]()
    settings = Settings.model_validate(json.loads(requests.recv(65536))).storage
    stores = [open_object_store(settings, 8) for _ in range(2)]  # no connection is made yet
    __main__.open_object_store = lambda *_, **__: stores.pop()  # type: ignore[attr-defined] # no second one is wanted
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them here
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, 16, 4)
        if not message:
            return
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for number, descriptor in zip((0, 1, 2, LISTENER), descriptors, strict=True):
                os.dup2(descriptor, number)
            requests.close()
            os.closerange(3, LISTENER)
            __main__.main()
            os._exit(0)
        for descriptor in descriptors:
            os.close(descriptor)
        requests.sendall(pid.to_bytes(4, "big"))


if __name__ == "__main__":
    main()
