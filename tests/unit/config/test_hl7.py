"""`Isen.Hl7`, and the managed worklist it needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.config.samples import GOOD, accepted, changed, only_problem

MANAGED = changed("Isen.Worklists", {"ManagedDirectory": "/var/lib/isen/worklists"})


def hl7(section: Any) -> dict[str, Any]:
    return changed("Isen.Hl7", section, MANAGED)


def test_a_managed_directory_is_enough_for_a_worklist() -> None:
    worklists = accepted(MANAGED).settings.worklists
    assert worklists.managed_directory == Path("/var/lib/isen/worklists")
    assert worklists.directory is None


@pytest.mark.parametrize("configuration", [GOOD, hl7({"Enabled": False})])
def test_there_is_no_listener_unless_it_is_asked_for(configuration: dict[str, Any]) -> None:
    assert accepted(configuration).settings.hl7 is None


def test_an_empty_section_is_a_listener_with_the_defaults() -> None:
    settings = accepted(hl7({})).settings.hl7
    assert settings
    assert settings.port == 2575


def test_orders_need_a_place_to_be_kept() -> None:
    path, sentence = only_problem(changed("Isen.Hl7", {}))
    assert path == "Isen.Worklists.ManagedDirectory"
    assert "is missing" in sentence


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("Port", 0, "at least 1"),
        ("AllowedAddresses", ["ris.example.org"], "IP address or a network"),
        ("AllowedAddresses", ["192.0.2.7/24"], "IP address or a network"),
        ("CharacterSet", "latin1", "must be one of ASCII, 8859/1"),
        ("StationAeTitles", {"CT": "LONGER_THAN_SIXTEEN"}, "at most 16"),
        ("MaximumMessageLength", 10, "at least 1024"),
        ("Prot", 2575, "Did you mean Port"),
    ],
)
def test_mistakes_are_named(option: str, value: Any, sentence: str) -> None:
    path, message = only_problem(hl7({option: value}))
    assert path.startswith(f"Isen.Hl7.{option}")
    assert sentence in message


class TestTls:
    @pytest.fixture
    def files(self, tmp_path: Path) -> dict[str, str]:
        for name in ("certificate", "key", "trusted"):
            (tmp_path / name).write_text("PEM")
        return {
            "TlsCertificate": str(tmp_path / "certificate"),
            "TlsPrivateKey": str(tmp_path / "key"),
            "TlsTrustedCertificates": str(tmp_path / "trusted"),
        }

    def test_it_is_off_unless_it_is_asked_for(self, files: dict[str, str]) -> None:
        settings = accepted(hl7(files)).settings.hl7
        assert settings
        assert settings.tls is None

    def test_its_options_are_those_of_dicom_tls(self, files: dict[str, str]) -> None:
        settings = accepted(hl7({"TlsEnabled": True, **files})).settings.hl7
        assert settings
        assert settings.tls
        assert str(settings.tls.certificate) == files["TlsCertificate"]
        assert settings.tls.remote_certificate_required

    @pytest.mark.parametrize("missing", ["TlsCertificate", "TlsPrivateKey", "TlsTrustedCertificates"])
    def test_every_file_is_needed(self, files: dict[str, str], missing: str) -> None:
        del files[missing]
        path, sentence = only_problem(hl7({"TlsEnabled": True, **files}))
        assert path == f"Isen.Hl7.{missing}"
        assert "Isen.Hl7.TlsEnabled needs it" in sentence

    def test_without_certificates_of_senders_there_is_nobody_to_trust(self, files: dict[str, str]) -> None:
        del files["TlsTrustedCertificates"]
        section = {"TlsEnabled": True, "TlsRemoteCertificateRequired": False, **files}
        settings = accepted(hl7(section)).settings.hl7
        assert settings
        assert settings.tls
        assert not settings.tls.remote_certificate_required

    def test_a_file_that_is_not_there_is_named(self, files: dict[str, str]) -> None:
        files["TlsPrivateKey"] += ".missing"
        path, sentence = only_problem(hl7({"TlsEnabled": True, **files}))
        assert path == "Isen.Hl7.TlsPrivateKey"
        assert "there is no file" in sentence
