"""Made-up studies to send: one template per size, and files that differ from it in their identifiers only.

A template is encoded once by pydicom; each file is the template's header with other values of the same length, and the
template's pixels. So a thousand images cost as much as writing them, and no image was ever stored before.
"""

from __future__ import annotations

import os
import random
import shutil
import struct
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Final

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
)

_RUN: Final = f"{random.SystemRandom().randrange(10**9):09d}"  # tells the studies of one run from those of another
_PLACEHOLDERS: Final = {
    "PatientID": "BENCH" + "0" * 11,
    "AccessionNumber": "ACC" + "0" * 13,
    "StudyInstanceUID": "2.25.11" + "0" * 24,
    "SeriesInstanceUID": "2.25.12" + "0" * 24,
    "SOPInstanceUID": "2.25.13" + "0" * 24,
}


@dataclass(frozen=True)
class Size:
    """What one image of a study looks like."""

    name: str
    side: int  # pixels
    frames: int
    bytes_per_pixel: int

    @property
    def pixel_bytes(self) -> int:
        """Length of the pixel data in bytes."""
        return self.side * self.side * self.frames * self.bytes_per_pixel


CT: Final = Size("512 KB", side=512, frames=1, bytes_per_pixel=2)
SMALL: Final = Size("6 KB", side=52, frames=1, bytes_per_pixel=2)
MULTI_FRAME: Final = Size("50 MB", side=1024, frames=50, bytes_per_pixel=1)
LARGE: Final = Size("500 MB", side=1024, frames=500, bytes_per_pixel=1)


@dataclass(frozen=True)
class Study:
    """One study of one series on disk."""

    number: int
    folder: Path
    images: int

    @property
    def uid(self) -> str:
        """StudyInstanceUID."""
        return _identifiers(self.number, 0)["StudyInstanceUID"]

    def remove(self) -> None:
        """Delete the files."""
        shutil.rmtree(self.folder, ignore_errors=True)


class Studies:
    """Writes studies below a folder, each with identifiers that nobody has seen before."""

    def __init__(self, folder: Path) -> None:
        """`folder` is in memory if possible, so that reading the images costs the senders nothing."""
        self.folder = folder
        self._last = 0

    def write(self, size: Size, images: int) -> Study:
        """A new study of `images` images."""
        self._last += 1
        study = Study(self._last, self.folder / f"study-{self._last}", images)
        study.folder.mkdir(parents=True)
        for number in range(1, images + 1):
            descriptor = os.open(study.folder / f"{number:06d}.dcm", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            try:
                for part in encoded(size, study.number, number):
                    rest = memoryview(part)
                    while rest:  # Linux writes 2 GB at most
                        rest = rest[os.write(descriptor, rest) :]
            finally:
                os.close(descriptor)
        return study


def encoded(size: Size, study: int, number: int) -> tuple[bytes, bytes]:
    """Image `number` of the study as a Part 10 file: header and pixels."""
    header, pixels = _template(size)
    for keyword, value in _identifiers(study, number).items():
        header = header.replace(_PLACEHOLDERS[keyword].encode(), value.encode())
    return header, pixels


def _identifiers(study: int, number: int) -> dict[str, str]:
    tail = f"{_RUN}{study:07d}{number:08d}"
    return {
        "PatientID": f"BENCH{_RUN[-4:]}{study:07d}",
        "AccessionNumber": f"ACC{_RUN[-6:]}{study:07d}",
        "StudyInstanceUID": f"2.25.11{_RUN}{study:07d}{0:08d}",
        "SeriesInstanceUID": f"2.25.12{_RUN}{study:07d}{0:08d}",
        "SOPInstanceUID": f"2.25.13{tail}",
    }


@cache
def _template(size: Size) -> tuple[bytes, bytes]:
    image = Dataset()
    for keyword, value in _PLACEHOLDERS.items():
        setattr(image, keyword, value)
    image.SOPClassUID = CTImageStorage if size.frames == 1 else MultiFrameGrayscaleByteSecondaryCaptureImageStorage
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.StudyDate = "20240229"
    image.StudyTime = "101112"
    image.Modality = "CT" if size.frames == 1 else "OT"
    image.PatientName = "Bench^Mark"
    image.PatientBirthDate = "19700101"
    image.PatientSex = "O"
    image.StudyID = "1"
    image.StudyDescription = "Made up for a benchmark"
    image.SeriesNumber = 1
    image.InstanceNumber = 1
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.Rows = image.Columns = size.side
    if size.frames > 1:
        image.NumberOfFrames = size.frames
    image.BitsAllocated = 8 * size.bytes_per_pixel
    image.BitsStored = min(12, image.BitsAllocated)
    image.HighBit = image.BitsStored - 1
    image.PixelRepresentation = 0
    buffer = BytesIO()
    image.save_as(buffer, enforce_file_format=True)
    vr = b"OW" if size.bytes_per_pixel > 1 else b"OB"
    element = struct.pack("<HH2sHI", 0x7FE0, 0x0010, vr, 0, size.pixel_bytes)
    return buffer.getvalue() + element, _pixels(size)


def _pixels(size: Size) -> bytes:
    """Noise of a detector on a bright disc, so that it compresses about as well as a real image."""
    noise = random.Random(1)
    half = size.side / 2
    frame = bytearray()
    for row in range(size.side):
        for column in range(size.side):
            inside = (row - half) ** 2 + (column - half) ** 2 < (0.8 * half) ** 2
            value = (1000 if inside else 20) + int(noise.random() * (100 if inside else 10))
            frame += value.to_bytes(2, "little") if size.bytes_per_pixel == 2 else bytes([value // 8])
    return bytes(frame) * size.frames
