"""Which DICOM instance an attachment is of, from its first bytes: what Orthanc's index can be asked about.

Orthanc has no way from an attachment's UUID to its instance, but it finds instances by SOPInstanceUID. pydicom is
imported when it is first needed: it would add a quarter to the start of this process, for which readers wait.
"""

from __future__ import annotations

import struct
import tempfile
import zlib
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

if TYPE_CHECKING:
    from pydicom import Dataset

ENOUGH: Final = 64 * 1024  # bytes that hold the SOPInstanceUID of every file that is not made to hide it
_PREAMBLE: Final = 128  # bytes before "DICM", PS3.10 7.1
_SOP_INSTANCE_UID: Final = 0x00080018
_PIXELS: Final = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_META_LENGTH: Final = 140  # where the value of (0002,0000) is, PS3.10 7.1
_DEFLATED: Final = b"1.2.840.10008.1.2.1.99"
_LARGEST: Final = 4 * 1024**3  # bytes; what claims to inflate to more is no DICOM file
_CHUNK: Final = 1024 * 1024  # bytes


def sop_instance_uid(file: BinaryIO) -> str | None:
    """The SOPInstanceUID of an attachment, whole or only its beginning; None if it is no DICOM file.

    Raises:
        OSError: it cannot be read.
    """
    beginning = file.read(ENOUGH)
    if beginning[_PREAMBLE : _PREAMBLE + 4] != b"DICM":
        beginning = _beginning_inflated(beginning)
    header = header_until(_SOP_INSTANCE_UID, beginning)
    return str(header.get("SOPInstanceUID") or "").strip(" \0") or None if header else None


def orthanc_id_of(file: BinaryIO) -> str | None:
    """Orthanc's identifier of the instance in a DICOM file, which stays at its start; None if it is hard to find."""
    from backend.maintenance.content import orthanc_id  # noqa: PLC0415 - see above

    beginning = file.read(_CHUNK)
    file.seek(0)
    return orthanc_id(beginning)


def header_until(last: int, beginning: bytes) -> Dataset | None:
    """The elements up to tag `last`, of the first bytes of a DICOM file; None if it is none."""
    from pydicom.filereader import read_dataset, read_partial  # noqa: PLC0415 - see above

    def is_beyond(tag: int, _vr: str | None, _length: int) -> bool:
        return int(tag) > last

    try:
        deflated = _deflated_data_set(beginning)
        if deflated is None:
            return read_partial(BytesIO(beginning), stop_when=is_beyond)
        # pydicom would inflate the whole, which may be made to fill the memory
        inflated = zlib.decompressobj(-zlib.MAX_WBITS).decompress(deflated, len(beginning))
        return read_dataset(BytesIO(inflated), is_implicit_VR=False, is_little_endian=True, stop_when=is_beyond)
    except Exception:  # noqa: BLE001 - strangers' bytes: pydicom meets anything in them, and may nest too deeply
        return None


def _deflated_data_set(content: bytes) -> bytes | None:
    """What follows the file meta information if that says that it is deflated (PS3.5 A.5)."""
    (length,) = struct.unpack_from("<L", content, _META_LENGTH)
    start = _META_LENGTH + 4 + length
    return content[start:] if _DEFLATED in content[_META_LENGTH:start] else None


def is_head(file: BinaryIO) -> bool:
    """Whether it is the beginning of a DICOM file, up to its pixels, that Orthanc keeps beside the whole one.

    With the structure "legacy" names do not tell. It describes pixels (PS3.3 C.7.6.3) and has none.
    """
    from pydicom import dcmread  # noqa: PLC0415 - see above

    file.seek(0)
    try:
        header = dcmread(file, defer_size=1024, specific_tags=["BitsAllocated", *_PIXELS])
    except Exception:  # noqa: BLE001 - as above
        return False
    return "BitsAllocated" in header and not any(keyword in header for keyword in _PIXELS)


def as_dicom_file(file: BinaryIO, folder: Path) -> BinaryIO:
    """The DICOM file in an attachment, which Orthanc's StorageCompression may have deflated, at its start.

    An inflated one has no name and is on the disk of `folder`; memory does not grow with it.

    Raises:
        ValueError: it is none.
    """
    file.seek(_PREAMBLE)
    is_plain = file.read(4) == b"DICM"
    file.seek(0)
    if is_plain:
        return file
    (size,) = struct.unpack("<Q", file.read(8))  # ZlibWithSize: the inflated size, then a zlib stream
    inflater, inflated = zlib.decompressobj(), tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - the caller's
    try:
        while not inflater.eof and inflated.tell() <= size <= _LARGEST:
            chunk = inflater.unconsumed_tail or file.read(_CHUNK)
            piece = inflater.decompress(chunk, _CHUNK)
            if not chunk and not piece:
                break  # it ends early
            inflated.write(piece)
    except zlib.error as error:
        inflated.close()
        raise ValueError("it is neither a DICOM file nor a deflated one") from error
    if inflated.tell() != size:
        inflated.close()
        raise ValueError("it inflates to another size than it says")
    inflated.seek(0)
    return inflated


def _beginning_inflated(content: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(content[8:], ENOUGH)
    except zlib.error:
        return b""
