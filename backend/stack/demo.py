"""`make demo`: a tour of Isen with DCMTK's tools on real DICOM files. Every step checks what it shows.

It starts a stack of its own on free ports, in a temporary folder, and leaves nothing behind.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final
from uuid import uuid4

from pydicom import Dataset, dcmread
from rich.console import Console

from backend.spool_note import FILE as NOTED_SPOOL
from backend.stack.dcmtk import Answer, Peer, StoreScp
from backend.stack.orthanc import BUCKET, NotStarted, Orthanc, configuration, merged
from backend.stack.ports import free_port
from backend.stack.processes import NotInTime, marked, wait_until
from backend.stack.run import Stopped, ignore_stop_signals, stop_signals
from backend.stack.s3_server import S3Server
from backend.stack.samples import real_files, worklist_item

_UPLOAD_DEADLINE: Final = 30.0  # seconds
_DATA_SET_TRAILING_PADDING: Final = 0xFFFCFFFC


class StepFailed(Exception):
    """What a step was to show is not so."""


@dataclass(frozen=True)
class Tour:
    """What the steps work with."""

    orthanc: Orthanc
    s3: S3Server
    archive: StoreScp  # the destination of C-MOVE
    files: list[Path]

    @property
    def peer(self) -> Peer:
        return Peer(self.orthanc.dicom_port)

    def instances(self) -> dict[str, bytes]:
        """Orthanc's id of each instance → its file, as Orthanc hands it out."""
        ids: list[str] = self.orthanc.get_json("/instances")
        return {identifier: self.orthanc.get(f"/instances/{identifier}/file") for identifier in ids}

    def keys(self) -> list[str]:
        return self.s3.keys(BUCKET)

    def objects(self) -> set[bytes]:
        """The DICOM files in the bucket."""
        return {self.s3.object(BUCKET, key) for key in self.keys() if key.endswith(".dcm")}


def check(condition: object, sentence: str, answer: Answer | None = None) -> None:
    """Fail the step unless `condition` is true."""
    if not condition:
        raise StepFailed(sentence + (f"\n{answer.output[-2000:]}" if answer else ""))


def echo(tour: Tour) -> str:
    """C-ECHO: echoscu asks whether Isen's DICOM server is there"""
    answer = tour.peer.echo()
    check(answer.exit_code == 0, "C-ECHO was not answered with 0000", answer)
    return f"answered with 0000 on port {tour.orthanc.dicom_port}; Orthanc's own DICOM server is switched off"


def store(tour: Tour) -> str:
    """C-STORE: dcmsend stores files of several modalities in the transfer syntaxes they have"""
    answer = tour.peer.send(*tour.files)
    check(answer.sent == len(tour.files), f"dcmsend stored {answer.sent} of {len(tour.files)} files", answer)
    sent = {dataset.SOPInstanceUID: dataset for dataset in map(_attributes, map(Path.read_bytes, tour.files))}
    stored = {instance.SOPInstanceUID: instance for instance in map(_attributes, tour.instances().values())}
    check(stored.keys() == sent.keys(), f"{len(sent)} files were sent and {len(stored)} are there", answer)
    for uid, instance in stored.items():
        check(instance == sent[uid], f"{uid} is not what was sent")
        syntax = sent[uid].file_meta.TransferSyntaxUID
        is_kept = instance.file_meta.TransferSyntaxUID == syntax
        check(is_kept or not syntax.is_compressed, f"{uid} was decompressed")  # uncompressed ones dcmsend may re-encode
    return f"{len(stored)} instances are stored, every attribute and pixel as sent"


def find(tour: Tour) -> str:
    """C-FIND: findscu looks for studies of patients whose name begins with CompressedSamples"""
    keys = ("PatientName=CompressedSamples*", "PatientID", "StudyInstanceUID", "ModalitiesInStudy")
    answer = tour.peer.find("QueryRetrieveLevel=STUDY", "NumberOfStudyRelatedInstances", *keys)
    expected = {
        str(file.StudyInstanceUID)
        for file in map(dcmread, tour.files)
        if str(file.get("PatientName", "")).startswith("CompressedSamples")
    }
    found = {str(study.StudyInstanceUID) for study in answer.data_sets}
    check(found == expected, f"{len(found)} studies were found, {len(expected)} match", answer)
    modalities = sorted(str(study.ModalitiesInStudy) for study in answer.data_sets)
    return f"found {len(found)} studies: {', '.join(modalities)}"


def bucket(tour: Tour) -> str:
    """S3: every attachment is an object in the bucket, named as Orthanc's native S3 plugin names it"""
    instances = tour.instances()
    attachments = sum(len(tour.orthanc.get_json(f"/instances/{instance}/attachments")) for instance in instances)
    wait_until(lambda: len(tour.keys()) == attachments, _UPLOAD_DEADLINE, f"{attachments} objects are in the bucket")
    files, keys = set(instances.values()), tour.keys()
    check(tour.objects() == files, "the objects are not, byte for byte, the files of Orthanc")
    return f"{len(keys)} objects; {len(files)} of them DICOM files, byte for byte those of Orthanc; one is {keys[0]}"


def move(tour: Tour) -> str:
    """C-MOVE: movescu has a study moved to a storescp"""
    image = _attributes(tour.files[0].read_bytes())
    uid = str(image.StudyInstanceUID)
    answer = tour.peer.move(tour.archive.ae_title, "QueryRetrieveLevel=STUDY", f"StudyInstanceUID={uid}")
    check(answer.statuses[-1:] == [0], "C-MOVE did not end with 0000", answer)
    received = [_attributes(path.read_bytes()) for path in tour.archive.folder.iterdir()]
    check([instance.SOPInstanceUID for instance in received] == [image.SOPInstanceUID], "storescp has other instances")
    check(received[0] == image, "what storescp received is not what was stored")
    return f"storescp received the study's {len(received)} instance, every attribute and pixel as stored"


def worklist(tour: Tour) -> str:
    """Modality Worklist: findscu asks for scheduled CT examinations"""
    item = worklist_item()
    item.save_as(tour.orthanc.folder / "worklists" / "one.wl", enforce_file_format=True)
    sequence = "ScheduledProcedureStepSequence[0]"
    keys = ("PatientName", "AccessionNumber", f"{sequence}.ScheduledProcedureStepStartDate")
    found = tour.peer.find(*keys, f"{sequence}.Modality=CT", model="-W")
    check([match.AccessionNumber for match in found.data_sets] == ["A42"], "the scheduled CT was not found", found)
    none = tour.peer.find(*keys, f"{sequence}.Modality=MR", model="-W")
    check(none.statuses == [0] and not none.data_sets, "an MR was found though none is scheduled", none)
    return "the scheduled CT was found, and nothing when asked for MR"


def read_back(tour: Tour) -> str:
    """Read back: Orthanc restarts with an empty spool and an empty cache, as if on a new machine"""
    before = tour.instances()
    tour.orthanc.stop()
    for name in ("spool", "cache"):
        shutil.rmtree(tour.orthanc.folder / name)
    (tour.orthanc.folder / "index" / NOTED_SPOOL).unlink()  # otherwise the start is refused: yes, that spool is gone
    tour.orthanc.start()
    check(tour.instances() == before, "what was read back from S3 is not what was stored")
    return f"{len(before)} files came back from S3, byte for byte"


def remove(tour: Tour) -> str:
    """Remove: a deleted study leaves the bucket"""
    before = len(tour.keys())
    for study in tour.orthanc.get_json("/studies"):
        tour.orthanc.delete(f"/studies/{study}")
    wait_until(lambda: not tour.keys(), _UPLOAD_DEADLINE, "the bucket is empty")
    return f"all studies are deleted and so are the {before} objects"


STEPS: Final[tuple[Callable[[Tour], str], ...]] = (echo, store, find, bucket, move, worklist, read_back, remove)


def demo() -> int:
    """Show all steps; 0 if each was as it should be."""
    console = Console(highlight=False, soft_wrap=True)
    mark = uuid4().hex
    try:
        with stop_signals(), tempfile.TemporaryDirectory(prefix="isen-demo-") as folder:
            _demo(console, Path(folder), mark)
        wait_until(lambda: not marked(mark), 5, "no process is left behind")
    except Stopped:
        console.print("stopped")
    except (StepFailed, NotInTime, NotStarted) as error:
        console.print("  [bold red]failed[/]: ", end="")
        console.print(error, markup=False)
    else:
        console.print(f"\n[bold green]All {len(STEPS)} steps passed.[/]")
        return 0
    return 1


def _demo(console: Console, folder: Path, mark: str) -> None:
    console.print("Starting an embedded S3 and an Orthanc with Isen …")
    with ExitStack() as running:
        s3 = S3Server(free_port(), folder / "s3.log", mark=mark)
        running.callback(s3.stop)
        archive = StoreScp(folder / "archive", "ARCHIVE", options=["+xa"], mark=mark)
        running.callback(archive.stop)
        changes = {
            "DicomModalities": {"archive": [archive.ae_title, "127.0.0.1", archive.port]},
            "Isen": {"Storage": {"RemovalGracePeriod": 0}},
        }
        settings = merged(configuration(folder, s3.url, free_port(), free_port()), changes)
        orthanc = Orthanc(folder, settings, mark)
        running.callback(orthanc.stop)
        running.callback(ignore_stop_signals)  # the first thing that is done at the end
        orthanc.start()
        try:
            _show_all(console, Tour(orthanc, s3, archive, real_files()))
        except (StepFailed, NotInTime):
            sys.stderr.write(orthanc.process.output())
            raise


def _show_all(console: Console, tour: Tour) -> None:
    for number, step in enumerate(STEPS, 1):
        console.print(f"\n[bold]{number}. {step.__doc__}[/]")
        console.print(f"  [green]ok[/]: {step(tour)}")


def _attributes(file: bytes) -> Dataset:
    """The data set of a file without what carries no information: DCMTK sends no padding."""
    data_set = dcmread(BytesIO(file))
    if _DATA_SET_TRAILING_PADDING in data_set:
        del data_set[_DATA_SET_TRAILING_PADDING]
    return data_set
