from __future__ import annotations

import struct
import tracemalloc
import zlib
from io import BytesIO
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from backend.maintenance.content import orthanc_id
from backend.transfer import dicom_header
from backend.transfer.dicom_header import as_dicom_file, is_head, sop_instance_uid
from tests.fakes.images import made_up_ct


def encoded(transfer_syntax: str = ExplicitVRLittleEndian, *, pixels: bool = True) -> tuple[str, bytes]:
    image = made_up_ct("1.2.3", "1.2.3.4", 1, side=64)
    image.file_meta.TransferSyntaxUID = transfer_syntax
    if not pixels:
        del image.PixelData
    buffer = BytesIO()
    image.save_as(buffer, enforce_file_format=True)
    return str(image.SOPInstanceUID), buffer.getvalue()


def deflated(content: bytes, size: int | None = None) -> bytes:
    """As Orthanc's StorageCompression stores it."""
    return struct.pack("<Q", len(content) if size is None else size) + zlib.compress(content)


@pytest.mark.parametrize("transfer_syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_the_instance_is_known_from_the_first_bytes(transfer_syntax: str) -> None:
    uid, content = encoded(transfer_syntax)
    assert sop_instance_uid(BytesIO(content)) == uid
    assert sop_instance_uid(BytesIO(content[:1000])) == uid
    assert sop_instance_uid(BytesIO(deflated(content))) == uid
    assert sop_instance_uid(BytesIO(deflated(content)[:3000])) == uid


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        bytes(200),
        bytes(128) + b"DICM",
        bytes(128) + b"DICM" + b"\xff" * 90,
        bytes(128) + b"DICM\x08\x00\x08\x00SQ\0\0\xff\xff\xff\xff\x01",  # ends in a sequence
        deflated(b"a report"),
    ],
)
def test_what_is_no_image_has_no_instance(content: bytes) -> None:
    assert sop_instance_uid(BytesIO(content)) is None


def test_of_a_deflated_data_set_only_the_beginning_is_inflated() -> None:
    """Pixels of zeros: a file of megabytes would become gigabytes."""
    data_set = made_up_ct("1.2.3", "1.2.3.4", 1, side=64)
    data_set.PixelData = bytes(200_000_000)
    data_set.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    buffer = BytesIO()
    data_set.save_as(buffer, enforce_file_format=True)
    content = buffer.getvalue()
    assert len(content) < 1_000_000
    tracemalloc.start()
    try:
        assert sop_instance_uid(BytesIO(content)) == data_set.SOPInstanceUID
        assert sop_instance_uid(BytesIO(content[:50_000])) == data_set.SOPInstanceUID
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def nested(levels: int) -> bytes:
    """A file that begins with a sequence in a sequence in a sequence; made up in order to exhaust the stack."""
    return (
        encoded()[1][: _data_set_start()] + levels * b"\x08\0\x06\0SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff"
    )


def _data_set_start() -> int:
    (length,) = struct.unpack_from("<L", encoded()[1], 140)
    return 144 + int(length)


@pytest.mark.parametrize("levels", [1, 200, 3000])
def test_a_file_that_is_nested_too_deeply_has_no_instance(levels: int) -> None:
    assert sop_instance_uid(BytesIO(nested(levels))) is None
    assert is_head(BytesIO(nested(levels))) is False
    assert orthanc_id(nested(levels)) is None


def test_a_data_set_without_one_has_no_instance() -> None:
    image = Dataset()
    image.PatientID = "X"
    buffer = BytesIO()
    image.save_as(buffer, implicit_vr=False, little_endian=True)
    assert sop_instance_uid(BytesIO(bytes(128) + b"DICM" + buffer.getvalue())) is None


def test_a_head_is_an_image_without_its_pixels() -> None:
    _, whole = encoded()
    _, head = encoded(pixels=False)
    report = Dataset()
    report.SOPInstanceUID = "1.2"
    buffer = BytesIO()
    report.save_as(buffer, implicit_vr=False, little_endian=True)
    assert is_head(BytesIO(head))
    assert not is_head(BytesIO(whole))
    assert not is_head(BytesIO(encoded()[1][:128] + b"DICM" + buffer.getvalue()))


def test_the_file_in_an_attachment_is_the_attachment_or_what_it_inflates_to(tmp_path: Path) -> None:
    _, content = encoded()
    plain = BytesIO(content)
    plain.seek(77)
    assert as_dicom_file(plain, tmp_path).read() == content
    with as_dicom_file(BytesIO(deflated(content)), tmp_path) as file:
        assert file.read() == content
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [10, 10_000_000])
def test_an_attachment_that_inflates_to_something_else_is_refused(tmp_path: Path, size: int) -> None:
    with pytest.raises(ValueError, match="another size"):
        as_dicom_file(BytesIO(deflated(bytes(5_000_000), size)), tmp_path)


def test_an_attachment_that_does_not_inflate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="neither"):
        as_dicom_file(BytesIO(struct.pack("<Q", 500) + b"x" * 500), tmp_path)


def test_an_attachment_that_ends_early_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="another size"):
        as_dicom_file(BytesIO(deflated(encoded()[1])[:-100]), tmp_path)


def test_inflating_ends_at_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom_header, "_LARGEST", 1_000_000)
    with pytest.raises(ValueError, match="another size"):
        as_dicom_file(BytesIO(deflated(bytes(50_000_000))), tmp_path)
