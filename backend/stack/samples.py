"""DICOM data to try things with: real files that come with pydicom, and a made-up worklist item."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

# CT, MR, ultrasound, nuclear medicine, structured report, ECG, radiotherapy plan; six transfer syntaxes
REAL_FILES: Final = (
    "CT_small.dcm",
    "MR_small_RLE.dcm",
    "examples_jpeg2k.dcm",
    "JPGExtended.dcm",
    "test-SR.dcm",
    "waveform_ecg.dcm",
    "rtplan.dcm",
    "SC_rgb_jpeg_gdcm.dcm",
)
_MODALITY_WORKLIST: Final = UID("1.2.840.10008.5.1.4.31")


def real_files() -> list[Path]:
    """Paths of real DICOM files of several modalities and transfer syntaxes, each of another study."""
    return [Path(str(get_testdata_file(name, download=False))) for name in REAL_FILES]


def worklist_item() -> Dataset:
    """A scheduled CT of a made-up patient, as PS3.4 Table K.6-1 has it, ready for `save_as`."""
    step = Dataset()
    step.Modality = "CT"
    step.ScheduledStationAETitle = "MODALITY"
    step.ScheduledProcedureStepStartDate = "20240229"
    step.ScheduledProcedureStepStartTime = "0830"
    step.ScheduledProcedureStepDescription = "Made up"
    step.ScheduledProcedureStepID = "1"
    item = Dataset()
    item.file_meta = FileMetaDataset()
    item.file_meta.MediaStorageSOPClassUID = _MODALITY_WORKLIST
    item.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    item.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    item.SpecificCharacterSet = "ISO_IR 192"
    item.AccessionNumber = "A42"
    item.PatientName = "Made^Up"
    item.PatientID = "MADE-UP-42"
    item.PatientBirthDate = "19700101"
    item.PatientSex = "O"
    item.StudyInstanceUID = generate_uid()
    item.RequestedProcedureID = "P42"
    item.RequestedProcedureDescription = "Made up"
    item.ScheduledProcedureStepSequence = [step]
    return item
