"""Services that need no Orthanc, for real workers in tests.

C-STORE hashes what it gets, C-FIND answers as often as asked, C-GET sends made-up images; everything between the
socket and `Service.serve` is what runs in production.
"""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Iterable

from pydicom.dataset import Dataset
from pynetdicom import AllStoragePresentationContexts
from pynetdicom.sop_class import (
    CTImageStorage,
    ModalityPerformedProcedureStep,
    PatientRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
)

from scp.request import Request, Service
from scp.services.echo import ECHO
from scp.statuses import CANCEL, PENDING, SUCCESS

GET_SIZE = 300_000  # bytes of each C-GET sub-operation


def _store(request: Request) -> None:
    """Read all; answer the SHA-256's first bytes as the comment, so that a test can compare."""
    digest = hashlib.sha256()
    while chunk := request.data_set.read(1 << 20):
        digest.update(chunk)
    request.respond(SUCCESS, ErrorComment=f"{request.data_set_length} {digest.hexdigest()[:32]}")


def _discard(request: Request) -> None:
    request.respond(SUCCESS)


def _find(request: Request) -> None:
    """PatientID is how many answers to give, PatientName how many seconds to wait before each."""
    identifier = request.identifier()
    if identifier.get("PatientID") == "FAIL":
        raise RuntimeError("Doe^Jane must not be logged")
    count = int(identifier.get("PatientID") or 0)
    pause = float(str(identifier.get("PatientName") or 0))
    for number in range(count):
        deadline = time.monotonic() + pause
        while not request.is_cancelled and time.monotonic() < deadline:
            time.sleep(0.005)
        if request.is_cancelled:
            request.respond(CANCEL)
            return
        answer = Dataset()
        answer.PatientID = str(number)
        request.respond(PENDING, answer)
    request.respond(SUCCESS)


def _get(request: Request) -> None:
    """Send PatientID instances of CT."""
    count = int(request.identifier().get("PatientID") or 0)
    statuses = []
    for number in range(count):
        encoded = io.BytesIO(b"\x08\x00\x18\x00\x04\x00\x00\x001.2\0" + b"\xe0\x7f\x10\x00" + b"\0" * GET_SIZE)
        statuses.append(request.store(encoded, CTImageStorage, f"1.2.{number}", request.context.transfer_syntax))
        request.respond(
            PENDING,
            NumberOfRemainingSuboperations=count - number - 1,
            NumberOfCompletedSuboperations=number + 1,
            NumberOfFailedSuboperations=0,
            NumberOfWarningSuboperations=0,
        )
    request.respond(SUCCESS if not any(statuses) else 0xA702, NumberOfCompletedSuboperations=count)


def _create(request: Request) -> None:
    request.respond(SUCCESS, request.identifier())


def services(*, discard: bool = False) -> Iterable[Service]:
    storage = tuple(context.abstract_syntax for context in AllStoragePresentationContexts)
    find = (PatientRootQueryRetrieveInformationModelFind, StudyRootQueryRetrieveInformationModelFind)
    return (
        ECHO,
        Service("C-STORE", "C_STORE", "allow_store", storage, _discard if discard else _store),
        Service("C-FIND", "C_FIND", "allow_find", find, _find, negotiate=lambda information: information[:1]),
        Service("C-GET", "C_GET", "allow_get", (StudyRootQueryRetrieveInformationModelGet,), _get),
        Service("N-CREATE", "N_CREATE", "allow_store", (ModalityPerformedProcedureStep,), _create),
    )
