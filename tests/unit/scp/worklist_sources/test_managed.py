"""The managed worklist as a source: its index leaves out nothing that matches, and shows every change at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
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
    for key, expected in ((status, ["DONE", "OPEN"]), ([status, "READY"], ["DONE", "OPEN"]), ("*", ["OPEN"])):
        step = {"ScheduledProcedureStepStatus": key}
        asked = Selection.of(Candidate.of(keys_of({"ScheduledProcedureStepSequence": step})))
        assert ids(source.entries(asked)) == expected


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
DATES = ["20240229", "20240229-20240302", "20240301-", "-20240301", "*", "2024.03.01", "20240228-20240228"]
TIMES = ["000000-235959", "080000-120000", "-1000", "1200"]


KEYS = {
    "PatientName": [*NAMES, *PATTERNS],
    "PatientID": ["P1", "P*", "p1"],
    "AccessionNumber": ["A1", "A*", "A9"],
    "ScheduledStationAETitle": ["CT1", "CT2", "CT", "C*", "ct1"],
    "Modality": ["CT", "MR", "*", "C?"],
    "ScheduledProcedureStepStartDate": DATES,
    "ScheduledProcedureStepStartTime": TIMES,
    "TimezoneOffsetFromUTC": ["+1400", "-1200"],
}
OF_THE_STEP = tuple(KEYS)[3:7]
ENTRIES = st.fixed_dictionaries(
    {
        "PatientName": st.sampled_from(NAMES),
        "PatientID": st.sampled_from(["P1", "P2"]),
        "AccessionNumber": st.sampled_from(["A1", "A2", ""]),
        "ScheduledStationAETitle": st.sampled_from(["CT1", ["CT1", "CT2"], "CT", "MR1"]),
        "Modality": st.sampled_from(["CT", "MR"]),
        "ScheduledProcedureStepStartDate": st.sampled_from(["20240229", "20240301", "20240302"]),
        "ScheduledProcedureStepStartTime": st.sampled_from(["0030", "1200", "2330"]),
    },
    optional={"TimezoneOffsetFromUTC": st.just("+0000")},
)
# few keys at a time: an entry that does not match proves nothing
FEW_KEYS = st.lists(st.sampled_from(sorted(KEYS)), max_size=3, unique=True).flatmap(
    lambda names: st.fixed_dictionaries({name: st.sampled_from(KEYS[name]) for name in names})
)


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> tuple[WorklistStore, ManagedWorklist]:
    """One database for all examples."""
    folder = tmp_path_factory.mktemp("index")
    return WorklistStore(folder), ManagedWorklist(folder)


@given(entries=st.lists(ENTRIES, min_size=2, max_size=5), keys=FEW_KEYS)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])  # however busy the machine
def test_the_index_leaves_out_nothing_that_matches(
    crowded: tuple[WorklistStore, ManagedWorklist], entries: list[dict[str, Any]], keys: dict[str, Any]
) -> None:
    store, source = crowded
    with store.transaction() as changes:  # one: each waits for the disk
        changes.connection.execute("DELETE FROM entry")
        for number, overrides in enumerate(entries):
            changes.put(make_entry(worklist_entry(number, **overrides), "NOBODY")[0])
    step = {name: value for name, value in keys.items() if name in OF_THE_STEP}
    others = {name: value for name, value in keys.items() if name not in OF_THE_STEP}
    identifier = keys_of({**others, "ScheduledProcedureStepSequence": step})
    try:
        matcher = compile_identifier(identifier, OPTIONS)
    except Refusal:
        return
    everything = [one for one in source.entries(EVERYTHING) if matcher.matches(one)]
    selected = [one for one in source.entries(Selection.of(Candidate.of(identifier, "utf8"))) if matcher.matches(one)]
    assert selected == everything


@pytest.mark.parametrize(
    ("stored", "key"),
    [
        ("Mi\N{LATIN SMALL LETTER LONG S}s^A", "MISS^A"),
        ("νίκος^Ω", "ΝΊΚΟΣ*"),  # two small sigmas
        ("O\N{COMBINING DIAERESIS}z^A", "ÖZ^*"),
        ("Straße^A", "STRAßE*"),
    ],
)
def test_names_are_found_in_whatever_case_and_form(
    store: WorklistStore, source: ManagedWorklist, stored: str, key: str
) -> None:
    put(store, PatientName=stored, PatientID="P1")
    identifier = keys_of({"PatientName": key})
    assert compile_identifier(identifier, OPTIONS).matches(next(iter(source.entries())))
    assert ids(source.entries(Selection.of(Candidate.of(identifier, "utf8")))) == ["P1"]


@pytest.mark.parametrize(("zone", "day"), [("+1400", "20240302"), ("-1200", "20240228")])
def test_a_step_that_lies_on_another_day_by_the_clock_of_the_query_is_found(
    store: WorklistStore, source: ManagedWorklist, zone: str, day: str
) -> None:
    time = "2330" if zone == "+1400" else "0030"
    date = "20240301" if zone == "+1400" else "20240229"
    put(
        store,
        PatientID="P1",
        ScheduledProcedureStepStartDate=date,
        ScheduledProcedureStepStartTime=time,
        TimezoneOffsetFromUTC="+0000",
    )
    step = {"ScheduledProcedureStepStartDate": f"{day}-{day}", "ScheduledProcedureStepStartTime": "000000-235959"}
    identifier = keys_of({"TimezoneOffsetFromUTC": zone, "ScheduledProcedureStepSequence": step})
    assert compile_identifier(identifier, OPTIONS).matches(next(iter(source.entries())))
    assert ids(source.entries(Selection.of(Candidate.of(identifier, "utf8")))) == ["P1"]
