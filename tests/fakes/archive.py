"""A small made-up archive, as decoded data sets without pixels."""

from __future__ import annotations

from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, MRImageStorage


def instance(**attributes: Any) -> Dataset:
    dataset = Dataset()
    defaults = {
        "SOPClassUID": CTImageStorage,
        "PatientID": "P1",
        "PatientName": "Doe^Jane",
        "StudyInstanceUID": "1.1",
        "SeriesInstanceUID": "1.1.1",
        "SOPInstanceUID": "1.1.1.1",
        "StudyDate": "20240229",
        "StudyTime": "101112",
        "Modality": "CT",
        "InstanceNumber": 1,
    }
    for keyword, value in {**defaults, **attributes}.items():
        setattr(dataset, keyword, value)
    return dataset


# Jane has a study with a CT series of two images and an SR series of one, and another of MR; Juan has one of CT
ARCHIVE = (
    instance(AccessionNumber="A1"),
    instance(AccessionNumber="A1", SOPInstanceUID="1.1.1.2", InstanceNumber=2),
    instance(AccessionNumber="A1", SOPInstanceUID="1.1.2.1", SeriesInstanceUID="1.1.2", Modality="SR"),
    instance(
        StudyInstanceUID="1.2",
        SeriesInstanceUID="1.2.1",
        SOPInstanceUID="1.2.1.1",
        SOPClassUID=MRImageStorage,
        Modality="MR",
        StudyDate="20240301",
        StudyTime="0800",
        Rows=256,
    ),
    instance(
        PatientID="P2",
        PatientName="Núñez^Juan",
        StudyInstanceUID="2.1",
        SeriesInstanceUID="2.1.1",
        SOPInstanceUID="2.1.1.1",
        StudyDate="20230101",
        Rows=512,
    ),
)
