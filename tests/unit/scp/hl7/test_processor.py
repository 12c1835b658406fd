"""What becomes of HL7 messages in the managed worklist, and what their senders are told."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from config.settings import Hl7Settings
from scp.hl7.processor import Processor
from scp.hl7.rejected import RejectedMessages
from scp.worklist_sources.managed import ManagedWorklist
from scp.worklist_sources.selection import Selection
from scp.worklists.entry import read_data_set
from scp.worklists.store import WorklistStore
from tests.fakes.hl7_orders import code_of, omi, orm


class Ris:
    """A RIS and the worklist it fills."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder
        self.store = WorklistStore(folder)
        hl7 = Hl7Settings(**options)
        self.processor = Processor(
            self.store, RejectedMessages(folder / "rejected", hl7.maximum_rejected_messages), hl7, "NOBODY"
        )

    def send(self, message: str | bytes) -> str:
        answer = self.processor.process(message.encode() if isinstance(message, str) else message, "192.0.2.5")
        return (answer or b"").decode()

    def entries(self) -> list[Dataset]:
        return [read_data_set(stored.data_set) for stored in self.store.page(0, 100)]

    def open(self) -> int:
        return len(list(ManagedWorklist(self.folder).entries(Selection())))

    def kept(self) -> list[Path]:
        return sorted((self.folder / "rejected").iterdir())


@pytest.fixture
def ris(tmp_path: Path) -> Ris:
    return Ris(tmp_path)


def test_a_new_order_becomes_an_entry_and_is_acknowledged(ris: Ris) -> None:
    answer = ris.send(orm(control_id="C1"))
    header, msa = answer.rstrip("\r").split("\r")
    assert msa == "MSA|AA|C1"
    assert header.startswith(r"MSH|^~\&|ISEN|PACS|RIS|WARD|")
    assert "|ACK^O01^ACK|" in header
    assert header.endswith("|UNICODE UTF-8")
    (entry,) = ris.entries()
    assert str(entry.PatientName) == "Muster^Jürgen^M^Dr^Jr PhD"
    assert entry.StudyInstanceUID == "1.2.3.4"
    (step,) = entry.ScheduledProcedureStepSequence
    assert step.ScheduledProtocolCodeSequence[0].CodeValue == "PROT"
    assert ris.open() == 1


def test_the_same_message_again_gets_the_same_answer_and_changes_nothing(ris: Ris) -> None:
    message = orm(control_id="C1")
    first = ris.send(message)
    (made,) = ris.store.page(0, 10)
    with ris.store.transaction() as changes:
        changes.remove(made.id)
    assert ris.send(message) == first
    assert ris.entries() == []


def test_a_control_id_used_for_another_message_is_another_message(ris: Ris) -> None:
    ris.send(orm("PL1", control_id="C1"))
    ris.send(orm("PL2", control_id="C1", step="SPS2"))
    assert len(ris.entries()) == 2


def test_an_order_sent_again_or_changed_stays_one_entry(ris: Ris) -> None:
    ris.send(orm())
    (before,) = ris.store.page(0, 10)
    ris.send(orm(control="XO", start="202403011500", station="CT2", birth='""', sex=""))
    (after,) = ris.store.page(0, 10)
    (entry,) = ris.entries()
    assert after.id == before.id
    assert entry.ScheduledProcedureStepSequence[0].ScheduledProcedureStepStartDate == "20240301"
    assert entry.ScheduledProcedureStepSequence[0].ScheduledStationAETitle == "CT2"
    assert not entry.PatientBirthDate  # deleted by ""
    assert entry.PatientSex == "M"  # not spoken of


def test_a_change_without_the_steps_id_means_the_orders_only_step(ris: Ris) -> None:
    ris.send(orm())
    assert code_of(ris.send(orm(control="XO", step="", modality="MR"))) == "AA"
    (entry,) = ris.entries()
    assert entry.ScheduledProcedureStepSequence[0].Modality == "MR"


@pytest.mark.parametrize(
    ("control", "status", "expected"),
    [("CA", "CA", "CANCELED"), ("DC", "CA", "DISCONTINUED"), ("XO", "CM", "COMPLETED")],
)
def test_what_is_not_to_be_done_any_more_is_hidden(ris: Ris, control: str, status: str, expected: str) -> None:
    ris.send(orm())
    assert code_of(ris.send(orm(control=control, status=status))) == "AA"
    assert ris.entries()[0].ScheduledProcedureStepSequence[0].ScheduledProcedureStepStatus == expected
    assert ris.open() == 0
    assert code_of(ris.send(orm(control="XO", status="SC", station="CT2"))) == "AA"  # what has been done stays done
    assert ris.entries()[0].ScheduledProcedureStepSequence[0].ScheduledStationAETitle == "CT2"
    assert ris.open() == (expected != "COMPLETED")


def test_several_steps_of_an_order_are_several_entries_of_one_study(ris: Ris) -> None:
    assert code_of(ris.send(omi(study=""))) == "AA"
    first, second = ris.entries()
    assert first.StudyInstanceUID == second.StudyInstanceUID
    assert first.StudyInstanceUID.startswith("2.25.")
    assert {entry.ScheduledProcedureStepSequence[0].ScheduledProcedureStepID for entry in (first, second)} == {
        "S1",
        "S2",
    }
    assert code_of(ris.send(omi(control="CA", steps=("S1",)))) == "AA"
    assert ris.open() == 1
    assert code_of(ris.send(omi(control="CA", steps=("",)))) == "AA"
    assert ris.open() == 0


@pytest.mark.parametrize(
    ("message", "condition"),
    [
        (orm(control="CA", status="CA"), "204"),
        (orm(name=""), "101"),
        (orm(patient_id=""), "101"),
        (orm(modality=""), "101"),
        (orm(start=""), "101"),
        (orm(accession="LONGER THAN SIXTEEN"), "102"),
        (orm(study="1.2.SECRET"), "102"),
        (orm(birth="19701399"), "102"),
        (omi(steps=("S1", "S1")), "101"),
    ],
)
def test_what_cannot_be_used_changes_nothing_and_is_kept(
    ris: Ris, message: str, condition: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer = ris.send(message)
    assert code_of(answer) == "AE"
    err = next(line for line in answer.split("\r") if line.startswith("ERR"))
    assert f"{condition}&" in err or f"{condition}^" in err
    assert ris.entries() == []
    (kept,) = ris.kept()
    assert kept.read_bytes() == message.encode()
    assert kept.stat().st_mode & 0o777 == 0o600
    for secret in ("Muster", "Yamada", "SECRET", "LONGER", "19701399"):
        assert secret not in caplog.text
        assert secret not in answer


def test_one_bad_step_of_a_message_spoils_all_of_it(ris: Ris) -> None:
    message = omi(steps=("S1", "S2")).replace("S2|MR", "S2|lower")
    assert code_of(ris.send(message)) == "AE"
    assert ris.entries() == []


def test_err_is_in_the_form_of_the_messages_version(ris: Ris) -> None:
    old = ris.send(orm(control="ZZ"))
    assert "\rERR|ORC^1^1^103&Table value not found&HL70357\r" in old
    new = ris.send(orm(control="ZZ", version="2.5.1"))
    assert "\rERR||ORC^1^1|103^Table value not found^HL70357|E\r" in new


@pytest.mark.parametrize(
    ("accept", "application", "good", "bad"),
    [
        ("", "", "AA", "AE"),
        ("AL", "NE", "CA", "CE"),
        ("NE", "AL", "AA", "AE"),
        ("AL", "AL", "AA", "AE"),
        ("NE", "NE", "", ""),
        ("ER", "NE", "", "CE"),
        ("NE", "ER", "", "AE"),
        ("SU", "", "CA", ""),
    ],
)
def test_enhanced_mode_answers_as_asked(ris: Ris, accept: str, application: str, good: str, bad: str) -> None:
    for control, expected in (("NW", good), ("ZZ", bad)):
        answer = ris.send(orm(control=control, accept=accept, application=application))
        assert (code_of(answer) if answer else "") == expected


def test_a_disk_that_takes_nothing_is_an_error_and_not_an_acknowledgement(
    ris: Ris, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        in_transaction = False

        def execute(self, *_: Any) -> None:
            raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(sqlite3.OperationalError, "sqlite_errorname", "SQLITE_FULL", raising=False)
    monkeypatch.setattr(ris.store, "_connection", Full())
    answer = ris.send(orm())
    assert code_of(answer) == "AE"
    assert "207" in answer


def test_the_oldest_rejected_messages_make_room(tmp_path: Path) -> None:
    ris = Ris(tmp_path, maximum_rejected_messages=3)
    for _ in range(5):
        ris.send("garbage")
    assert len(ris.kept()) == 3
    again = Ris(tmp_path, maximum_rejected_messages=3)
    again.send("more garbage")
    assert len(ris.kept()) == 3
    assert b"more garbage" in {path.read_bytes() for path in ris.kept()}


def test_messages_answered_long_ago_are_forgotten(ris: Ris, monkeypatch: pytest.MonkeyPatch) -> None:
    ris.send(orm())
    ris.processor.forget()
    assert ris.store._connection.execute("SELECT count(*) FROM message").fetchone() == (1,)
    monkeypatch.setattr("scp.hl7.processor.REMEMBERED", -1)
    ris.processor.forget()
    assert ris.store._connection.execute("SELECT count(*) FROM message").fetchone() == (0,)


SHARED: list[Ris] = []


def shared(tmp_path_factory: pytest.TempPathFactory) -> Ris:
    """One for all examples: making the tables takes longer than a message."""
    if not SHARED:
        SHARED.append(Ris(tmp_path_factory.mktemp("fuzz")))
    return SHARED[0]


MESSAGES = [orm(control_id="FUZZ").encode(), omi().encode()]


@given(
    message=st.sampled_from(MESSAGES),
    cuts=st.lists(st.tuples(st.integers(0, 900), st.integers(0, 30), st.binary(max_size=6)), max_size=6),
)
@settings(max_examples=300, deadline=None)
def test_damaged_messages_are_answered_and_never_half_used(
    tmp_path_factory: pytest.TempPathFactory, message: bytes, cuts: list[tuple[int, int, bytes]]
) -> None:
    logging.getLogger("hl7").setLevel(logging.CRITICAL)
    ris = shared(tmp_path_factory)
    for start, length, replacement in cuts:
        message = message[:start] + replacement + message[start + length :]
    before = {stored.id: stored.data_set for stored in ris.store.page(0, 1000)}
    answer = ris.processor.process(message, "192.0.2.5")
    after = {stored.id: stored.data_set for stored in ris.store.page(0, 1000)}
    if answer is not None and b"MSA|AA" not in answer and message.startswith(b"MSH|^~"):
        assert before == after
    assert ris.open() <= len(after)  # whatever was stored can be answered


@given(st.binary(max_size=400))
@settings(max_examples=200, deadline=None)
def test_garbage_is_answered_with_ar(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    ris = shared(tmp_path_factory)
    answer = ris.processor.process(content, "192.0.2.5")
    assert answer is not None
    assert b"MSA|AR" in answer
