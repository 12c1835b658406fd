"""How long worklist queries take: `python -m tests.bench.worklist [ENTRIES]` prints a line for each kind of query.

A real worker answers pynetdicom, which asks for one day of one station, as modalities do. The first query is asked as
soon as the worker is ready, while it still reads the folder.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.association import Association

from backend.stack.ports import free_port
from config.settings import WorklistSettings
from scp.services.worklist import MODALITY_WORKLIST_FIND
from tests.fakes.data_sets import data_set
from tests.fakes.worklists import make_worklist_file, make_worklist_folder
from tests.integration.scp_fixtures import ScpWorker, dicom_settings

RUNS = 20


def main() -> None:
    entries = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "worklists"
        make_worklist_folder(folder, entries)
        settings = dicom_settings(always_allow_find_worklist=True)
        started = time.perf_counter()
        worker = ScpWorker(Path(name) / "worker", free_port(), settings, WorklistSettings(directory=folder))
        print(f"{entries} files; worker ready after {time.perf_counter() - started:.2f} s")
        try:
            _measure(worker, folder)
        finally:
            worker.stop()


def _measure(worker: ScpWorker, folder: Path) -> None:
    client = AE()
    client.add_requested_context(MODALITY_WORKLIST_FIND)
    association = client.associate("127.0.0.1", worker.port)
    step = {"ScheduledStationAETitle": "CT1", "ScheduledProcedureStepStartDate": "20240302", "Modality": "CT"}
    day = data_set(PatientName="", PatientID="", ScheduledProcedureStepSequence=step)
    none = data_set(PatientName="NOBODY*", PatientID="")
    print(f"first query, one day of one station: {_ask(association, day)}")
    print(f"later ones, median of {RUNS}:           {_median(association, day)}")
    print(f"no match, median of {RUNS}:             {_median(association, none)}")
    make_worklist_file(folder / "new.wl")
    print(f"after one file was added:            {_ask(association, day)}")
    print(f"everything:                          {_ask(association, data_set(PatientName='', PatientID=''))}")
    association.release()
    print(f"worker's memory: {_resident(worker.pid) / 1e6:.0f} MB")


def _ask(association: Association, keys: Dataset) -> str:
    seconds, answers = _time(association, keys)
    return f"{seconds * 1000:8.1f} ms, {answers} answers"


def _median(association: Association, keys: Dataset) -> str:
    times = sorted(_time(association, keys) for _ in range(RUNS))
    seconds, answers = times[RUNS // 2]
    return f"{seconds * 1000:8.1f} ms, {answers} answers"


def _time(association: Association, keys: Dataset) -> tuple[float, int]:
    began = time.perf_counter()
    answers = sum(1 for _status, answer in association.send_c_find(keys, MODALITY_WORKLIST_FIND) if answer)
    return time.perf_counter() - began, answers


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


if __name__ == "__main__":
    main()
