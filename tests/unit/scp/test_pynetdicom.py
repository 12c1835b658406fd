"""What we take from pynetdicom, named one by one: an update that moves any of it fails here and says what moved."""

from __future__ import annotations

from importlib.metadata import requires, version
from typing import Any

import pynetdicom
import pytest
from packaging.requirements import Requirement
from pynetdicom import dimse_primitives, sop_class

from scp.upper_layer.command_set import PRIMITIVES, decode_command_set, encode_command_set, to_primitive
from tests.fakes.raw_peer import CT

ATTRIBUTES = {  # what services read from `Request.message`, PS3.7 9.3 and 10.3
    "C_STORE": "MessageID AffectedSOPClassUID AffectedSOPInstanceUID Priority MoveOriginatorApplicationEntityTitle "
    "MoveOriginatorMessageID",
    "C_FIND": "MessageID AffectedSOPClassUID Priority",
    "C_GET": "MessageID AffectedSOPClassUID Priority",
    "C_MOVE": "MessageID AffectedSOPClassUID Priority MoveDestination",
    "C_ECHO": "MessageID AffectedSOPClassUID",
    "N_EVENT_REPORT": "MessageID AffectedSOPClassUID AffectedSOPInstanceUID EventTypeID",
    "N_GET": "MessageID RequestedSOPClassUID RequestedSOPInstanceUID AttributeIdentifierList",
    "N_SET": "MessageID RequestedSOPClassUID RequestedSOPInstanceUID",
    "N_ACTION": "MessageID RequestedSOPClassUID RequestedSOPInstanceUID ActionTypeID",
    "N_CREATE": "MessageID AffectedSOPClassUID AffectedSOPInstanceUID",
    "N_DELETE": "MessageID RequestedSOPClassUID RequestedSOPInstanceUID",
}


def test_the_installed_version_is_in_the_range_we_support() -> None:
    """pyproject.toml pins it; an environment that was changed by hand shows here."""
    ours = next(Requirement(line) for line in requires("isen") or () if line.startswith("pynetdicom"))
    assert ours.specifier.contains(version("pynetdicom")), f"pynetdicom {version('pynetdicom')} is not {ours.specifier}"


def test_primitives_are_there_by_name() -> None:
    assert {primitive.__name__ for primitive in PRIMITIVES.values()} == set(ATTRIBUTES)


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_primitives_have_the_attributes_services_read(name: str) -> None:
    primitive = getattr(dimse_primitives, name)()
    for attribute in ATTRIBUTES[name].split():
        assert hasattr(primitive, attribute), f"pynetdicom's {name} has no {attribute} any more"


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_values_reach_the_primitive(name: str) -> None:
    values: dict[str, Any] = {
        "MessageID": 7,
        "Priority": 1,
        "MoveOriginatorMessageID": 3,
        "EventTypeID": 1,
        "ActionTypeID": 2,
        "MoveDestination": "PACS",
        "MoveOriginatorApplicationEntityTitle": "ME",
        "AttributeIdentifierList": [0x00100010, 0x7FE00010],
    }
    field = next(code for code, primitive in PRIMITIVES.items() if primitive.__name__ == name)
    wanted = {attribute: values.get(attribute, "1.2.3") for attribute in ATTRIBUTES[name].split()}
    primitive = to_primitive(decode_command_set(encode_command_set({"CommandField": field, **wanted})))
    assert {attribute: getattr(primitive, attribute) for attribute in wanted} == wanted


def test_a_value_the_primitive_refuses_is_left_out() -> None:
    """A Priority beyond the Standard's must not cost the peer its association."""
    command = {"CommandField": 1, "MessageID": 7, "AffectedSOPClassUID": CT, "Priority": 99}
    assert to_primitive(command).MessageID == 7


@pytest.mark.parametrize("said", [{}, {"Priority": 99}])
def test_who_names_no_priority_has_not_asked_to_come_last(said: dict[str, int]) -> None:
    command = {"CommandField": 0x21, "MessageID": 7, "AffectedSOPClassUID": CT, **said}
    assert to_primitive(command).Priority == 0, "MEDIUM"


def test_tables_of_sop_classes() -> None:
    storage = {str(context.abstract_syntax) for context in pynetdicom.AllStoragePresentationContexts}
    assert CT in storage
    assert len(storage) >= 170
    for name in ("Verification", "StorageCommitmentPushModel", "ModalityWorklistInformationFind"):
        assert hasattr(sop_class, name), f"pynetdicom.sop_class has no {name} any more"


def test_implementation_identifiers() -> None:
    assert len(pynetdicom.PYNETDICOM_IMPLEMENTATION_UID) <= 64
    assert 0 < len(pynetdicom.PYNETDICOM_IMPLEMENTATION_VERSION) <= 16
