"""The DICOM File Format of PS3.10 7.1, written and read without pydicom in between."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from scp.part10 import FileMeta, NotPart10, file_header, read_file_meta

UIDS = st.from_regex(r"[1-9][0-9]{0,8}(\.[1-9][0-9]{0,8}){0,5}", fullmatch=True)


@given(UIDS, UIDS, st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=16))
def test_ps310_7_1_a_header_is_read_back_by_us_and_by_pydicom(
    sop_class_uid: str, sop_instance_uid: str, ae_title: str
) -> None:
    meta = FileMeta(sop_class_uid, sop_instance_uid, ImplicitVRLittleEndian)
    header = file_header(meta, ae_title)
    assert header[:128] == bytes(128)
    assert len(header) % 2 == 0
    file = io.BytesIO(header + b"data set")
    assert read_file_meta(file) == meta
    assert file.read() == b"data set"
    read = dcmread(io.BytesIO(header)).file_meta
    assert (read.MediaStorageSOPClassUID, read.MediaStorageSOPInstanceUID) == (sop_class_uid, sop_instance_uid)
    assert read.SourceApplicationEntityTitle == ae_title
    assert read.FileMetaInformationGroupLength == len(header) - 144
    assert read.ImplementationClassUID


def test_an_ae_title_beyond_ascii_does_not_break_the_header() -> None:
    header = file_header(FileMeta(CTImageStorage, "1.2", ExplicitVRLittleEndian), "RÖNTGEN")
    assert read_file_meta(io.BytesIO(header)).sop_instance_uid == "1.2"


@pytest.mark.parametrize("name", ["CT_small.dcm", "image_dfl.dcm", "JPEG2000.dcm", "rtplan.dcm"])
def test_the_data_set_of_real_files_begins_where_pydicom_says(name: str) -> None:
    path = str(get_testdata_file(name, download=False))
    with open(path, "rb") as file:
        meta = read_file_meta(file)
        begin = file.tell()
    expected = dcmread(path)
    assert meta.transfer_syntax == expected.file_meta.TransferSyntaxUID
    assert begin == 144 + expected.file_meta.FileMetaInformationGroupLength


def test_a_missing_or_wrong_group_length_does_not_matter() -> None:
    header = file_header(FileMeta("1.1", "1.2", ExplicitVRLittleEndian), "AE")
    wrong = bytearray(header)
    wrong[140] ^= 0xFF
    for file in (io.BytesIO(bytes(wrong) + b"\x08\0\x16\0"), io.BytesIO(header[:132] + header[144:] + b"\x08\0\x16\0")):
        assert read_file_meta(file).transfer_syntax == ExplicitVRLittleEndian
        assert file.read() == b"\x08\0\x16\0"


@pytest.mark.parametrize("content", [b"", bytes(128), bytes(200), b"\x08\0\x16\0UI" * 40])
def test_a_file_without_prefix_is_not_part_10_and_left_at_its_start(content: bytes) -> None:
    file = io.BytesIO(content)
    with pytest.raises(NotPart10):
        read_file_meta(file)
    assert file.tell() == 0


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=8),
            st.tuples(st.just(b"\2\0\x10\0"), st.sampled_from([b"UI", b"OB", b"UN"]), st.binary(max_size=8)).map(
                b"".join
            ),
        )
    ).map(b"".join)
)
def test_damaged_meta_information_never_raises_anything_else(damage: bytes) -> None:
    file = io.BytesIO(bytes(128) + b"DICM" + damage)
    read_file_meta(file)
    assert file.tell() >= 132
