"""Attribute lists of performed procedure steps, as a modality sends them (PS3.4 Table F.7.2-1)."""

from __future__ import annotations

from pydicom.dataset import Dataset

STUDY = "1.2.826.0.1.3680043.8.498.77"


def creation(**changes: object) -> Dataset:
    """N-CREATE, with a name that needs its character set; None removes an attribute."""
    scheduled = Dataset()
    scheduled.StudyInstanceUID = STUDY
    scheduled.ScheduledProcedureStepID = "SPS1"
    scheduled.AccessionNumber = "A1"
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.ScheduledStepAttributesSequence = [scheduled]
    dataset.PatientName = "Müller^Jörg"
    dataset.PatientID = "P1"
    dataset.PatientBirthDate = ""
    dataset.PatientSex = "M"
    dataset.PerformedProcedureStepID = "PPS1"
    dataset.PerformedStationAETitle = "CT1"
    dataset.PerformedProcedureStepStartDate = "20240229"
    dataset.PerformedProcedureStepStartTime = "101112"
    dataset.PerformedProcedureStepStatus = "IN PROGRESS"
    dataset.Modality = "CT"
    dataset.PerformedSeriesSequence = []
    return changed(dataset, **changes)


def ending(status: str = "COMPLETED", **changes: object) -> Dataset:
    """The last N-SET, in another character set."""
    series = Dataset()
    series.SeriesInstanceUID = "1.2.826.0.1.3680043.8.498.78"
    series.ProtocolName = "Schädel"
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PerformedProcedureStepStatus = status
    dataset.PerformedProcedureStepEndDate = "20240229"
    dataset.PerformedProcedureStepEndTime = "102000"
    dataset.PerformedSeriesSequence = [series]
    return changed(dataset, **changes)


def changed(dataset: Dataset, **changes: object) -> Dataset:
    for keyword, value in changes.items():
        if value is None:
            del dataset[keyword]
        else:
            setattr(dataset, keyword, value)
    return dataset
