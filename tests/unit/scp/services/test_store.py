"""C-STORE of PS3.4 Annex B: what is forwarded to Orthanc, and which status the peer gets."""

from __future__ import annotations

import io
import logging
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLosslessSV1,
    MRImageStorage,
)
from pynetdicom.dimse_primitives import C_STORE

from scp.origins import Origin
from scp.orthanc_client import OrthancClient, OrthancError, OrthancRefused, OrthancUnreachable, StoredInstance
from scp.received.hand_over import HandOver
from scp.received.journal import Journal
from scp.services.store import StoreService
from scp.sop_common import nests_beyond
from tests.fakes.dimse_request import RecordedRequest, encode

INSTANCE_UID = "1.2.826.0.1.3680043.8.498.1"


STORED = StoredInstance("Success", "x")


class PostedInstances(OrthancClient):
    """The one call a C-STORE makes."""

    def __init__(self, answer: StoredInstance | OrthancError) -> None:
        self.answer = answer
        self.posted: list[bytes] = []

    def post_instance(self, body: Callable[[], Iterable[bytes]], length: int) -> StoredInstance:
        content = b"".join(body())
        assert len(content) == length
        assert b"".join(body()) == content, "a repeated request sends the same bytes"
        self.posted.append(content)
        if isinstance(self.answer, OrthancError):
            raise self.answer
        return self.answer


def image(**attributes: object) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = INSTANCE_UID
    dataset.PatientName = "Test^Store"
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def store(
    encoded: bytes,
    transfer_syntax: str = ExplicitVRLittleEndian,
    answer: StoredInstance | OrthancError = STORED,
) -> tuple[RecordedRequest, list[bytes]]:
    message = C_STORE()
    message.AffectedSOPClassUID = CTImageStorage
    message.AffectedSOPInstanceUID = INSTANCE_UID
    request = RecordedRequest(message, CTImageStorage, encoded, transfer_syntax=transfer_syntax)
    client = PostedInstances(answer)
    StoreService(client).serve(request)
    return request, client.posted


@pytest.mark.parametrize(
    "transfer_syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, JPEGLosslessSV1]
)
def test_ps34_b_4_1_the_data_set_is_forwarded_as_received(transfer_syntax: str) -> None:
    encoded = encode(image(), transfer_syntax)
    request, posted = store(encoded, transfer_syntax)
    assert request.statuses == [0x0000]
    assert posted[0].endswith(encoded)
    assert posted[0][:132] == bytes(128) + b"DICM"
    read = dcmread(io.BytesIO(posted[0]))
    assert read.file_meta.TransferSyntaxUID == transfer_syntax
    assert read.file_meta.MediaStorageSOPClassUID == CTImageStorage
    assert read.file_meta.MediaStorageSOPInstanceUID == INSTANCE_UID
    assert read.file_meta.SourceApplicationEntityTitle == "WORKSTATION"
    assert read.PatientName == "Test^Store"


def test_a_deflated_data_set_is_forwarded_deflated() -> None:
    deflater = zlib.compressobj(wbits=-15)
    encoded = deflater.compress(encode(image())) + deflater.flush()
    request, posted = store(encoded, DeflatedExplicitVRLittleEndian)
    assert request.statuses == [0x0000]
    assert posted[0].endswith(encoded)


def test_a_deflated_data_set_that_grows_without_bound_is_not_forwarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few hundred kilobytes can inflate to gigabytes, which Orthanc would hold in memory."""
    monkeypatch.setattr("scp.services.store.LARGEST_INFLATED", 1_000_000)
    for length, status in ((900_000, 0x0000), (1_100_000, 0xC000)):
        deflater = zlib.compressobj(wbits=-15)
        encoded = deflater.compress(encode(image(EncapsulatedDocument=bytes(length)))) + deflater.flush()
        assert len(encoded) < 3000
        request, posted = store(encoded, DeflatedExplicitVRLittleEndian)
        assert request.statuses == [status]
        assert len(posted) == (status == 0x0000)


def nested(levels: int, *, undefined: bool = False) -> Dataset:
    item = Dataset()
    item.CodeValue = "x"
    for level in range(levels):
        outer = image() if level == levels - 1 else Dataset()
        outer.ContentSequence = [item]
        outer["ContentSequence"].is_undefined_length = undefined
        item.is_undefined_length_sequence_item = undefined
        item = outer
    return item


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("transfer_syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_what_is_nested_so_deeply_that_orthanc_might_crash_is_not_forwarded(
    transfer_syntax: str, undefined: bool
) -> None:
    for levels, status in ((32, 0x0000), (33, 0xC000)):
        request, posted = store(encode(nested(levels, undefined=undefined), transfer_syntax), transfer_syntax)
        assert request.statuses == [status]
        assert len(posted) == (status == 0x0000)


def test_what_is_nested_too_deeply_is_found_in_deflated_data_sets_too() -> None:
    for levels, status in ((32, 0x0000), (33, 0xC000)):
        deflater = zlib.compressobj(wbits=-15)
        encoded = deflater.compress(encode(nested(levels))) + deflater.flush()
        request, _ = store(encoded, DeflatedExplicitVRLittleEndian)
        assert request.statuses == [status]


def test_what_is_nested_too_deeply_is_found_behind_and_within_pixel_data(tmp_path: Path) -> None:
    """Fragments are stepped over, whatever is in them; what comes behind them is not."""
    fragments = b"".join(b"\xfe\xff\x00\xe0\x10\0\0\0" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff" * 2 for _ in range(200))
    pixels = b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff" + fragments + b"\xfe\xff\xdd\xe0\0\0\0\0"
    signatures = b"".join(b"\xfa\xff\xfa\xffSQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" for _ in range(33))
    for behind, status in ((b"", 0x0000), (signatures, 0xC000)):
        encoded = encode(image()) + pixels + behind
        assert store(encoded, JPEGLosslessSV1)[0].statuses == [status]
        (tmp_path / "large").write_bytes(encoded)
        with (tmp_path / "large").open("rb") as file:  # as a large data set arrives
            assert nests_beyond(file, JPEGLosslessSV1, 32) == (status != 0x0000)
            assert file.tell() == 0


def test_identifiers_behind_a_sequence_of_undefined_length_are_found() -> None:
    language = image(LanguageCodeSequence=[Dataset(), Dataset()])
    language.LanguageCodeSequence[0].CodeValue = "de"
    language["LanguageCodeSequence"].is_undefined_length = True
    language.LanguageCodeSequence[0].is_undefined_length_sequence_item = True
    for transfer_syntax in (ImplicitVRLittleEndian, ExplicitVRLittleEndian):
        request, _ = store(encode(language, transfer_syntax), transfer_syntax)
        assert request.statuses == [0x0000]


@pytest.mark.parametrize("status", ["Success", "AlreadyStored", "FilteredOut"])
def test_what_orthanc_took_or_filtered_is_a_success(status: str) -> None:
    assert store(encode(image()), answer=StoredInstance(status, "x"))[0].statuses == [0x0000]


@pytest.mark.parametrize(
    "dataset", [image(SOPClassUID=MRImageStorage), image(SOPInstanceUID="1.2.3")], ids=["class", "instance"]
)
def test_ps34_table_b_2_1_other_identifiers_than_the_request_are_refused_with_a900(dataset: Dataset) -> None:
    request, posted = store(encode(dataset))
    assert request.statuses == [0xA900]
    assert not posted


@pytest.mark.parametrize("missing", ["SOPClassUID", "SOPInstanceUID"])
def test_ps34_table_b_2_1_missing_identifiers_are_refused_with_c000(missing: str) -> None:
    dataset = image()
    delattr(dataset, missing)
    request, posted = store(encode(dataset))
    assert request.statuses == [0xC000]
    assert not posted


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\0" * 4096,
        b"GET / HTTP/1.1\r\n\r\n",
        bytes(range(256)) * 8,
        b"\x08\x00\x16\x00UI\xff\xff1.2",
        b"\x08\x00\x06\x00SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff" * 9000,
    ],
    ids=["empty", "zeros", "http", "bytes", "too long a value", "endless nesting"],
)
@pytest.mark.parametrize(
    "transfer_syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian]
)
def test_what_is_not_a_data_set_is_refused_with_c000_and_not_forwarded(garbage: bytes, transfer_syntax: str) -> None:
    request, posted = store(garbage, transfer_syntax)
    assert request.statuses == [0xC000]
    assert request.final.fields["ErrorComment"]
    assert not posted


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (OrthancRefused(400, 15, "Bad file format"), 0xC000),
        (OrthancRefused(404, 21, "Inexistent tag"), 0xC000),
        (OrthancRefused(507, 19, "Full storage"), 0xA700),
        (OrthancRefused(500, 1, "Error encountered within the plugin engine"), 0xA700),
        (OrthancRefused(503, 36, "Database unavailable"), 0xA700),
        (OrthancUnreachable("POST /instances: NewConnectionError"), 0xA700),
        (StoredInstance("Failure", ""), 0xA700),
    ],
)
def test_ps34_table_b_2_1_orthancs_refusal_becomes_a_status_and_one_log_line(
    answer: StoredInstance | OrthancError, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        request, _ = store(encode(image()), answer=answer)
    assert request.statuses == [status]
    (record,) = caplog.records
    assert record.getMessage().startswith(f"store_refused status=0x{status:04X} calling_ae_title='WORKSTATION'")
    assert INSTANCE_UID not in record.getMessage()


@pytest.mark.parametrize(
    ("status", "noted"),
    [
        ("Success", [Origin("instance", "series", "WORKSTATION", "ISEN", "192.0.2.7")]),
        ("AlreadyStored", []),  # what is there came from somebody else
        ("FilteredOut", []),
    ],
)
def test_where_a_stored_instance_came_from_is_noted(status: str, noted: list[Origin]) -> None:
    message = C_STORE()
    message.AffectedSOPClassUID = CTImageStorage
    message.AffectedSOPInstanceUID = INSTANCE_UID
    origins: list[Origin] = []
    client = PostedInstances(StoredInstance(status, "instance", "series"))
    StoreService(client, origins.append).serve(RecordedRequest(message, CTImageStorage, encode(image())))
    assert origins == noted


class Kept:
    """A C-STORE of INSTANCE_UID with `Acknowledge` "Received" and a journal that nobody empties."""

    def __init__(self, folder: Path, maximum_size: int = 100_000) -> None:
        self.journal = Journal(folder, maximum_size)
        self.client = PostedInstances(STORED)
        self.service = StoreService(
            self.client, received=HandOver(self.journal, self.client, lambda _: None), acknowledges_received=True
        )

    def store(self, encoded: bytes) -> list[int]:
        message = C_STORE()
        message.AffectedSOPClassUID = CTImageStorage
        message.AffectedSOPInstanceUID = INSTANCE_UID
        request = RecordedRequest(message, CTImageStorage, encoded)
        self.service.serve(request)
        return request.statuses


def test_with_received_the_answer_comes_once_the_journal_has_the_instance(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    assert kept.store(encode(image())) == [0x0000]
    assert kept.client.posted == []
    (path,) = (tmp_path / "pending").iterdir()
    assert dcmread(path).PatientName == "Test^Store"


def test_with_received_an_instance_of_a_uid_that_waits_already_goes_to_orthanc_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Kept(tmp_path)
    assert kept.store(encode(image())) == [0x0000]
    monkeypatch.setattr("scp.services.store.TURN_PATIENCE", 0.05)
    assert kept.store(encode(image(PatientName="Later"))) == [0xA700]
    assert kept.client.posted == []
    (path,) = (tmp_path / "pending").iterdir()
    path.unlink()
    kept.service = StoreService(kept.client, received=kept.service.received)  # as after a change to "Stored"
    assert kept.store(encode(image(PatientName="Later"))) == [0x0000]
    assert len(kept.client.posted) == 1


def test_with_received_a_full_journal_is_a700_and_what_never_fits_goes_to_orthanc_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scp.services.store.ROOM_PATIENCE", 0.05)
    kept = Kept(tmp_path, maximum_size=1000)
    kept.journal.accept("1.2.3", [bytes(900)], 900, {}, 0)
    assert kept.store(encode(image())) == [0xA700]
    assert kept.store(encode(image(ImageComments="x" * 1000))) == [0x0000]
    assert len(kept.client.posted) == 1


def test_with_received_a_disk_that_fails_is_a700(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept(tmp_path)

    def broken(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.fsync", broken)
    assert kept.store(encode(image())) == [0xA700]
    assert kept.client.posted == []
