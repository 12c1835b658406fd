"""Access as Orthanc grants it: `DicomAlwaysAllow*`, `DicomModalities` and its Allow* flags, hosts and AE titles."""

from __future__ import annotations

from typing import Any

from config.settings import DicomSettings, Modality
from scp.access_control import AccessControl

NOTHING_OPEN = {"always_allow_echo": False, "always_allow_store": False}


def modality(name: str, ae_title: str, host: str, **flags: bool) -> Modality:
    return Modality(name=name, ae_title=ae_title, host=host, port=104, **flags)


def access(*modalities: Modality, **settings: Any) -> AccessControl:
    return AccessControl(lambda: DicomSettings(modalities=modalities, **settings))


def test_anybody_may_associate_while_anything_is_open_to_all() -> None:
    assert access().accepts_calling("STRANGER", "192.0.2.1")


def test_only_modalities_may_associate_when_nothing_is_open_to_all() -> None:
    control = access(modality("ct", "CT1", "192.0.2.1"), **NOTHING_OPEN)
    assert control.accepts_calling("CT1", "192.0.2.99")
    assert not control.accepts_calling("CT2", "192.0.2.1")


def test_host_is_compared_as_text_when_asked() -> None:
    """DicomCheckModalityHost."""
    control = access(modality("ct", "CT1", "192.0.2.1"), check_modality_host=True, **NOTHING_OPEN)
    assert control.accepts_calling("CT1", "192.0.2.1")
    assert not control.accepts_calling("CT1", "192.0.2.2")


def test_case_of_ae_titles_counts_only_when_asked() -> None:
    """StrictAetComparison."""
    assert access(modality("ct", "CT1", "h"), **NOTHING_OPEN).accepts_calling("ct1", "a")
    assert not access(modality("ct", "CT1", "h"), strict_aet_comparison=True, **NOTHING_OPEN).accepts_calling(
        "ct1", "a"
    )


def test_called_ae_title_counts_only_when_asked() -> None:
    """DicomCheckCalledAet."""
    assert access().accepts_called("ANY")
    assert not access(check_called_aet=True).accepts_called("ANY")
    assert access(check_called_aet=True).accepts_called("orthanc")


def test_a_service_open_to_all_ignores_the_flags_of_a_modality() -> None:
    assert access(modality("ct", "CT1", "h", allow_store=False)).allows("allow_store", "CT1", "h")


def test_a_closed_service_needs_a_modality_with_its_flag() -> None:
    control = access(modality("ct", "CT1", "h"), modality("us", "US1", "h", allow_find=False))
    assert control.allows("allow_find", "CT1", "elsewhere")
    assert not control.allows("allow_find", "US1", "h")
    assert not control.allows("allow_find", "STRANGER", "h")


def test_permissions_without_an_always_flag_need_a_modality() -> None:
    """Orthanc has no DicomAlwaysAllow for N-ACTION: storage commitment is for configured modalities."""
    assert not access().allows("allow_n_action", "CT1", "h")
    assert access(modality("ct", "CT1", "h")).allows("allow_n_action", "CT1", "h")


def test_several_modalities_with_one_ae_title() -> None:
    """With the host check one is enough; without it all have to allow."""
    twins = modality("a", "CT1", "h1"), modality("b", "CT1", "h2", allow_find=False)
    assert not access(*twins).allows("allow_find", "CT1", "h1")
    assert access(*twins, check_modality_host=True).allows("allow_find", "CT1", "h1")
    assert not access(*twins, check_modality_host=True).allows("allow_find", "CT1", "h2")


def test_the_peer_is_the_modality_with_its_address() -> None:
    twins = modality("a", "CT1", "h1"), modality("b", "CT1", "h2")
    control = access(*twins)
    found = control.find("CT1", "h2"), control.find("CT1", "h3"), control.find("X", "h1")
    assert [one.name if one else None for one in found] == ["b", "a", None]


def test_a_change_of_the_table_counts_at_once() -> None:
    table: list[Modality] = []
    control = AccessControl(lambda: DicomSettings(modalities=tuple(table), **NOTHING_OPEN))
    assert not control.accepts_calling("CT1", "h")
    table.append(modality("ct", "CT1", "h"))
    assert control.accepts_calling("CT1", "h")
