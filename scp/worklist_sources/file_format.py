"""Worklist files: DICOM files, or bare data sets as some systems write them, in any transfer syntax."""

from __future__ import annotations

import io
from typing import Final

from pydicom.filereader import read_dataset, read_preamble
from pydicom.tag import BaseTag
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from scp.matching import Candidate
from scp.matching.candidate import NO_PRIVATE_VRS, PrivateVrs
from scp.matching.decoding import read_candidate
from scp.upper_layer.limits import Limits

FILE_META_INFORMATION: Final = 0x0002  # group


class NotDicom(Exception):
    """The file is no DICOM file and no data set either."""


def read_worklist_file(
    content: bytes, limits: Limits, default_encoding: str, private_vrs: PrivateVrs = NO_PRIVATE_VRS
) -> Candidate:
    """The data set of a file, with or without preamble and File Meta Information.

    Raises:
        NotDicom: it starts like neither, or in a transfer syntax that nobody knows.
        scp.statuses.Refusal: it does, but the data set is damaged, cut short, nested too deeply or too large.
        scp.matching.candidate.Undecodable: the same, in a sequence.
    """
    file = io.BytesIO(content)
    try:
        read_preamble(file, force=True)
        meta = read_dataset(file, is_implicit_VR=False, is_little_endian=True, stop_when=_after_meta)
        transfer_syntax = meta.get("TransferSyntaxUID")
    except Exception as error:  # whatever pydicom raises for bytes that are no DICOM
        raise NotDicom("not a DICOM file") from error
    body = content[file.tell() :]
    transfer_syntax = UID(transfer_syntax) if transfer_syntax else _guess(body)
    if not transfer_syntax.is_transfer_syntax:
        raise NotDicom("unknown transfer syntax")
    return read_candidate(body, transfer_syntax, limits, default_encoding, private_vrs)


def _after_meta(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return tag.group != FILE_META_INFORMATION


def _guess(body: bytes) -> UID:
    """The transfer syntax of a bare data set, from its first element, which is of group 0008."""
    if body[:2] == b"\x00\x08":
        return ExplicitVRBigEndian
    if body[:2] != b"\x08\x00":
        raise NotDicom("not a DICOM file")
    return ExplicitVRLittleEndian if body[4:6].isalpha() and body[4:6].isupper() else ImplicitVRLittleEndian
