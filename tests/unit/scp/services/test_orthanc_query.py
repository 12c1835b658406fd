"""What Orthanc's index may decide of a query: every rewriting is at least as wide as the key."""

from __future__ import annotations

import pytest

from scp.matching import Attribute
from scp.query.orthanc_query import orthanc_queries

PATIENT_NAME, PATIENT_ID, STUDY_DATE, STUDY_TIME = 0x00100010, 0x00100020, 0x00080020, 0x00080030
MODALITY, MODALITIES, OPERATORS, SERIES_NUMBER = 0x00080060, 0x00080061, 0x00081070, 0x00200011
STUDY_UID = 0x0020000D


@pytest.mark.parametrize(
    ("tag", "vr", "values", "asked"),
    [
        (PATIENT_ID, "LO", ("P 1_2%",), "P 1_2%"),  # both in key and index these become blanks
        (PATIENT_ID, "LO", ("P_*",), "P*"),  # but a blank at the end of the index's text is cut
        (PATIENT_ID, "LO", ("A?C",), "A*C"),  # the index drops characters that ? would count
        (PATIENT_ID, "LO", ("Müller",), "M*ller"),
        (PATIENT_ID, "LO", ("'; DROP",), "*; DROP"),
        (PATIENT_ID, "LO", ("*",), None),
        (PATIENT_ID, "LO", ("日本",), None),
        (PATIENT_ID, "LO", ("A", "B"), None),
        (PATIENT_NAME, "PN", ("DOE^JANE",), "*DOE^JANE*"),  # any component group, trailing components left out
        (PATIENT_NAME, "PN", ("DOE^JANE^^",), "*DOE^JANE*"),
        (PATIENT_NAME, "PN", ("DOE^*",), "*DOE*"),
        (PATIENT_NAME, "PN", ("Yamada^Tarou=山田^太郎",), "*Yamada^Tarou*^*"),
        (PATIENT_NAME, "PN", ("=山田*",), None),
        (PATIENT_NAME, "PN", ("*",), None),
        (STUDY_DATE, "DA", ("20240229",), "20240229\\2024.02.29"),
        (STUDY_DATE, "DA", ("2024",), None),
        (STUDY_DATE, "DA", ("-",), None),
        (STUDY_DATE, "DA", ("*",), None),
        (STUDY_TIME, "TM", ("1011",), None),  # 1011 equals 101100, but not as text
        (SERIES_NUMBER, "IS", ("1",), None),
        (OPERATORS, "PN", ("A",), None),  # may hold several values, of which Orthanc compares the whole text
        (MODALITY, "CS", ("CT",), "CT"),
        (MODALITIES, "CS", ("CT", "MR"), "CT\\MR"),
        (MODALITIES, "CS", ("C*",), None),
        (STUDY_UID, "UI", ("1.2", "1.3"), "1.2\\1.3"),
        (STUDY_UID, "UI", ("1.*",), None),
        (STUDY_UID, "UI", (), None),
    ],
)
def test_a_key_is_widened_or_left_out(tag: int, vr: str, values: tuple[str, ...], asked: str | None) -> None:
    expected = {} if asked is None else {f"{tag >> 16:04x},{tag & 0xFFFF:04x}": asked}
    assert orthanc_queries({tag: Attribute(vr, values)}) == [expected]


@pytest.mark.parametrize(
    ("asked", "dotted"),
    [
        ("20240101-20240229", "2024.01.01-2024.02.29"),
        ("20240101-", "2024.01.01-"),
        ("-20240229", "-2024.02.29"),
    ],
)
def test_a_range_of_dates_is_asked_for_in_the_form_of_acr_nema_too(asked: str, dotted: str) -> None:
    queries = orthanc_queries({STUDY_DATE: Attribute("DA", (asked,)), MODALITY: Attribute("CS", ("CT",))})
    assert queries == [
        {"0008,0020": asked, "0008,0060": "CT"},
        {"0008,0020": dotted, "0008,0060": "CT"},
    ]


@pytest.mark.parametrize(
    ("asked", "days"),
    [
        ("20240229-20240229", ["20240229"]),
        ("20240228-20240301", ["20240228", "20240229", "20240301"]),
        ("20240101-20240131", [f"202401{day:02}" for day in range(1, 32)]),
    ],
)
def test_a_few_days_are_asked_for_one_by_one(asked: str, days: list[str]) -> None:
    (query,) = orthanc_queries({STUDY_DATE: Attribute("DA", (asked,))})
    forms = [form for day in days for form in (day, f"{day[:4]}.{day[4:6]}.{day[6:]}")]
    assert query["0008,0020"].split("\\") == forms


@pytest.mark.parametrize("asked", ["20240301-20240228", "20230229-20230301", "20240101-20240201", "99991231-99991232"])
def test_days_that_cannot_be_listed_stay_a_range(asked: str) -> None:
    assert orthanc_queries({STUDY_DATE: Attribute("DA", (asked,))})[0] == {"0008,0020": asked}
