"""Reading ahead for a retrieve: who reads what in which thread, and what is left behind when it ends early."""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless

from backend.atomic_file import write_digest
from backend.stack.processes import wait_until
from config.settings import StorageStructure
from scp import attachments
from scp.attachments import AttachmentFiles
from scp.handed_over import MEMORY_LIMIT
from scp.orthanc_client import OrthancUnreachable
from scp.retrieve.read_ahead import WINDOW, Announcements, EncodedInstance, InstanceReader, read_ahead
from scp.retrieve.selection import Instance
from scp.retrieve.transfer_syntax import TransferSyntaxes
from scp.upper_layer.data_set_buffer import MemoryBudget
from tests.fakes.archive import instance
from tests.fakes.orthanc_index import FakeOrthanc
from tests.fakes.transfer_thread import Transfer

COUNT = 3 * WINDOW
PATIENCE = 10.0  # seconds


def described(number: int, *, transfer_syntax: str = ExplicitVRLittleEndian, size: int = 0) -> Instance:
    uuid = f"11111111-2222-3333-4444-{number:012x}"
    return Instance(f"I{number}", "1.2.840.10008.5.1.4.1.1.2", f"1.{number}", transfer_syntax, ("", 0), uuid, size)


INSTANCES = [described(number) for number in range(COUNT)]


class FakeReader:
    """The transfer process hands over everything, unless a test says otherwise."""

    def __init__(self) -> None:
        self.hands_over: Callable[[Instance], bool] = lambda _instance: True
        self.before_take: Callable[[Instance], object] = lambda _instance: None
        self.before_read: Callable[[Instance], object] = lambda _instance: None
        self.threads: set[int] = set()  # that took something
        self.begun: list[Instance] = []
        self.contents: list[io.BytesIO] = []

    def is_coming(self, one: Instance) -> bool:
        self.begun.append(one)
        return self.hands_over(one)

    def take(self, one: Instance) -> EncodedInstance | Instance:
        self.threads.add(threading.get_ident())
        return one if self.before_take(one) else self._encoded(one)

    def read(self, one: Instance) -> EncodedInstance:
        self.before_read(one)
        return self._encoded(one)

    def announce(self, _instances: Sequence[Instance]) -> None:
        pass

    def _encoded(self, one: Instance) -> EncodedInstance:
        content = io.BytesIO(b"data set")
        self.contents.append(content)
        return EncodedInstance("1.2", one.sop_instance_uid, one.transfer_syntax, content)


@pytest.fixture
def reader() -> FakeReader:
    return FakeReader()


def all_of(reader: FakeReader) -> list[str]:
    """What has been read in the order in which it came; `-` for what could not be read."""
    read = []
    with closing(read_ahead(reader, INSTANCES)) as ahead:
        for _, future in ahead:
            if future.exception(PATIENCE):
                read.append("-")
                continue
            with closing(future.result()) as encoded:
                read.append(encoded.sop_instance_uid)
    return read


IN_ORDER = [one.sop_instance_uid for one in INSTANCES]


def test_what_the_transfer_process_hands_over_is_taken_by_one_thread_in_order(reader: FakeReader) -> None:
    assert all_of(reader) == IN_ORDER
    assert len(reader.threads) == 1
    assert reader.begun == INSTANCES


@pytest.mark.parametrize("is_coming", [True, False])
def test_what_has_to_be_asked_for_is_read_in_parallel(reader: FakeReader, *, is_coming: bool) -> None:
    """A conversion may take Orthanc a second; whether it is necessary may turn out late."""
    everybody = threading.Barrier(WINDOW)
    reader.hands_over = lambda _instance: is_coming
    reader.before_take = lambda _instance: True
    reader.before_read = lambda _instance: everybody.wait(PATIENCE)
    assert all_of(reader) == IN_ORDER


def test_what_has_to_be_asked_for_does_not_delay_what_is_handed_over(reader: FakeReader) -> None:
    others = threading.Event()
    reader.hands_over = lambda one: one is not INSTANCES[0]
    reader.before_take = lambda one: one is INSTANCES[WINDOW - 1] and others.set()
    reader.before_read = lambda _instance: others.wait(PATIENCE)
    assert all_of(reader) == IN_ORDER
    assert others.is_set()


def test_one_failure_concerns_one_instance(reader: FakeReader) -> None:
    def fail(one: Instance) -> object:
        if one in (INSTANCES[2], INSTANCES[3]):
            raise OSError
        return one is INSTANCES[5]

    reader.before_take = fail
    reader.before_read = lambda _instance: 1 / 0
    assert all_of(reader) == [uid if number not in (2, 3, 5) else "-" for number, uid in enumerate(IN_ORDER)]


def test_no_more_than_a_window_is_begun_or_held(reader: FakeReader) -> None:
    with closing(read_ahead(reader, INSTANCES)) as ahead:
        for taken, (_, future) in enumerate(ahead, start=1):
            with closing(future.result(PATIENCE)):
                assert len(reader.begun) <= taken + WINDOW - 1
                assert sum(not content.closed for content in reader.contents) <= WINDOW


def test_all_requests_together_hold_no_more_than_the_budget(
    reader: FakeReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside one that each of them may always have; what is sent from the disk counts for what is in memory."""
    budget = MemoryBudget(5 * MEMORY_LIMIT)
    monkeypatch.setattr("scp.retrieve.read_ahead._AHEAD", budget)
    large = [described(number, size=MEMORY_LIMIT * (1 + number % 2)) for number in range(COUNT)]
    with closing(read_ahead(reader, large)) as first, closing(read_ahead(reader, large)) as second:
        next(first)[1].result(PATIENCE).close()
        assert reader.begun == large[:6]
        read = [future.result(PATIENCE).sop_instance_uid for _, future in second]
        assert read == IN_ORDER, "one at a time, if need be"
        next(first)
        assert len(reader.begun) == 6 + COUNT
        next(first)
        assert len(reader.begun) == 7 + COUNT, "what has been sent makes room"
    assert budget.take(5 * MEMORY_LIMIT), "all of it was given back"


@pytest.mark.parametrize("hands_over", [True, False])
def test_leaving_early_closes_what_was_read_and_begins_nothing_more(reader: FakeReader, *, hands_over: bool) -> None:
    first, leave = threading.Event(), threading.Event()

    def begin(one: Instance) -> None:
        if one is INSTANCES[3]:
            first.set()
            leave.wait(PATIENCE)

    reader.hands_over = lambda _instance: hands_over
    reader.before_take = reader.before_read = begin
    ahead = read_ahead(reader, INSTANCES)
    _, future = next(ahead)
    future.result(PATIENCE).close()
    assert first.wait(PATIENCE)
    threading.Timer(0.1, leave.set).start()
    ahead.close()
    assert all(content.closed for content in reader.contents)
    assert len(reader.contents) <= (4 if hands_over else WINDOW)


@pytest.mark.parametrize("taken", [0, COUNT - 2])
def test_leaving_without_what_one_was_given_closes_it(reader: FakeReader, taken: int) -> None:
    """A request is cancelled between two instances."""
    with closing(read_ahead(reader, INSTANCES)) as ahead:
        for _ in range(taken):
            next(ahead)[1].result(PATIENCE).close()
        next(ahead)[1].result(PATIENCE)
    assert len(reader.contents) > taken
    assert all(content.closed for content in reader.contents)


def test_without_a_thread_nothing_is_left_behind(reader: FakeReader, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(_self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    def begin(one: Instance) -> bool:
        if one.orthanc_id == "I1":  # the other pool has no thread yet
            monkeypatch.setattr(threading.Thread, "start", no_thread)
        return one.orthanc_id == "I0"

    budget = MemoryBudget(100)
    monkeypatch.setattr("scp.retrieve.read_ahead._AHEAD", budget)
    reader.hands_over = begin
    with (
        closing(read_ahead(reader, [described(number, size=100) for number in range(3)])) as ahead,
        pytest.raises(RuntimeError, match="new thread"),
    ):
        next(ahead)
    assert len(reader.begun) == 2
    assert all(content.closed for content in reader.contents)
    assert budget.take(100), "all of it was given back"


# --- with files from the real socket


@pytest.fixture
def transfer(tmp_path: Path) -> Iterator[Transfer]:
    transfer = Transfer(tmp_path / "transfer.sock")
    yield transfer
    transfer.close()


class Archive:
    """Some images: their files in a folder, which the transfer process hands over, and in an Orthanc."""

    def __init__(self, folder: Path, transfer: Transfer, *, stored_as: str = ExplicitVRLittleEndian) -> None:
        images = [instance(SOPInstanceUID=f"1.{number}") for number in range(COUNT)]
        self.orthanc = FakeOrthanc([_stored_as(image, stored_as) for image in images])
        self.instances = []
        self._folder = folder
        for number in range(COUNT):
            content = self.orthanc.instance_file(f"I{number}").read()
            one = described(number, transfer_syntax=stored_as, size=len(content))
            self.instances.append(one)
            path = folder / f"{one.attachment}.dcm"
            path.write_bytes(content)
            write_digest(path, sha256(content).digest())
        self.orthanc.requests.clear()
        transfer.answer = self.answer
        self.files = AttachmentFiles(folder, StorageStructure.FLAT)

    def answer(self, request: dict[str, Any]) -> tuple[dict[str, Any], list[int]] | None:
        reply = {"Result": "ok", "VerifiedAt": time.monotonic()}
        return reply, [os.open(self._folder / request["Name"], os.O_RDONLY)]

    @contextmanager
    def ahead(
        self, accepted: str = ExplicitVRLittleEndian, instances: Sequence[Instance] = ()
    ) -> Iterator[Iterator[tuple[Instance, Future[EncodedInstance]]]]:
        syntaxes = TransferSyntaxes(ExplicitVRLittleEndian, may_transcode=True)
        with Announcements(self.files) as announce:
            reader = InstanceReader(self.orthanc, self.files, announce, syntaxes, lambda _class: (accepted,))
            with closing(read_ahead(reader, instances or self.instances)) as ahead:
                yield ahead

    def sent(self, accepted: str = ExplicitVRLittleEndian, instances: Sequence[Instance] = ()) -> list[str]:
        sent = []
        with self.ahead(accepted, instances) as ahead:
            for _, future in ahead:
                with closing(future.result(PATIENCE)) as encoded:
                    assert encoded.transfer_syntax == accepted
                    assert encoded.data_set.read()
                    sent.append(encoded.sop_instance_uid)
        return sent

    def asked_of_orthanc(self) -> list[str]:
        return sorted(
            (request[1] for request in self.orthanc.requests if request[0] == "file"), key=lambda one: one[1:]
        )

    def descriptors(self) -> list[str]:
        """Files of the images that this process has open, with whatever waits in its sockets left out."""
        found = []
        with os.scandir("/proc/self/fd") as entries:
            for entry in entries:
                target = os.path.realpath(entry)
                if target.endswith(".dcm"):
                    found.append(target)
        return found


def _stored_as(image: Dataset, transfer_syntax: str) -> Dataset:
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = transfer_syntax
    return image


@pytest.fixture
def archive(tmp_path: Path, transfer: Transfer) -> Archive:
    return Archive(tmp_path, transfer)


def test_everything_comes_from_the_transfer_process(archive: Archive) -> None:
    assert archive.sent() == IN_ORDER
    assert archive.asked_of_orthanc() == []
    assert archive.files._count == 0, "nothing was asked for by itself"
    wait_until(lambda: not archive.descriptors(), PATIENCE, "nothing stays open")


def test_who_has_ended_leaves_its_place_to_others(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attachments, "_MAXIMUM_DELIVERIES", 1)
    archive.files = AttachmentFiles(tmp_path, StorageStructure.FLAT)
    for _ in range(2):
        assert archive.sent() == IN_ORDER
    assert archive.files._count == 0, "nothing was asked for by itself"


@pytest.mark.parametrize("fault", ["error", "closed", "another size", "damaged", "missing"])
def test_what_is_not_handed_over_comes_from_orthanc_and_the_others_do_not(
    archive: Archive, transfer: Transfer, tmp_path: Path, fault: str
) -> None:
    faulty = archive.instances[5].attachment + ".dcm"
    path = tmp_path / faulty

    def answer(request: dict[str, Any]) -> tuple[dict[str, Any], list[int]] | None:
        if request["Name"] != faulty:
            return archive.answer(request)
        match fault:
            case "error":
                return {"Result": "error", "Error": "unavailable", "Message": "S3 is away"}, []
            case "closed":
                return None
            case "missing":
                return {"Result": "ok", "VerifiedAt": time.monotonic()}, []
            case "another size":
                path.write_bytes(b"compressed")
            case _:
                path.write_bytes(b"x" * archive.instances[5].size)
        return {"Result": "ok", "VerifiedAt": 0}, [os.open(path, os.O_RDONLY)]

    transfer.answer = answer
    assert archive.sent() == IN_ORDER
    assert archive.asked_of_orthanc() == ["I5"]
    assert archive.files._count == len(archive.files._idle)
    wait_until(lambda: not archive.descriptors(), PATIENCE, "nothing stays open")


def test_what_is_not_delivered_is_asked_for_by_itself(archive: Archive, transfer: Transfer) -> None:
    """The cache may have no room for what is only announced, or somebody else is fetching it."""

    def answer(request: dict[str, Any]) -> tuple[dict[str, Any], list[int]] | None:
        return archive.answer(request) if request["Operation"] == "fetch" else ({}, [])

    transfer.answer = answer
    assert archive.sent() == IN_ORDER
    assert archive.asked_of_orthanc() == []
    assert archive.files._count == len(archive.files._idle) <= WINDOW


def test_without_a_transfer_process_everything_comes_from_orthanc(archive: Archive, transfer: Transfer) -> None:
    transfer.answer = lambda _: None
    assert archive.sent() == IN_ORDER
    assert len(archive.asked_of_orthanc()) == COUNT


def test_leaving_early_leaves_no_descriptor_and_no_answer_behind(
    archive: Archive, transfer: Transfer, tmp_path: Path
) -> None:
    slow, leave = threading.Event(), threading.Event()

    def answer(request: dict[str, Any]) -> tuple[dict[str, Any], list[int]] | None:
        if request["Name"].startswith(archive.instances[2].attachment) and not leave.is_set():
            slow.set()
            leave.wait(PATIENCE)
        return archive.answer(request)

    transfer.answer = answer
    with archive.ahead() as ahead:
        _, future = next(ahead)
        future.result(PATIENCE).close()
        assert slow.wait(PATIENCE)
        threading.Timer(0.1, leave.set).start()
    assert len(archive.asked_of_orthanc()) == 0
    wait_until(lambda: not archive.descriptors(), PATIENCE, "nothing stays open")
    transfer.answer = archive.answer
    assert archive.sent() == IN_ORDER, "each is what was asked for"
    assert archive.asked_of_orthanc() == []


def test_what_has_to_be_converted_is_not_taken(tmp_path: Path, transfer: Transfer) -> None:
    """It may be fetched all the same, which Orthanc then needs not wait for."""
    archive = Archive(tmp_path, transfer, stored_as=JPEG2000Lossless)
    assert archive.sent(ImplicitVRLittleEndian) == IN_ORDER
    assert all(request["Operation"] == "deliver" for request in transfer.requests)
    wait_until(lambda: not archive.descriptors(), PATIENCE, "nothing stays open")


def test_what_has_to_be_converted_is_forgotten(tmp_path: Path, transfer: Transfer) -> None:
    archive = Archive(tmp_path, transfer, stored_as=JPEG2000Lossless)
    syntaxes = TransferSyntaxes(ExplicitVRLittleEndian, may_transcode=True)
    with Announcements(archive.files) as announce:
        reader = InstanceReader(
            archive.orthanc, archive.files, announce, syntaxes, lambda _class: (ImplicitVRLittleEndian,)
        )
        reader.announce(archive.instances)
        assert not reader.is_coming(archive.instances[0])
        assert [announce.is_coming(one) for one in archive.instances[:2]] == [False, True]


def test_what_the_index_knows_too_little_of_is_converted_by_orthanc_once_its_file_is_known(
    tmp_path: Path, transfer: Transfer
) -> None:
    archive = Archive(tmp_path, transfer, stored_as=JPEG2000Lossless)
    unknown = [Instance(one.orthanc_id, "", "", "", one.order, one.attachment, one.size) for one in archive.instances]
    assert archive.sent(ImplicitVRLittleEndian, unknown) == IN_ORDER
    assert {request[0] for request in archive.orthanc.requests} <= {"file", "modify"}
    assert len([request for request in archive.orthanc.requests if request[0] == "modify"]) == COUNT


def test_a_file_that_nobody_can_read_fails_alone(archive: Archive, transfer: Transfer) -> None:
    transfer.answer = lambda request: (
        None if archive.instances[4].attachment in request["Name"] else archive.answer(request)
    )
    archive.orthanc.failures["I4"] = OrthancUnreachable("GET /instances/I4/file: ReadTimeoutError")
    with archive.ahead() as ahead:
        failed = []
        for one, future in ahead:
            if future.exception(PATIENCE):
                failed.append(one.orthanc_id)
            else:
                future.result().close()
    assert failed == ["I4"]
