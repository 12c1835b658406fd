"""CONFORMANCE.md says what the code does: SOP classes, transfer syntaxes, extended negotiation, statuses, limits.

The codes of a service are the names that its modules take from `scp.statuses`, found in their source.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.uid import UID_dictionary
from pynetdicom import PYNETDICOM_IMPLEMENTATION_UID, PYNETDICOM_IMPLEMENTATION_VERSION

from config.settings import DicomSettings, OrthancSettings, ScpSettings, WorklistSettings
from scp import statuses
from scp.orthanc_client import OrthancClient
from scp.request import Service
from scp.services import build_services
from scp.upper_layer.associate import AssociateRequest, ContextProposal
from scp.upper_layer.negotiation import STORAGE_SOP_CLASSES, Negotiator

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONFORMANCE.md").read_text()
COMMON = ("scp/upper_layer/*.py",)
MATCHING = ("scp/matching/*.py", "scp/query/*.py")
SECTIONS = {  # heading -> the modules whose statuses its tables list
    "4.2.4 Association acceptance": COMMON,
    "4.2.5 Storage as SCP": ("scp/services/store.py",),
    "4.2.6 Query/Retrieve \N{EN DASH} FIND as SCP": ("scp/services/find.py", *MATCHING),
    "4.2.7 Query/Retrieve \N{EN DASH} MOVE and GET as SCP": (
        "scp/services/move.py",
        "scp/services/get.py",
        "scp/retrieve/*.py",
    ),
    "4.2.11 Modality Performed Procedure Step as SCP": (
        "scp/services/performed_procedure.py",
        *(f"scp/performed_procedure/{name}.py" for name in ("rules", "store")),
    ),
}
NOT_SENT = {"FF00", "FF01"}  # of the upper layer: it looks for them


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> tuple[Service, ...]:
    """All of them, as a worker builds them."""
    folder = tmp_path_factory.mktemp("conformance")
    settings = ScpSettings(directory=folder, worklists=WorklistSettings(directory=folder))
    return build_services(settings, OrthancClient(OrthancSettings(url="http://127.0.0.1:9")), DicomSettings)


def section(heading: str) -> str:
    """The text below a heading, up to the next one."""
    match = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert match, heading
    return match[1]


def uids(text: str) -> list[str]:
    """The last column of a table of names and UIDs."""
    return re.findall(r"\| ([0-9]+(?:\.[0-9]+)+) \|", text)


def codes(text: str) -> set[str]:
    """What the first columns of tables of statuses and failure reasons list."""
    cells = re.findall(r"^\| ([0-9A-F]{4}[^|]*) \|", text, re.MULTILINE)
    return {code for cell in cells for code in re.findall(r"\b[0-9A-F]{4}\b", re.sub(r"Error ID \w+", "", cell))}


def taken_from_statuses(patterns: tuple[str, ...]) -> Iterator[str]:
    for path in (path for pattern in patterns for path in ROOT.glob(pattern)):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "scp.statuses":
                values = (getattr(statuses, alias.name) for alias in node.names if alias.name != "MEDIUM")
                yield from (f"{value:04X}" for value in values if isinstance(value, int))


@pytest.mark.parametrize("heading", SECTIONS)
def test_the_statuses_of_a_service_are_those_in_its_code(heading: str) -> None:
    written, used = codes(section(heading)), set(taken_from_statuses(SECTIONS[heading]))
    common = set(taken_from_statuses(COMMON)) - NOT_SENT
    assert used - (NOT_SENT if SECTIONS[heading] is COMMON else set()) <= written
    assert written <= used | common


def test_the_sop_classes_are_those_of_the_services(services: tuple[Service, ...]) -> None:
    offered = {str(uid) for service in services if service.dimse != "C_STORE" for uid in service.sop_classes}
    written = set(re.findall(r"\| (1\.2\.840\.10008(?:\.\d+)+) \|", section("4.2.1 SOP classes")))
    assert written == offered


def test_the_storage_sop_classes_are_those_that_are_accepted() -> None:
    written = uids(section("8.1 Storage SOP classes"))
    assert len(written) == len(set(written))
    assert set(written) == STORAGE_SOP_CLASSES


def test_the_transfer_syntaxes_of_storage_are_those_that_are_accepted_by_default(services: tuple[Service, ...]) -> None:
    standard = [uid for uid, (_, kind, *_) in UID_dictionary.items() if kind == "Transfer Syntax"]
    assert uids(section("8.2 Transfer syntaxes")) == accepted(services, next(iter(STORAGE_SOP_CLASSES)), standard)


def test_the_order_of_the_transfer_syntaxes_of_all_else(services: tuple[Service, ...]) -> None:
    """Of those that are left the first is preferred to all after it."""
    written = uids(section("4.2.4 Association acceptance"))
    verification = "1.2.840.10008.1.1"
    assert set(accepted(services, verification, uids(section("8.2 Transfer syntaxes")))) == set(written)
    for start in range(len(written)):
        request = AssociateRequest(1, "ISEN", "CT1", b"")
        request.contexts = [ContextProposal(1, verification, tuple(reversed(written[start:])))]
        assert Negotiator(DicomSettings, services).negotiate(request).results[0].transfer_syntax == written[start]


def accepted(services: tuple[Service, ...], sop_class_uid: str, syntaxes: list[str]) -> list[str]:
    found, defaults = [], DicomSettings()
    negotiator = Negotiator(lambda: defaults, services)
    for syntax in syntaxes:
        request = AssociateRequest(1, "ISEN", "CT1", b"")
        request.contexts = [ContextProposal(1, sop_class_uid, (syntax,))]
        if negotiator.negotiate(request).results[0].result == 0:
            found.append(syntax)
    return found


@pytest.mark.parametrize(
    ("row", "dimse", "sop_class"),
    [
        ("FIND", "C_FIND", "1.2.840.10008.5.1.4.1.2.2.1"),
        ("MOVE, GET", "C_MOVE", "1.2.840.10008.5.1.4.1.2.2.2"),
        ("MOVE, GET", "C_GET", "1.2.840.10008.5.1.4.1.2.2.3"),
        ("Worklist", "C_FIND", "1.2.840.10008.5.1.4.31"),
    ],
)
def test_ps37_d_3_3_5_the_application_information(
    services: tuple[Service, ...], row: str, dimse: str, sop_class: str
) -> None:
    (negotiate,) = (one.negotiate for one in services if one.dimse == dimse and sop_class in one.sop_classes)
    assert negotiate
    written = re.search(rf"^\| {row} \| ([01 ]+) \|", section("4.2.2 Association policies"), re.MULTILINE)
    assert written
    assert negotiate(b"\1" * 9) == bytes(map(int, written[1].split()))


def test_implementation_identification() -> None:
    policies = section("4.2.2 Association policies")
    assert PYNETDICOM_IMPLEMENTATION_UID in policies
    assert PYNETDICOM_IMPLEMENTATION_VERSION in policies


def test_it_follows_the_order_of_ps32_annex_a() -> None:
    numbers = [tuple(map(int, number.split("."))) for number in re.findall(r"^#+ ([\d.]*\d)\.? ", TEXT, re.MULTILINE)]
    assert numbers == sorted(numbers)
    assert [number[0] for number in numbers if len(number) == 1] == list(range(1, 9))
