"""The managed worklist as a source: its index leaves out nothing that matches, and shows every change at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from scp.matching import Candidate, MatchingOptions, compile_identifier
from scp.services.worklist import START
from scp.statuses import Refusal
from scp.worklist_sources import managed
from scp.worklist_sources.managed import ManagedWorklist
from scp.worklist_sources.protocol import SourceUnavailable
from scp.worklist_sources.selection import EVERYTHING, Selection
from scp.worklist_sources.table_k6_1 import SUPPORTED, tag_of
from scp.worklists.entry import make_entry
from scp.worklists.store import WorklistStore
from tests.fakes.data_sets import data_set, received
from tests.fakes.worklists import worklist_entry

OPTIONS = MatchingOptions(unknown_value_matches=False, combined=(START,), default_encoding="utf8", supported=SUPPORTED)
PATIENT_ID = tag_of("PatientID")
NAMES = (
    "Muster^Anna",
    "MÜLLER^Jürgen",
    "Straße^É",
    "Yamada^Tarou=山田^太郎",
    "Kim^민준",
    "O'Neil^A B",
    "ÇELİK^I",
    "Ångström",
)


def put(store: WorklistStore, number: int = 1, **overrides: Any) -> str:
    dataset = worklist_entry(number, **overrides)
    with store.transaction() as changes:
        return changes.put(make_entry(dataset, "NOBODY")[0])


def keys_of(keys: dict[str, Any] | Dataset) -> Dataset:
    keys = keys if isinstance(keys, Dataset) else data_set(keys)
    keys.SpecificCharacterSet = "ISO_IR 192"
    return received(keys)


def ids(found: Any) -> list[str]:
    return [candidate.attributes[PATIENT_ID].values[0] for candidate in found]


@pytest.fixture
def store(tmp_path: Path) -> WorklistStore:
    return WorklistStore(tmp_path)


@pytest.fixture
def source(tmp_path: Path, store: WorklistStore) -> ManagedWorklist:
    return ManagedWorklist(tmp_path)


def test_a_change_counts_from_the_next_query_on(store: WorklistStore, source: ManagedWorklist) -> None:
    made = put(store, PatientID="BEFORE")
    assert ids(source.entries()) == ["BEFORE"]
    entry, _ = make_entry(worklist_entry(1, PatientID="AFTER"), "NOBODY")
    with store.transaction() as changes:
        changes.put(entry, made)
    assert ids(source.entries()) == ["AFTER"]
    with store.transaction() as changes:
        changes.remove(made)
    assert ids(source.entries()) == []


def test_an_entry_removed_while_the_answers_are_sent_is_left_out(
    store: WorklistStore, source: ManagedWorklist, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(managed, "CHUNK", 1)
    put(store, PatientID="FIRST")
    second = put(store, PatientID="SECOND")
    put(store, PatientID="THIRD")
    answers = source.entries()
    assert ids([next(answers)]) == ["FIRST"]
    with store.transaction() as changes:
        changes.remove(second)
    assert ids(answers) == ["THIRD"]


def test_memory_is_bounded_by_what_is_kept(
    store: WorklistStore, source: ManagedWorklist, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(managed, "KEPT", 3)
    for number in range(10):
        put(store, number)
    for _ in range(2):
        assert len(list(source.entries())) == 10
    assert len(source._decoded) == 3


@pytest.mark.parametrize("status", managed.HIDDEN)
def test_steps_that_are_not_to_be_done_any_more_are_shown_only_to_who_asks(
    store: WorklistStore, source: ManagedWorklist, status: str
) -> None:
    put(store, PatientID="DONE", ScheduledProcedureStepStatus=status)
    put(store, PatientID="OPEN")
    assert ids(source.entries()) == ["OPEN"]
    step = {"ScheduledProcedureStepStatus": status}
    asked = Selection.of(Candidate.of(keys_of({"ScheduledProcedureStepSequence": step})))
    assert ids(source.entries(asked)) == ["DONE", "OPEN"]


def test_no_answer_is_given_while_the_list_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailable):
        ManagedWorklist(tmp_path / "missing").entries()


def test_a_damaged_entry_is_left_out_and_logged_without_its_contents(
    store: WorklistStore, source: ManagedWorklist, caplog: pytest.LogCaptureFixture
) -> None:
    put(store, PatientID="WHOLE")
    made = put(store, PatientID="DAMAGED")
    with store.transaction() as changes:
        changes.connection.execute(
            "UPDATE entry SET data_set = substr(data_set, 1, 300), revision = 2 WHERE id = ?", (made,)
        )
    assert ids(source.entries()) == ["WHOLE"]
    assert "worklist_entry_damaged" in caplog.text
    assert "DAMAGED" not in caplog.text


PATTERNS = ["M*", "*^j?rgen", "*straße*", "STRASSE*", "山田*", "=山田^太郎", "민*", "*ç*", "å*", "*"]
DATES = st.sampled_from(["20240229", "20240229-20240302", "20240301-", "-20240301", "*", "2024.03.01", ""])
TIMES = st.sampled_from(["080000-120000", "-1000", "0900", ""])


STEPS = st.fixed_dictionaries(
    {
        "ScheduledProcedureStepStartDate": DATES,
        "ScheduledProcedureStepStartTime": TIMES,
        "ScheduledStationAETitle": st.sampled_from(["CT1", "CT2", "CT", "C*", "", "ct1"]),
        "Modality": st.sampled_from(["CT", "MR", "*", "", "C?"]),
    }
)
KEYS = st.fixed_dictionaries(
    {
        "PatientName": st.sampled_from([*NAMES, *PATTERNS]),
        "PatientID": st.sampled_from(["P1", "P*", "", "p1"]),
        "AccessionNumber": st.sampled_from(["A1", "A*", "", "A9"]),
        "ScheduledProcedureStepSequence": STEPS,
    },
    optional={"TimezoneOffsetFromUTC": st.sampled_from(["+1400", "-1200"])},
)
ENTRIES = st.fixed_dictionaries(
    {
        "PatientName": st.sampled_from(NAMES),
        "ScheduledProcedureStepStartDate": st.sampled_from(["20240229", "20240301", "20240302"]),
        "ScheduledStationAETitle": st.sampled_from(["CT1", ["CT1", "CT2"], "CT", "MR1"]),
        "PatientID": st.sampled_from(["P1", "P2"]),
    },
    optional={"TimezoneOffsetFromUTC": st.just("+0000")},
)


@given(entries=st.lists(ENTRIES, min_size=1, max_size=6), keys=KEYS)
@settings(max_examples=150, deadline=None)
def test_the_index_leaves_out_nothing_that_matches(
    tmp_path_factory: pytest.TempPathFactory, entries: list[dict[str, Any]], keys: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("index")
    store = WorklistStore(folder)
    for number, overrides in enumerate(entries):
        put(store, number, **overrides)
    identifier = keys_of(keys)
    try:
        matcher = compile_identifier(identifier, OPTIONS)
    except Refusal:
        return
    source = ManagedWorklist(folder)
    everything = [one for one in source.entries(EVERYTHING) if matcher.matches(one)]
    selected = [one for one in source.entries(Selection.of(Candidate.of(identifier, "utf8"))) if matcher.matches(one)]
    assert selected == everything
