"""C-ECHO: the peer asks whether we are there (PS3.4 Annex A)."""

from __future__ import annotations

from typing import Final

from pydicom.uid import UID

from scp.request import Request, Service
from scp.statuses import SUCCESS

VERIFICATION: Final = UID("1.2.840.10008.1.1")


def serve(request: Request) -> None:
    request.respond(SUCCESS)


ECHO = Service(name="C-ECHO", dimse="C_ECHO", permission="allow_echo", sop_classes=(VERIFICATION,), serve=serve)
