"""Worklist files as a RIS writes them: made-up patients, one Scheduled Procedure Step per file.

`python -m tests.fakes.worklists FOLDER COUNT` fills a folder.
"""

from __future__ import annotations

import os
import random
import sys
from datetime import date, timedelta
from itertools import count
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from tests.fakes.data_sets import data_set

STATIONS = {"CT": ("CT1", "CT2"), "MR": ("MR1",), "US": ("US1", "US2"), "DX": ("DX1",)}
PROCEDURES = {"CT": "CT head", "MR": "MR knee", "US": "US abdomen", "DX": "Chest PA"}
FAMILY_NAMES = ("Muster", "Beispiel", "Made", "Fictitious", "Imaginary", "Müller", "Çelik", "Nowak")
GIVEN_NAMES = ("Anna", "Otto", "Up", "Élodie", "Maria", "Jan")
DAY = date(2024, 2, 29)

_numbers = count(1)


def worklist_entry(number: int | None = None, **overrides: Any) -> Dataset:
    """One entry; `overrides` by keyword go to the Scheduled Procedure Step if they belong there, None removes."""
    number = next(_numbers) if number is None else number
    chance = random.Random(number)
    modality = chance.choice(list(STATIONS))
    step = {
        "Modality": modality,
        "ScheduledStationAETitle": chance.choice(STATIONS[modality]),
        "ScheduledProcedureStepStartDate": (DAY + timedelta(days=number % 7)).strftime("%Y%m%d"),
        "ScheduledProcedureStepStartTime": f"{chance.randrange(7, 19):02}{chance.randrange(60):02}00",
        "ScheduledPerformingPhysicianName": "Doctor^Any",
        "ScheduledProcedureStepDescription": PROCEDURES[modality],
        "ScheduledProcedureStepID": f"SPS{number}",
        "ScheduledStationName": "",
        "ScheduledProcedureStepLocation": "Basement",
        "ScheduledProcedureStepStatus": "SCHEDULED",
        "ScheduledProtocolCodeSequence": [
            {"CodeValue": modality, "CodingSchemeDesignator": "99MADEUP", "CodeMeaning": PROCEDURES[modality]}
        ],
    }
    order = {
        "SpecificCharacterSet": "ISO_IR 100",
        "AccessionNumber": f"A{number}",
        "ReferringPhysicianName": "Referrer^Rita",
        "PatientName": f"{chance.choice(FAMILY_NAMES)}^{chance.choice(GIVEN_NAMES)}",
        "PatientID": f"PID{number}",
        "PatientBirthDate": f"{chance.randrange(1930, 2020)}0615",
        "PatientSex": chance.choice("FMO"),
        "PatientWeight": "70",
        "MedicalAlerts": "",
        "Allergies": "",
        "PregnancyStatus": 4,
        "StudyInstanceUID": generate_uid(entropy_srcs=[f"worklist entry {number}"]),
        "RequestingPhysician": "Request^Reno",
        "RequestedProcedureDescription": PROCEDURES[modality],
        "AdmissionID": "",
        "SpecialNeeds": "",
        "CurrentPatientLocation": "Ward 3",
        "PatientState": "",
        "RequestedProcedureID": f"RP{number}",
        "RequestedProcedurePriority": "ROUTINE",
        "PatientTransportArrangements": "",
        "ConfidentialityConstraintOnPatientDataDescription": "",
    }
    for keyword, value in overrides.items():
        (step if keyword in step else order)[keyword] = value
    steps = order.pop("ScheduledProcedureStepSequence", [step])
    kept = {keyword: value for keyword, value in order.items() if value is not None}
    kept_steps = [{keyword: value for keyword, value in one.items() if value is not None} for one in steps]
    return data_set(kept, ScheduledProcedureStepSequence=kept_steps)


def write_worklist_file(path: Path, entry: Dataset, transfer_syntax: str = ExplicitVRLittleEndian) -> None:
    """Write one entry as a DICOM file, under another name first: a reader never sees half of it."""
    entry.file_meta = FileMetaDataset()
    entry.file_meta.MediaStorageSOPClassUID = UID("1.2.276.0.7230010.3.1.0.1")  # what DCMTK's dump2dcm writes
    entry.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[path.name])
    entry.file_meta.TransferSyntaxUID = UID(transfer_syntax)
    unfinished = path.with_name(f".{path.name}.unfinished")
    entry.save_as(unfinished, enforce_file_format=True)
    os.replace(unfinished, path)


def make_worklist_file(path: Path, number: int | None = None, **overrides: Any) -> Dataset:
    """Write one made-up entry to `path` and return it."""
    entry = worklist_entry(number, **overrides)
    write_worklist_file(path, entry)
    return entry


def make_worklist_folder(folder: Path, entries: int) -> None:
    """Fill `folder` with entries 1 to `entries`; the same numbers always make the same entries."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, entries + 1):
        make_worklist_file(folder / f"{number:06}.wl", number)


if __name__ == "__main__":
    make_worklist_folder(Path(sys.argv[1]), int(sys.argv[2]))
