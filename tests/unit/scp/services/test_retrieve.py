"""C-MOVE and C-GET of PS3.4 C.4.2 and C.4.3: which instances are sent, how, and what the requester is told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    MRImageStorage,
)
from pynetdicom.dimse_primitives import C_MOVE

from config.settings import DicomSettings, Modality
from scp.orthanc_client import Level, OrthancUnreachable
from scp.retrieve.read_ahead import WINDOW
from scp.services.get import GetService, negotiate_relational
from scp.services.move import MoveService
from scp.statuses import NoSuitableContext
from scp.store_association import AssociationRefused, MoveOriginator, ProposedContext
from scp.upper_layer import AssociationEnded
from tests.fakes.archive import ARCHIVE, instance
from tests.fakes.dimse_request import RecordedRequest, Response
from tests.fakes.orthanc_index import FakeOrthanc

PATIENT_MOVE, STUDY_MOVE = "1.2.840.10008.5.1.4.1.2.1.2", "1.2.840.10008.5.1.4.1.2.2.2"
STUDY_GET = "1.2.840.10008.5.1.4.1.2.2.3"
UNCOMPRESSED = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
VIEWER = Modality(name="viewer", ae_title="VIEWER", host="192.0.2.1", port=104)

SUCCESS, PENDING, WARNING, FAILED, CANCEL = 0x0000, 0xFF00, 0xB000, 0xA702, 0xFE00


def stored_as(dataset: Dataset, transfer_syntax: str) -> Dataset:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = transfer_syntax
    return dataset


@dataclass
class FakeDestination:
    """Accepts associations and C-STOREs, or does not."""

    accepted: tuple[str, ...] = UNCOMPRESSED
    classes: tuple[str, ...] | None = None  # None: all
    answer: Callable[[str], int] = lambda _uid: SUCCESS
    refuses: bool = False
    proposals: list[Sequence[ProposedContext]] = field(default_factory=list)
    received: list[tuple[str, str, str]] = field(default_factory=list)
    originators: set[MoveOriginator | None] = field(default_factory=set)
    released: int = 0
    aborted: int = 0

    def __call__(self, _modality: Modality, contexts: Sequence[ProposedContext]) -> FakeAssociation:
        if self.refuses:
            raise AssociationRefused("cannot connect: Connection refused")
        assert 0 < len(contexts) <= 128
        self.proposals.append(contexts)
        return FakeAssociation(self, contexts)


@dataclass
class FakeAssociation:
    destination: FakeDestination
    contexts: Sequence[ProposedContext]

    def accepted_transfer_syntaxes(self, sop_class_uid: str) -> tuple[str, ...]:
        if self.destination.classes is not None and sop_class_uid not in self.destination.classes:
            return ()
        offers = [syntaxes for uid, syntaxes in self.contexts if uid == sop_class_uid]
        return tuple(next((s for s in offer if s in self.destination.accepted), "") for offer in offers)

    def store(
        self,
        encoded: BinaryIO,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax: str,
        move_originator: MoveOriginator | None = None,
    ) -> int:
        if transfer_syntax not in self.accepted_transfer_syntaxes(sop_class_uid):
            raise NoSuitableContext(sop_class_uid)
        assert encoded.read(), "the data set, from its first byte"
        self.destination.originators.add(move_originator)
        status = self.destination.answer(sop_instance_uid)
        self.destination.received.append((sop_class_uid, sop_instance_uid, transfer_syntax))
        return status

    def release(self) -> None:
        self.destination.released += 1

    def abort(self) -> None:
        self.destination.aborted += 1


def series(count: int, **attributes: Any) -> list[Dataset]:
    return [instance(SOPInstanceUID=f"1.1.1.{n}", InstanceNumber=n, **attributes) for n in range(1, count + 1)]


def move(
    orthanc: FakeOrthanc,
    destination: FakeDestination | None = None,
    keys: dict[str, Any] | None = None,
    *,
    level: str = "STUDY",
    to: str = "VIEWER",
    root: str = STUDY_MOVE,
    priority: int = 0,
    settings: DicomSettings | None = None,
    modality: Modality = VIEWER,
    on_respond: Callable[[RecordedRequest], None] = lambda _request: None,
) -> RecordedRequest:
    orthanc.known_modalities = (modality,)
    identifier = Dataset()
    if level:
        identifier.QueryRetrieveLevel = level
    for keyword, value in ({"StudyInstanceUID": "1.1"} if keys is None else keys).items():
        setattr(identifier, keyword, value)
    message = C_MOVE()
    message.MessageID = 77
    message.MoveDestination = to
    message.Priority = priority
    request = RecordedRequest(message, root, keys=identifier, on_respond=on_respond)
    MoveService(lambda: settings or DicomSettings(), orthanc, destination or FakeDestination()).serve(request)  # type: ignore[arg-type] # a fake has no socket
    return request


def counters(request: RecordedRequest) -> tuple[object, ...]:
    return counters_of(request.final)


def counters_of(response: Response) -> tuple[object, ...]:
    """Remaining, completed, failed, warning; None = absent."""
    names = ("Remaining", "Completed", "Failed", "Warning")
    return tuple(response.fields.get(f"NumberOf{name}Suboperations") for name in names)


def failed_uids(request: RecordedRequest) -> list[str]:
    identifier = request.final.identifier
    if identifier is None:
        return []
    assert isinstance(identifier, Dataset)
    assert identifier.dir() == ["FailedSOPInstanceUIDList"]  # PS3.4 C.4.2.1.4.2: and no character set
    value = identifier.FailedSOPInstanceUIDList
    return [str(value)] if isinstance(value, str) else list(map(str, value))


# --- PS3.4 C.4.2.2.1: which instances


@pytest.mark.parametrize(
    ("level", "root", "keys", "count"),
    [
        ("PATIENT", PATIENT_MOVE, {"PatientID": "P1"}, 4),
        ("PATIENT", PATIENT_MOVE, {"PatientID": ["P1", "P2"]}, 5),
        ("STUDY", STUDY_MOVE, {"StudyInstanceUID": "1.1"}, 3),
        ("STUDY", STUDY_MOVE, {"StudyInstanceUID": ["1.1", "2.1", "9"]}, 4),
        ("STUDY", PATIENT_MOVE, {"PatientID": "P1", "StudyInstanceUID": "1.1"}, 3),
        ("STUDY", PATIENT_MOVE, {"PatientID": "P2", "StudyInstanceUID": "1.1"}, 0),
        ("STUDY", STUDY_MOVE, {"AccessionNumber": "A1"}, 3),
        ("STUDY", STUDY_MOVE, {"AccessionNumber": "A1", "StudyInstanceUID": ""}, 3),
        ("STUDY", STUDY_MOVE, {"AccessionNumber": "A1", "StudyInstanceUID": "2.1"}, 1),
        ("SERIES", STUDY_MOVE, {"StudyInstanceUID": "1.1", "SeriesInstanceUID": "1.1.1"}, 2),
        ("SERIES", STUDY_MOVE, {"SeriesInstanceUID": ["1.1.1", "1.1.2"]}, 3),
        ("SERIES", STUDY_MOVE, {"StudyInstanceUID": "2.1", "SeriesInstanceUID": "1.1.1"}, 0),
        ("IMAGE", STUDY_MOVE, {"SOPInstanceUID": "1.1.1.2"}, 1),
        ("INSTANCE", STUDY_MOVE, {"SOPInstanceUID": ["1.1.1.2", "1.1.2.1"]}, 2),
        ("", STUDY_MOVE, {"SeriesInstanceUID": "1.1.2"}, 1),
        ("IMAGE", STUDY_MOVE, {"SOPInstanceUID": "9.9.9"}, 0),
        ("PATIENT", PATIENT_MOVE, {"PatientID": "*"}, 0),
        ("PATIENT", PATIENT_MOVE, {"PatientID": "P?"}, 0),
        ("STUDY", STUDY_MOVE, {"AccessionNumber": "A*"}, 0),
    ],
)
def test_ps34_c_4_2_2_1_unique_keys_select(level: str, root: str, keys: dict[str, Any], count: int) -> None:
    destination = FakeDestination()
    request = move(FakeOrthanc(ARCHIVE), destination, keys, level=level, root=root)
    assert request.final.status == SUCCESS
    assert len(destination.received) == count
    assert counters(request) == (None, count, 0, 0)


@pytest.mark.parametrize(
    ("level", "keys"),
    [
        ("STUDY", {}),
        ("STUDY", {"StudyInstanceUID": ""}),
        ("STUDY", {"PatientID": "P1"}),
        ("SERIES", {"StudyInstanceUID": "1.1"}),
        ("IMAGE", {"StudyInstanceUID": "1.1", "SeriesInstanceUID": "1.1.1", "SOPInstanceUID": ""}),
        ("PATIENT", {"PatientID": "P1"}),
        ("", {"StudyInstanceUID": ""}),
    ],
)
def test_ps34_c_4_2_2_1_an_empty_unique_key_never_selects_everything(level: str, keys: dict[str, Any]) -> None:
    destination = FakeDestination()
    request = move(FakeOrthanc(ARCHIVE), destination, keys, level=level)
    assert request.statuses == [0xA900]
    assert not destination.proposals


@pytest.mark.parametrize(
    ("accession_numbers", "patients", "status"), [(256, 1, 0), (1, 257, 0xA900), (17, 16, 0xA900), (5000, 5000, 0xA900)]
)
def test_text_keys_are_bounded_because_each_pair_of_values_is_a_query(
    accession_numbers: int, patients: int, status: int
) -> None:
    keys = {"AccessionNumber": numbered("A", accession_numbers), "PatientID": numbered("P", patients)}
    orthanc = FakeOrthanc(ARCHIVE)
    assert move(orthanc, keys=keys).final.status == status
    assert sum(request[0] == "find" for request in orthanc.requests) == (256 if status == 0 else 0)


def numbered(letter: str, count: int) -> list[str]:
    return [f"{letter}{number}" for number in range(1, count + 1)]


def test_a_value_that_is_given_twice_is_asked_for_once() -> None:
    orthanc = FakeOrthanc(ARCHIVE)
    assert move(orthanc, keys={"AccessionNumber": ["A1"] * 1000}).final.status == 0
    assert sum(request[0] == "find" for request in orthanc.requests) == 1


def test_instances_go_out_series_by_series_in_the_order_of_their_numbers() -> None:
    destination = FakeDestination()
    move(FakeOrthanc(reversed(series(12))), destination)
    assert [uid for _, uid, _ in destination.received] == [f"1.1.1.{n}" for n in range(1, 13)]


def test_more_sub_operations_than_can_be_counted_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scp.retrieve.selection.MAXIMUM_SUB_OPERATIONS", 4)
    assert move(FakeOrthanc(series(5))).statuses == [0xA701]


# --- what is only in S3 is asked for as early as possible


class FilesElsewhere(FakeOrthanc):
    """Names a file for each instance and is who hands them over; `events` has what is asked and announced."""

    def __init__(self, instances: Iterable[Dataset], size: int = 9) -> None:
        super().__init__(instances)
        self.size = size  # of each file, in bytes
        self.events: list[tuple[str, Any]] = []

    def resources(self, level: Level, ids: Sequence[str], *, metadata: bool = False) -> list[dict[str, Any]]:
        rows = super().resources(level, ids, metadata=metadata)
        self.events.append((level, len(rows)))
        return [{**row, "FileUuid": f"file of {row['ID']}", "FileSize": self.size} for row in rows]

    def announce(self, attachments: Sequence[tuple[str, int]]) -> None:
        self.events.append(("announced", [uuid for uuid, _ in attachments]))

    def deliveries(self) -> FilesElsewhere:
        return self

    def expects(self, _uuid: str) -> bool:
        return False

    def forget(self, _uuid: str) -> None:
        pass

    def open(self, uuid: str, _size: int) -> None:
        self.events.append(("asked", uuid))

    def close(self) -> None:
        self.events.append(("closed", None))

    def __call__(self, _modality: Modality, contexts: Sequence[ProposedContext]) -> FakeAssociation:
        self.events.append(("association", None))
        return FakeAssociation(FakeDestination(), contexts)

    def announced(self) -> list[str]:
        return [uuid for kind, uuids in self.events if kind == "announced" for uuid in uuids]


@pytest.fixture
def elsewhere() -> FilesElsewhere:
    return FilesElsewhere(series(100))


def study_of(message: Any, root: str, storable: dict[str, tuple[str, ...]] | None = None) -> RecordedRequest:
    identifier = Dataset()
    identifier.QueryRetrieveLevel, identifier.StudyInstanceUID = "STUDY", "1.1"
    return RecordedRequest(message, root, keys=identifier, storable=storable, on_store=lambda *_: SUCCESS)


def move_from(orthanc: FilesElsewhere, settings: DicomSettings) -> None:
    orthanc.known_modalities = (VIEWER,)
    message = C_MOVE()
    message.MessageID, message.Priority, message.MoveDestination = 77, 0, "VIEWER"
    MoveService(lambda: settings, orthanc, orthanc, orthanc).serve(study_of(message, STUDY_MOVE))  # type: ignore[arg-type] # a fake has no socket


def test_a_move_announces_before_orthanc_has_described_all_and_before_the_association(
    elsewhere: FilesElsewhere,
) -> None:
    move_from(elsewhere, DicomSettings())
    kinds = [(kind, len(what) if kind == "announced" else what) for kind, what in elsewhere.events]
    first = [("Instance", 16), ("announced", 16), ("Instance", 32), ("announced", 32), ("Instance", 52)]
    first.append(("association", None))
    assert kinds[kinds.index(first[0]) :][: len(first)] == first
    assert sorted(elsewhere.announced()) == sorted(f"file of I{number}" for number in range(100))  # each of them once


def get_from(orthanc: FilesElsewhere) -> None:
    request = study_of(None, STUDY_GET, {CTImageStorage: (ExplicitVRLittleEndian,)})
    GetService(DicomSettings, orthanc, orthanc).serve(request)  # type: ignore[arg-type] # a fake has no socket
    assert request.final.status == SUCCESS


def test_a_get_announces_everything_once(elsewhere: FilesElsewhere) -> None:
    get_from(elsewhere)
    assert elsewhere.announced()[:16] == [f"file of I{number}" for number in range(16)]
    assert sorted(elsewhere.announced()) == sorted(f"file of I{number}" for number in range(100))


@pytest.mark.parametrize(("megabytes", "first"), [(50, WINDOW), (20, 12), (6, 42), (4, 64), (0, 64)])
def test_no_more_than_256_mb_are_asked_for_ahead(megabytes: int, first: int) -> None:
    """Unless the images that are read at once have more."""
    orthanc = FilesElsewhere(series(100), megabytes << 20)
    get_from(orthanc)
    assert len(orthanc.announced()) == len(set(orthanc.announced()))
    assert set(orthanc.announced()[:first]) == {f"file of I{number}" for number in range(first)}
    ahead, most = 0, 0
    for kind, what in orthanc.events:
        ahead += len(what) if kind == "announced" else -(kind == "asked" and what in orthanc.announced())
        most = max(most, ahead)
    assert first <= most <= first + WINDOW, "those that are being read are asked for a moment later"


def test_what_orthanc_itself_will_send_is_not_announced(elsewhere: FilesElsewhere) -> None:
    move_from(elsewhere, DicomSettings(synchronous_c_move=False))
    assert elsewhere.announced() == []


# --- PS3.4 C.4.2.3.1, Table C.4-2: what the requester is told


def test_ps34_table_c_4_2_pending_responses_count_down_and_the_final_one_has_no_remaining() -> None:
    request = move(FakeOrthanc(series(3)))
    assert request.statuses == [PENDING, PENDING, SUCCESS]
    counted = [
        tuple(
            response.fields[f"NumberOf{name}Suboperations"] for name in ("Remaining", "Completed", "Failed", "Warning")
        )
        for response in request.responses[:-1]
    ]
    assert counted == [(2, 1, 0, 0), (1, 2, 0, 0)]
    assert counters(request) == (None, 3, 0, 0)
    assert request.final.identifier is None


def test_ps34_table_c_4_2_one_failed_instance_does_not_end_the_others() -> None:
    destination = FakeDestination(answer=lambda uid: 0xA700 if uid == "1.1.1.2" else SUCCESS)
    request = move(FakeOrthanc(series(5)), destination)
    assert (request.final.status, counters(request)) == (WARNING, (None, 4, 1, 0))
    assert failed_uids(request) == ["1.1.1.2"]
    assert request.final.fields["ErrorComment"] == "status 0xA700"
    assert all(response.identifier is None for response in request.responses[:-1])


def test_ps34_table_c_4_2_all_failed_is_a702() -> None:
    request = move(FakeOrthanc(series(3)), FakeDestination(answer=lambda _uid: 0x0122))
    assert (request.final.status, counters(request)) == (FAILED, (None, 0, 3, 0))
    assert failed_uids(request) == ["1.1.1.1", "1.1.1.2", "1.1.1.3"]


def test_ps34_table_c_4_2_warned_instances_have_arrived_and_are_not_listed() -> None:
    request = move(FakeOrthanc(series(2)), FakeDestination(answer=lambda _uid: 0xB007))
    assert (request.final.status, counters(request)) == (WARNING, (None, 0, 0, 2))
    assert failed_uids(request) == []


def test_ps34_table_c_4_2_a_file_that_cannot_be_read_is_one_failure() -> None:
    orthanc = FakeOrthanc(series(WINDOW + 3))
    orthanc.failures["I1"] = OrthancUnreachable("GET /instances/I1/file: ReadTimeoutError")
    request = move(orthanc)
    assert (request.final.status, counters(request)) == (WARNING, (None, WINDOW + 2, 1, 0))
    assert failed_uids(request) == ["1.1.1.2"]


def test_ps34_table_c_4_2_an_unknown_destination_is_a801() -> None:
    assert move(FakeOrthanc(series(1)), to="NOBODY").statuses == [0xA801]
    assert move(FakeOrthanc(series(1)), to="viewer").final.status == SUCCESS
    strict = DicomSettings(strict_aet_comparison=True)
    assert move(FakeOrthanc(series(1)), to="viewer", settings=strict).statuses == [0xA801]


def test_a_destination_that_refuses_fails_every_sub_operation(caplog: pytest.LogCaptureFixture) -> None:
    request = move(FakeOrthanc(series(3)), FakeDestination(refuses=True))
    assert (request.final.status, counters(request)) == (FAILED, (None, 0, 3, 0))
    assert request.final.fields["ErrorComment"] == "cannot connect: Connection refused"
    (line,) = (record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert line == "move_destination_failed destination='VIEWER' reason=cannot connect: Connection refused"


def test_ps34_c_4_2_3_1_a_cancel_starts_no_further_sub_operation() -> None:
    def cancel(request: RecordedRequest) -> None:
        request.is_cancelled = len(request.responses) == 2

    destination = FakeDestination()
    request = move(FakeOrthanc(series(30)), destination, on_respond=cancel)
    assert request.statuses == [PENDING, PENDING, CANCEL]
    assert counters(request) == (28, 2, 0, 0)
    assert len(destination.received) == 2
    assert destination.released == 1


def test_a_requester_that_goes_away_ends_the_association_with_the_destination() -> None:
    def vanish(_request: RecordedRequest) -> None:
        raise AssociationEnded("peer_closed")

    destination = FakeDestination()
    with pytest.raises(AssociationEnded):
        move(FakeOrthanc(series(30)), destination, on_respond=vanish)
    assert destination.aborted == 1


def test_the_failed_list_is_cut_to_what_explicit_vr_can_carry() -> None:
    uid = "1.2.826.0.1.3680043.8.498.12345678901234567890123456789012345678"
    images = [instance(SOPInstanceUID=f"{uid[:-4]}{n:04}", InstanceNumber=n) for n in range(1100)]
    request = move(FakeOrthanc(images), FakeDestination(refuses=True))
    assert counters(request)[2] == 1100
    assert 800 < len(failed_uids(request)) < 1024
    assert len("\\".join(failed_uids(request))) <= 65534


# --- PS3.7 9.1.1.1: the sub-operations


def test_ps37_9_1_1_1_the_move_originator_is_the_requester() -> None:
    destination = FakeDestination()
    move(FakeOrthanc(series(2)), destination)
    assert destination.originators == {MoveOriginator("WORKSTATION", 77)}


@pytest.mark.parametrize("priority", [0, 1, 2])
def test_ps34_c_4_2_3_1_sub_operations_have_the_priority_of_the_move(priority: int) -> None:
    destination = FakeDestination()
    move(FakeOrthanc(series(1)), destination, priority=priority)
    assert destination.originators == {MoveOriginator("WORKSTATION", 77, priority)}


@pytest.mark.parametrize(
    ("level", "keys", "status"),
    [
        ("SERIES", {"StudyInstanceUID": "1.1", "SeriesInstanceUID": "1.1.1"}, SUCCESS),
        ("SERIES", {"SeriesInstanceUID": "1.1.1"}, 0xA900),
        ("SERIES", {"StudyInstanceUID": ["1.1", "1.2"], "SeriesInstanceUID": "1.1.1"}, 0xA900),
        ("STUDY", {"AccessionNumber": "A1"}, 0xA900),
        ("", {"StudyInstanceUID": "1.1"}, 0xA900),
    ],
)
def test_ps34_c_4_2_2_1_strict_hierarchy(level: str, keys: dict[str, Any], status: int) -> None:
    strict = DicomSettings(strict_hierarchy=True)
    assert move(FakeOrthanc(series(2)), keys=keys, level=level, settings=strict).final.status == status
    assert move(FakeOrthanc(series(2)), keys=keys, level=level).final.status == SUCCESS


def test_an_association_lost_once_is_opened_again_for_the_same_instance() -> None:
    lost: list[str] = []

    def answer(uid: str) -> int:
        if uid == "1.1.1.2" and not lost:
            lost.append(uid)
            raise AssociationEnded("aborted_by_peer")
        return SUCCESS

    destination = FakeDestination(answer=answer)
    request = move(FakeOrthanc(series(4)), destination)
    assert (request.final.status, counters(request)) == (SUCCESS, (None, 4, 0, 0))
    assert len(destination.proposals) == 2


def test_an_instance_that_the_destination_aborts_on_fails_alone() -> None:
    def answer(uid: str) -> int:
        if uid == "1.1.1.2":
            raise AssociationEnded("aborted_by_peer")
        return SUCCESS

    destination = FakeDestination(answer=answer)
    request = move(FakeOrthanc(series(4)), destination)
    assert (request.final.status, failed_uids(request)) == (WARNING, ["1.1.1.2"])


def test_a_destination_that_always_aborts_is_given_up() -> None:
    def answer(_uid: str) -> int:
        raise AssociationEnded("aborted_by_peer")

    destination = FakeDestination(answer=answer)
    request = move(FakeOrthanc(series(40)), destination)
    assert (request.final.status, counters(request)) == (FAILED, (None, 0, 40, 0))
    assert len(destination.proposals) <= 4


# --- presentation contexts and transfer syntaxes


def test_each_stored_syntax_has_a_context_of_its_own_and_compressed_ones_a_fallback() -> None:
    images = [
        stored_as(image, syntax)
        for image, syntax in zip(series(2), (JPEG2000Lossless, ExplicitVRLittleEndian), strict=True)
    ]
    destination = FakeDestination(accepted=(*UNCOMPRESSED, JPEG2000Lossless))
    orthanc = FakeOrthanc(images)
    assert move(orthanc, destination).final.status == SUCCESS
    assert [syntax for _, _, syntax in destination.received] == [JPEG2000Lossless, ExplicitVRLittleEndian]
    assert (CTImageStorage, (JPEG2000Lossless,)) in destination.proposals[0]
    assert not [asked for asked in orthanc.requests if asked[0] == "modify"]


def test_what_is_not_accepted_as_stored_is_converted_by_orthanc() -> None:
    orthanc = FakeOrthanc([stored_as(image, JPEGBaseline8Bit) for image in series(3)])
    destination = FakeDestination(accepted=(ImplicitVRLittleEndian,))
    assert move(orthanc, destination).final.status == SUCCESS
    assert {syntax for _, _, syntax in destination.received} == {ImplicitVRLittleEndian}


@pytest.mark.parametrize(
    ("settings", "modality"),
    [
        (DicomSettings(transcode_dicom_protocol=False), VIEWER),
        (DicomSettings(), VIEWER.model_copy(update={"allow_transcoding": False})),
    ],
)
def test_nothing_is_decompressed_where_the_configuration_forbids_it(
    settings: DicomSettings, modality: Modality
) -> None:
    orthanc = FakeOrthanc([stored_as(series(1)[0], JPEG2000Lossless)])
    request = move(orthanc, settings=settings, modality=modality)
    assert (request.final.status, failed_uids(request)) == (0xA702, ["1.1.1.1"])
    assert not [asked for asked in orthanc.requests if asked[0] == "file"], "what cannot be sent is not read"


def test_ps35_10_1_uncompressed_instances_are_re_encoded_even_then() -> None:
    orthanc = FakeOrthanc(series(1))
    modality = VIEWER.model_copy(update={"allow_transcoding": False})
    request = move(orthanc, FakeDestination(accepted=(ImplicitVRLittleEndian,)), modality=modality)
    assert request.final.status == SUCCESS


def test_ps34_c_4_2_3_1_an_instance_without_a_context_fails_alone() -> None:
    images = [*series(2), instance(SOPInstanceUID="1.1.1.9", SOPClassUID=MRImageStorage, InstanceNumber=9)]
    request = move(FakeOrthanc(images), FakeDestination(classes=(CTImageStorage,)))
    assert (request.final.status, failed_uids(request)) == (WARNING, ["1.1.1.9"])


def test_an_instance_that_orthanc_cannot_convert_fails_alone() -> None:
    images = [*series(2), stored_as(instance(SOPInstanceUID="1.1.1.9", InstanceNumber=9), JPEG2000Lossless)]
    orthanc = FakeOrthanc(images)
    orthanc.convertible = False
    request = move(orthanc)
    assert (request.final.status, failed_uids(request)) == (WARNING, ["1.1.1.9"])


def test_ps38_9_3_2_2_more_than_128_contexts_take_several_associations() -> None:
    images = [
        instance(SOPInstanceUID=f"1.1.1.{n}", SOPClassUID=f"1.2.840.10008.5.1.4.1.1.{n}", InstanceNumber=n)
        for n in range(1, 151)
    ]
    destination = FakeDestination()
    request = move(FakeOrthanc(images), destination)
    assert (request.final.status, counters(request)) == (SUCCESS, (None, 150, 0, 0))
    assert [len(proposal) for proposal in destination.proposals] == [128, 128, 44]
    assert destination.released == 3


# --- SynchronousCMove


def test_an_asynchronous_move_becomes_a_job_and_is_answered_at_once() -> None:
    orthanc = FakeOrthanc(series(3))
    destination = FakeDestination()
    request = move(orthanc, destination, settings=DicomSettings(synchronous_c_move=False, ae_title="ARCHIVE"))
    assert (request.statuses, counters(request)) == ([SUCCESS], (None, 3, 0, 0))
    assert orthanc.requests[-1] == ("job", "viewer", ("I0", "I1", "I2"), "ARCHIVE", "WORKSTATION", 77)
    assert not destination.proposals


# --- PS3.4 C.4.3: C-GET


def get(
    orthanc: FakeOrthanc, storable: dict[str, tuple[str, ...]], answer: int = SUCCESS
) -> tuple[RecordedRequest, list[Any]]:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "STUDY"
    identifier.StudyInstanceUID = "1.1"
    received: list[Any] = []

    def store(sop_class_uid: str, sop_instance_uid: str, transfer_syntax: str, encoded: bytes) -> int:
        assert encoded
        received.append((sop_class_uid, sop_instance_uid, transfer_syntax))
        return answer

    request = RecordedRequest(None, STUDY_GET, keys=identifier, storable=storable, on_store=store)
    GetService(DicomSettings, orthanc).serve(request)
    return request, received


def test_ps34_c_4_3_3_1_instances_come_on_the_same_association() -> None:
    request, received = get(FakeOrthanc(series(3)), {CTImageStorage: (ExplicitVRLittleEndian,)})
    assert request.statuses == [PENDING, PENDING, SUCCESS]
    assert received == [(CTImageStorage, f"1.1.1.{n}", ExplicitVRLittleEndian) for n in (1, 2, 3)]
    assert counters(request) == (None, 3, 0, 0)


def test_ps34_c_4_3_3_1_without_the_scp_role_for_a_class_its_instances_fail() -> None:
    request, received = get(FakeOrthanc(series(3)), {MRImageStorage: UNCOMPRESSED})
    assert (request.final.status, counters(request), received) == (FAILED, (None, 0, 3, 0), [])


def test_a_get_is_converted_to_what_the_requester_takes() -> None:
    orthanc = FakeOrthanc([stored_as(image, JPEG2000Lossless) for image in series(1)])
    request, received = get(orthanc, {CTImageStorage: (ImplicitVRLittleEndian,)})
    assert request.final.status == SUCCESS
    assert received[0][2] == ImplicitVRLittleEndian


def test_ps34_c_5_2_1_relational_retrieval_is_negotiated() -> None:
    assert negotiate_relational(b"\1") == b"\1"
    assert negotiate_relational(b"\1\1") == b"\1\0"
    assert negotiate_relational(b"\0") == b"\0"
