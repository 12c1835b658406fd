"""`python -m scp.hl7`: the process that takes HL7 orders over MLLP and keeps them in the managed worklist.

The plugin starts it and sends `{"Settings": …}`; see `config.child_process`. It writes the same file as
`scp.worklists`, in transactions, and needs nothing of Orthanc.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
import warnings
from typing import Final

from config.child_process import ParentLine
from config.logging_setup import set_up_logging
from config.settings import ScpSettings
from scp.hl7.mllp import MllpServer
from scp.hl7.processor import Processor
from scp.hl7.rejected import RejectedMessages
from scp.tls import TlsContext
from scp.worklists.database import DatabaseUnusable
from scp.worklists.store import StoreUnavailable, WorklistStore

log = logging.getLogger(__name__)

_REPORT_INTERVAL: Final = 1.0  # seconds
_HOUSEKEEPING_INTERVAL: Final = 3600.0
_BACKLOG: Final = 64


def main() -> None:
    """Run until the parent ends this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for Orthanc, which stops us in order
    line = ParentLine()
    set_up_logging("hl7")
    message = line.launch_message()
    # what was answered is durable, what was not will be sent again: there is nothing to finish
    line.watch(on_command=lambda _: None, on_end=lambda: os._exit(0))
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    warnings.simplefilter("ignore")  # pydicom's quote values
    logging.getLogger("hl7").setLevel(logging.CRITICAL)  # quotes fields
    settings = ScpSettings.model_validate(message["Settings"])
    hl7, directory = settings.hl7, settings.worklists.managed_directory
    assert hl7 is not None and directory is not None  # noqa: S101, PT018 - for the type checker
    try:
        store = WorklistStore(directory)
        rejected = RejectedMessages(directory / "rejected", hl7.maximum_rejected_messages)
        listener = socket.create_server((hl7.bind_address, hl7.port), backlog=_BACKLOG)
    except DatabaseUnusable as error:
        line.refuse(f"Isen.Worklists.ManagedDirectory: {error}")
    except OSError as error:
        line.refuse(f"Isen.Hl7: cannot listen on {hl7.bind_address} port {hl7.port}: {error.strerror}")
    worklists = settings.worklists
    try:
        tls = TlsContext(hl7.tls, server_side=True) if hl7.tls else None
    except OSError as error:
        line.refuse(f"Isen.Hl7.TlsCertificate, TlsPrivateKey, TlsTrustedCertificates: cannot be loaded: {error}")
    processor = Processor(
        store,
        rejected,
        hl7,
        worklists.default_station_ae_title,
        make_study=worklists.set_study_instance_uid_if_missing,
    )
    asyncio.run(_serve(line, listener, MllpServer(hl7, processor.process, tls), processor))


async def _serve(line: ParentLine, listener: socket.socket, server: MllpServer, processor: Processor) -> None:
    await server.start(listener)
    line.ready()
    due = time.monotonic()
    while True:
        if time.monotonic() >= due:
            due = time.monotonic() + _HOUSEKEEPING_INTERVAL
            await asyncio.to_thread(_forget, processor)
        line.report({"Connections": server.connections, "Counters": dict(processor.counters)})
        await asyncio.sleep(_REPORT_INTERVAL)


def _forget(processor: Processor) -> None:
    try:
        processor.forget()
    except StoreUnavailable as error:
        log.warning("hl7_housekeeping_failed reason=%r", str(error))


if __name__ == "__main__":
    main()
