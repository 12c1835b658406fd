"""Made-up CT images, each different from all others, made quickly."""

from __future__ import annotations

import random
from pathlib import Path

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

SIDE = 512  # pixels; of two bytes, so the pixel data has 512 KB


def made_up_ct(study: str, series: str, number: int, *, side: int = SIDE) -> Dataset:
    """One image of a series, with random pixels, ready for `save_as`."""
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID = CTImageStorage
    image.SOPInstanceUID = generate_uid()
    image.StudyDate = "20240229"
    image.StudyTime = "101112"
    image.AccessionNumber = "A1"
    image.Modality = "CT"
    image.PatientName = "Made^Up"
    image.PatientID = "MADE-UP-1"
    image.PatientBirthDate = "19700101"
    image.PatientSex = "O"
    image.StudyInstanceUID = study
    image.SeriesInstanceUID = series
    image.StudyID = "1"
    image.SeriesNumber = 1
    image.InstanceNumber = number
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.Rows = image.Columns = side
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit = 15
    image.PixelRepresentation = 0
    image.PixelData = random.randbytes(side * side * 2)
    image["PixelData"].VR = "OW"
    return image


def write_series(folder: Path, count: int, *, study: str | None = None, side: int = SIDE) -> list[Path]:
    """Write `count` images of one new series, of a new study unless named, into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    study, series = study or generate_uid(), generate_uid()
    paths = []
    for number in range(1, count + 1):
        path = folder / f"{series}.{number}.dcm"
        made_up_ct(study, series, number, side=side).save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths
