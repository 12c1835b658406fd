"""An Orthanc of a few made-up data sets: the calls the services make, answered as Orthanc 1.10.1 does.

Its `/tools/find` answers everything of the level unless told otherwise, because what Orthanc finds are candidates: the
services must decide by themselves.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, BinaryIO

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from config.settings import Modality
from scp.orthanc_client import Level, OrthancClient, OrthancError, OrthancRefused, ResourceMissing
from scp.query.main_dicom_tags import FIXED, name_of, tag_of
from scp.query.model import ORTHANC_LEVELS, UNIQUE_KEYS
from scp.query.model import Level as ModelLevel

UNDECODED: set[int] = set()  # private attributes of data sets in Implicit VR
LEVELS = {name: level for level, name in ORTHANC_LEVELS.items()}


class FakeOrthanc(OrthancClient):
    """Holds `instances`; `requests` lists what it was asked, one entry per HTTP request."""

    def __init__(self, instances: Iterable[Dataset], modalities: Sequence[Modality] = ()) -> None:
        self.instances = {f"I{number}": dataset for number, dataset in enumerate(instances)}
        self.known_modalities = tuple(modalities)
        self.requests: list[tuple[Any, ...]] = []
        self.failures: dict[str, OrthancError] = {}  # by instance: what reading its file raises
        self.convertible = True
        self.candidates: Callable[[Level, Mapping[str, str]], list[str]] = lambda level, _query: self.all(level)

    def all(self, level: Level) -> list[str]:
        return list(dict.fromkeys(self._ids(instance)[LEVELS[level]] for instance in self.instances))

    def system(self) -> dict[str, Any]:
        self.requests.append(("system",))
        return {"Version": "1.10.1", "ApiVersion": 16}

    def modalities(self) -> tuple[Modality, ...]:
        return self.known_modalities

    def find(self, level: Level, query: Mapping[str, str]) -> list[str]:
        self.requests.append(("find", level, dict(query)))
        return self.candidates(level, query)

    def resources(self, level: Level, ids: Sequence[str], *, metadata: bool = False) -> list[dict[str, Any]]:
        self.requests.append(("resources", level, len(ids)))
        wanted = set(ids)
        rows: dict[str, dict[str, Any]] = {}
        for instance in self.instances:
            own = self._ids(instance)
            if own[LEVELS[level]] not in rows and not wanted.isdisjoint(own.values()):
                rows[own[LEVELS[level]]] = self._row(LEVELS[level], instance, metadata=metadata)
        return list(rows.values())

    def instance_tags(self, instance_id: str) -> dict[str, Any]:
        self.requests.append(("tags", instance_id))
        if instance_id not in self.instances:
            raise ResourceMissing(404, 17, "GET /instances/tags: Unknown resource")
        return _short_json(self.instances[instance_id])

    def instance_value(self, instance_id: str, name: str) -> bytes:
        self.requests.append(("value", instance_id, name))
        element = self.instances[instance_id][tag_of(name)]
        return str(element.value).encode("latin_1")

    def instance_file(self, instance_id: str) -> BinaryIO:
        self.requests.append(("file", instance_id))
        if instance_id in self.failures:
            raise self.failures[instance_id]
        return _part10(self.instances[instance_id])

    def transcoded_instance(self, instance_id: str, transfer_syntax: str) -> BinaryIO:
        return self.instance_file(instance_id)  # an Orthanc before `?transcode=`

    def modified_instance(self, instance_id: str, transfer_syntax: str) -> BinaryIO:
        self.requests.append(("modify", instance_id, transfer_syntax))
        if not self.convertible:
            raise OrthancRefused(500, -1, "POST /instances/modify: Internal error")
        return _part10(self.instances[instance_id], transfer_syntax)

    def submit_store_job(
        self, modality: str, ids: Sequence[str], local_ae_title: str, originator_ae_title: str, originator_id: int
    ) -> str:
        self.requests.append(("job", modality, tuple(ids), local_ae_title, originator_ae_title, originator_id))
        return "job"

    def _ids(self, instance: str) -> dict[ModelLevel, str]:
        dataset = self.instances[instance]
        patient = f"P-{dataset.get('PatientID', '')}"
        study, series = f"T-{dataset.StudyInstanceUID}", f"S-{dataset.SeriesInstanceUID}"
        return dict(zip(ModelLevel, (patient, study, series, instance), strict=True))

    def _children(self, level: ModelLevel, parent: str) -> list[str]:
        own = (self._ids(instance) for instance in self.instances)
        return list(dict.fromkeys(ids[ModelLevel(level + 1)] for ids in own if ids[level] == parent))

    def _row(self, level: ModelLevel, instance: str, *, metadata: bool) -> dict[str, Any]:
        ids, dataset = self._ids(instance), self.instances[instance]
        row: dict[str, Any] = {"ID": ids[level], "MainDicomTags": _main(dataset, level)}
        if level == ModelLevel.STUDY:
            row["PatientMainDicomTags"] = _main(dataset, ModelLevel.PATIENT)
        if level > ModelLevel.PATIENT:
            row[f"Parent{ORTHANC_LEVELS[ModelLevel(level - 1)]}"] = ids[ModelLevel(level - 1)]
        if level < ModelLevel.IMAGE:
            row[("Studies", "Series", "Instances")[level]] = self._children(level, ids[level])
        if metadata and level == ModelLevel.IMAGE:
            row["Metadata"] = {
                "SopClassUid": str(dataset.SOPClassUID),
                "TransferSyntax": _transfer_syntax(dataset),
                "IndexInSeries": str(dataset.get("InstanceNumber", "")),
            }
        return row


def _main(dataset: Dataset, level: ModelLevel) -> dict[str, str]:
    tags = FIXED[level] | {UNIQUE_KEYS[level]}
    return {name: value for name, value in _short_json(dataset).items() if name in {name_of(tag) for tag in tags}}


def _short_json(dataset: Dataset) -> dict[str, Any]:
    """As `/instances/{id}/tags?short` has it."""
    tags: dict[str, Any] = {}
    for element in dataset:
        name = name_of(int(element.tag))
        if element.VR == "SQ":
            tags[name] = [_short_json(item) for item in element.value]
        elif element.VR in {"OB", "OW", "UN"} or int(element.tag) in UNDECODED:
            tags[name] = None
        elif element.VM > 1:
            tags[name] = "\\".join(map(str, element.value))
        else:
            tags[name] = "" if element.value is None else str(element.value)
    return json.loads(json.dumps(tags))  # type: ignore[no-any-return] # what travelled as JSON


def _transfer_syntax(dataset: Dataset) -> str:
    return str(dataset.file_meta.TransferSyntaxUID) if hasattr(dataset, "file_meta") else str(ExplicitVRLittleEndian)


def _part10(dataset: Dataset, transfer_syntax: str | None = None) -> BinaryIO:
    copy = Dataset(dataset)
    copy.file_meta = FileMetaDataset()
    copy.file_meta.TransferSyntaxUID = transfer_syntax or _transfer_syntax(dataset)
    buffer = io.BytesIO()
    copy.save_as(buffer, enforce_file_format=True)
    buffer.seek(0)
    return buffer
