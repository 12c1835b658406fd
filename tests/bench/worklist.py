"""How long worklist queries take: `python -m tests.bench.worklist [ENTRIES [managed]]` prints a line for each kind of
query, over a folder of that many files, or over a managed list of that many entries spread over a year.

A real worker answers a peer that asks for one day of one station, as modalities do, and decodes nothing: pynetdicom
takes longer to read an answer than the worker to find and write it. The first query is asked as soon as the worker is
ready, while it still reads the folder.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from backend.stack.ports import free_port
from config.settings import WorklistSettings
from scp.services.worklist import MODALITY_WORKLIST_FIND
from scp.statuses import PENDING, PENDING_WARNING, SUCCESS
from scp.upper_layer.associate import ContextProposal
from scp.upper_layer.identifier import encode_identifier
from scp.worklists.entry import Entry, make_entry
from scp.worklists.store import Transaction, WorklistStore
from tests.fakes.data_sets import data_set
from tests.fakes.raw_peer import RawPeer
from tests.fakes.worklists import make_worklist_file, make_worklist_folder, worklist_entry
from tests.integration.scp_fixtures import ScpWorker, dicom_settings

RUNS = 20
CONTEXTS = [ContextProposal(1, MODALITY_WORKLIST_FIND, (ExplicitVRLittleEndian,))]
ORDER = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientWeight", "AccessionNumber"),
    *("StudyInstanceUID", "RequestedProcedureID", "RequestedProcedureDescription", "ReferringPhysicianName"),
    *("RequestingPhysician", "MedicalAlerts", "Allergies", "SpecialNeeds", "AdmissionID", "CurrentPatientLocation"),
)
STEP = (
    *("Modality", "ScheduledStationAETitle", "ScheduledProcedureStepStartTime", "ScheduledProcedureStepDescription"),
    *("ScheduledProcedureStepID", "ScheduledStationName", "ScheduledProcedureStepLocation"),
    "ScheduledPerformingPhysicianName",
)
SAMPLES = 1009  # a prime, so that every day gets each kind
FIRST_DAY = date(2024, 1, 1)


def main() -> None:
    entries = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "worklists"
        if "managed" in sys.argv:
            worklists, add = _fill_managed(folder, entries)
        else:
            make_worklist_folder(folder, entries)
            worklists, add = WorklistSettings(directory=folder), lambda: make_worklist_file(folder / "new.wl")
        settings = dicom_settings(always_allow_find_worklist=True)
        started = time.perf_counter()
        worker = ScpWorker(Path(name) / "worker", free_port(), settings, worklists)
        print(f"{entries} entries; worker ready after {time.perf_counter() - started:.2f} s")
        try:
            _measure(worker, add)
        finally:
            worker.stop()


def _fill_managed(folder: Path, entries: int) -> tuple[WorklistSettings, Callable[[], object]]:
    """A list with as many entries for each day of a year."""
    store = WorklistStore(folder)
    samples = [_sample(number) for number in range(SAMPLES)]

    def put(changes: Transaction, number: int) -> None:
        day = FIRST_DAY + timedelta(days=number % 365)
        sample = samples[number % SAMPLES]
        data_set = sample.data_set.replace(f"{FIRST_DAY:%Y%m%d}".encode(), f"{day:%Y%m%d}".encode())
        changes.put(replace(sample, data_set=data_set, day=day.toordinal()))

    def add(number: int = 0) -> None:
        with store.transaction() as changes:
            put(changes, number)

    began = time.perf_counter()
    for number in range(SAMPLES):
        add(number)
    print(f"one entry made durable in {(time.perf_counter() - began) / SAMPLES * 1000:.2f} ms")
    with store.transaction() as changes:
        for number in range(SAMPLES, entries):
            put(changes, number)
    print(f"database of {sum(file.stat().st_size for file in folder.iterdir()) / 1e6:.0f} MB")
    return WorklistSettings(managed_directory=folder), add


def _sample(number: int) -> Entry:
    entry, _ = make_entry(worklist_entry(number, ScheduledProcedureStepStartDate=f"{FIRST_DAY:%Y%m%d}"), "UNKNOWN")
    return entry


def _measure(worker: ScpWorker, add: Callable[[], object]) -> None:
    association = RawPeer(worker.port, timeout=60).established(contexts=CONTEXTS)
    day = _keys(ScheduledStationAETitle="CT1", Modality="CT")
    none = data_set(PatientName="NOBODY*", PatientID="")
    print(f"first query, one day of one station: {_ask(association, day)}")
    print(f"later ones, median of {RUNS}:           {_median(association, day)}")
    print(f"no match, median of {RUNS}:             {_median(association, none)}")
    one_day = _keys()
    print(f"one day of all stations, first:      {_ask(association, one_day)}")
    print(f"later ones, median of {RUNS}:           {_median(association, one_day)}")
    add()
    print(f"after one entry was added:           {_ask(association, day)}")
    print(f"everything:                          {_ask(association, data_set(PatientName='', PatientID=''))}")
    association.release()
    print(f"worker's memory: {_resident(worker.pid) / 1e6:.0f} MB")


def _keys(**step: str) -> Dataset:
    """What a modality asks for: one day, and everything it needs to fill in its images."""
    day = {"ScheduledProcedureStepStartDate": "20240302", **step}
    return data_set(dict.fromkeys(ORDER, ""), ScheduledProcedureStepSequence=dict.fromkeys(STEP, "") | day)


def _ask(association: RawPeer, keys: Dataset) -> str:
    seconds, answers = _time(association, keys)
    return f"{seconds * 1000:8.1f} ms, {answers} answers"


def _median(association: RawPeer, keys: Dataset) -> str:
    times = sorted(_time(association, keys) for _ in range(RUNS))
    seconds, answers = times[RUNS // 2]
    return f"{seconds * 1000:8.1f} ms, {answers} answers"


def _time(association: RawPeer, keys: Dataset) -> tuple[float, int]:
    encoded = encode_identifier(keys, ExplicitVRLittleEndian)
    began = time.perf_counter()
    association.request(
        1, {"CommandField": 0x20, "AffectedSOPClassUID": MODALITY_WORKLIST_FIND, "Priority": 0}, encoded
    )
    answers = 0
    while (status := association.response()[0]["Status"]) in (PENDING, PENDING_WARNING):
        answers += 1
    if status != SUCCESS:
        raise RuntimeError(f"the query ended with 0x{status:04X}")
    return time.perf_counter() - began, answers


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


if __name__ == "__main__":
    main()
