"""Identifiers that are none: A900 or C000 with an Error Comment, never an aborted association (PS3.4 Table C.4-1)."""

from __future__ import annotations

import random
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import pytest
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_FIND, C_GET, C_MOVE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made by a loop there

from backend.stack.processes import wait_until
from tests.integration.scp_fixtures import LocalOrthanc, ScpWorker, dicom_settings

MODEL = "1.2.840.10008.5.1.4.1.2.2."
REQUESTS = {f"{MODEL}1": C_FIND, f"{MODEL}2": C_MOVE, f"{MODEL}3": C_GET}
LEVEL = b"\x08\x00\x52\x00CS\x06\x00STUDY "
ITEM = b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
MALFORMED = {
    "text": b"this is no data set, whatever its transfer syntax says" * 20,
    "zeros": bytes(4096),
    "ones": b"\xff" * 4096,
    "a value longer than the identifier": LEVEL + b"\x10\x00\x20\x00LO\xf0\xffP1",
    "cut within a tag": LEVEL + b"\x10\x00\x20",
    "sequences without end": LEVEL + (b"\x08\x00\x15\x11SQ\x00\x00\xff\xff\xff\xff" + ITEM) * 500,
    "a sequence that is none": LEVEL + b"\x08\x00\x15\x11SQ\x00\x00\x08\x00\x00\x00NOTANITM",
    "a level of two": b"\x08\x00\x52\x00CS\x0c\x00STUDY\\SERIES",
    "no level": b"\x10\x00\x20\x00LO\x02\x00P1",
    "no level and no key": b"\x10\x00\x10\x00PN\x04\x00A^B ",
    "a UID that is none": LEVEL + b"\x20\x00\x0d\x00UI\x08\x00../../..",
    "nothing": b"\x08\x00\x05\x00CS\x00\x00",
}
ANSWERS_OF_SUCCESS = {  # what is no failure of a retrieval: unique keys that select nothing
    ("a UID that is none", f"{MODEL}2"), ("a UID that is none", f"{MODEL}3"),
    ("no level", f"{MODEL}2"), ("no level", f"{MODEL}3"),
}  # fmt: skip


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScpWorker]:
    folder = tmp_path_factory.mktemp("malformed")
    orthanc = LocalOrthanc(folder / "orthanc", {"DicomModalities": {"pacs": ["PACS", "127.0.0.1", 104]}})
    made = ScpWorker(folder / "worker", orthanc.http_port, dicom_settings())
    yield made
    made.stop()
    orthanc.stop()


@pytest.fixture
def association(worker: ScpWorker) -> Iterator[Association]:
    entity = AE("MODALITY")
    for sop_class in (str(Verification), *REQUESTS):
        entity.add_requested_context(sop_class, ExplicitVRLittleEndian)
    made = entity.associate("127.0.0.1", worker.port)
    assert made.is_established
    yield made
    made.release()


def ask(association: Association, sop_class: str, identifier: bytes) -> Any:
    """The final response to a request with exactly these bytes."""
    request = REQUESTS[sop_class]()
    request.MessageID, request.AffectedSOPClassUID, request.Priority = 7, sop_class, 0
    if isinstance(request, C_MOVE):
        request.MoveDestination = "PACS"
    request.Identifier = BytesIO(identifier)
    association._reactor_checkpoint.clear()  # as send_c_find does: the answer is ours
    wait_until(lambda: association._is_paused, 10, "pynetdicom's reactor has let go")
    (context,) = (one for one in association.accepted_contexts if one.abstract_syntax == sop_class)
    assert context.context_id is not None
    association.dimse.send_msg(request, context.context_id)
    response: Any = None
    while response is None or response.Status in (0xFF00, 0xFF01):
        _, response = association.dimse.get_msg(block=True)
        assert response is not None, "aborted"
    association._reactor_checkpoint.set()
    wait_until(lambda: not association._is_paused, 10, "pynetdicom's reactor goes on")
    return response


@pytest.mark.parametrize("sop_class", REQUESTS, ids=["C-FIND", "C-MOVE", "C-GET"])
@pytest.mark.parametrize("name", MALFORMED)
def test_is_refused_with_a_reason_and_the_association_goes_on(
    association: Association, sop_class: str, name: str
) -> None:
    response = ask(association, sop_class, MALFORMED[name])
    if (name, sop_class) in ANSWERS_OF_SUCCESS:
        assert response.Status in (0x0000, 0xA900)
    else:
        assert response.Status in (0xA900, 0xC000)
        assert response.ErrorComment
    assert association.send_c_echo().Status == 0x0000


@pytest.mark.parametrize("seed", range(3))
def test_damage_anywhere_in_an_identifier_never_ends_the_association(association: Association, seed: int) -> None:
    chance = random.Random(seed)
    whole = LEVEL + b"\x10\x00\x10\x00PN\x04\x00A^B \x10\x00\x20\x00LO\x02\x00P1\x20\x00\x0d\x00UI\x04\x001.2\0"
    for _ in range(20):
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        for sop_class in REQUESTS:
            assert ask(association, sop_class, bytes(damaged)).Status in (0x0000, 0xA702, 0xA900, 0xC000)
    assert association.send_c_echo().Status == 0x0000
