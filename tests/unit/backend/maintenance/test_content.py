"""What the bytes of an object say."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

import pytest
from pydicom.uid import generate_uid

from backend.maintenance.content import compare, dicom_file, orthanc_id, read
from backend.transfer.object_store.errors import ObjectCorrupted
from tests.fakes.images import made_up_ct
from tests.fakes.memory_object_store import MemoryObjectStore


def image() -> bytes:
    file = BytesIO()
    made_up_ct(generate_uid(), generate_uid(), 1, side=8).save_as(file, enforce_file_format=True)
    return file.getvalue()


def compressed(content: bytes, size: int | None = None) -> bytes:
    """Orthanc's ZlibWithSize."""
    return struct.pack("<Q", len(content) if size is None else size) + zlib.compress(content)


def test_a_dicom_file_is_found_plain_and_compressed() -> None:
    content = image()
    assert dicom_file(content) == content
    assert dicom_file(compressed(content)) == content


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        bytes(500),
        compressed(b"no DICOM file" * 50),
        compressed(image(), size=10),
        compressed(image(), size=2**63),
        compressed(image())[:-200],
        struct.pack("<Q", 4096) + b"no zlib stream" * 10,
    ],
)
def test_anything_else_is_none(content: bytes) -> None:
    assert dicom_file(content) is None


def test_the_identifier_is_orthancs() -> None:
    """Live in tests/integration/test_repair.py: an emptied index gets its identifiers back."""
    data_set = made_up_ct("1.2.3", "1.2.3.4", 1, side=8)
    data_set.SOPInstanceUID = data_set.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4.5"
    data_set.PatientID = " HN 1 "
    file = BytesIO()
    data_set.save_as(file, enforce_file_format=True)
    expected = "3781adff-93c1ee87-bdc132d1-641b6213-a89b2169"  # SHA-1 of "HN 1|1.2.3|1.2.3.4|1.2.3.4.5"
    assert orthanc_id(file.getvalue()) == expected
    assert orthanc_id(file.getvalue()[:-64]) == expected  # its head is enough


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, about the damage
def test_a_file_without_identifiers_has_no_identifier() -> None:
    assert orthanc_id(b"no DICOM file at all") is None
    assert orthanc_id(bytes(128) + b"DICM") is None
    assert orthanc_id(bytes(128) + b"DICM" + b"\xff" * 300) is None


def test_an_object_is_compared_with_all_that_is_known_of_it() -> None:
    store = MemoryObjectStore()
    store.put_foreign("key", b"bytes")
    assert compare(store, "key", 5, "") is None
    assert compare(store, "key", 5, "4b3a6218bb3e3a7303e8a171a60fcf92") is None
    assert "has 5 bytes" in (compare(store, "key", 6, "") or "")
    assert "MD5" in (compare(store, "key", 5, "0" * 32) or "")
    store.put_foreign("key", b"bytes", digest=bytes(32))
    assert "SHA-256" in (compare(store, "key", 5, "4b3a6218bb3e3a7303e8a171a60fcf92") or "")
    with pytest.raises(ObjectCorrupted):
        read(store, "key")
