"""Orthanc's DICOM options and `Isen.Dicom`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from config.dicom import TRANSFER_SYNTAX_GROUPS, default_processes
from config.settings import DicomSettings, Modality
from tests.unit.config.samples import GOOD, Removed, accepted, changed, only_problem, problems


def dicom(option: str, value: Any) -> DicomSettings:
    settings = accepted(changed(option, value)).settings.dicom
    assert settings
    return settings


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("DicomAet", "A" * 17, "has 17 characters"),
        ("DicomAet", "", "is empty"),
        ("DicomAet", "   ", "is empty"),
        ("DicomAet", "A\\B", "without backslash"),
        ("DicomAet", "A\tB", "control characters"),
        ("DicomAet", "RÖNTGEN", "ASCII"),
        ("DicomAet", 5, "must be a string"),
        ("DicomPort", 0, "must be at least 1"),
        ("DicomPort", -1, "must be at least 0"),
        ("DicomPort", 65536, "must be at most 65535"),
        ("DicomPort", "4242", "must be a whole number"),
        ("DicomPort", 4242.5, "must be a whole number"),
        ("MaximumPduLength", 4095, "must be at least 4096"),
        ("MaximumPduLength", 131073, "must be at most 131072"),
        ("DicomCheckCalledAet", "yes", "must be true or false"),
        ("DicomAlwaysAllowStore", 1, "must be true or false"),
        ("DicomScpTimeout", -1, "must be at least 0"),
        ("LimitFindResults", -1, "must be at least 0"),
        ("AcceptedTransferSyntaxes", "1.2.*", "must be a list"),
        ("AcceptedSopClasses", "1.2.*", "must be a list"),
        ("DicomScuPreferredTransferSyntax", "1.2.", "must be a UID"),
        ("RleTransferSyntaxAccepted", "no", "must be true or false"),
        ("DicomServerEnabled", True, "must be false"),
        ("DicomServerEnabled", Removed, "must be false"),
        ("DicomServerEnabled", "no", "must be true or false"),
        ("HttpServerEnabled", False, "must be true: Isen's DICOM workers"),
        ("HttpPort", 0, "from 1 to 65535"),
        ("HttpPort", "8042", "from 1 to 65535"),
        ("HttpThreadsCount", 0, "must be at least 1"),
        ("OverwriteInstances", "Sometimes", "must be true, false"),
        ("DicomModalities", [], "must be an object: { … }"),
        ("Dictionary", [], "must be an object: { … }"),
        ("DicomTlsMinimumProtocolVersion", 3, "must be 0 (BCP 195), 4 (TLS 1.2) or 5 (TLS 1.3)"),
        ("Isen.Dicom.Processes", 0, "must be at least 1"),
        ("Isen.Dicom.Processes", 65, "must be at most 64"),
        ("Isen.Dicom.MaximumAssociations", 0, "must be at least 1"),
        ("Isen.Dicom.Enabled", "yes", "must be true or false"),
        ("Isen.Dicom.MaximumAssociation", 5, "Did you mean MaximumAssociations?"),
        ("Isen.Dicom.AeTitle", "X", "is not an option of Isen."),
        ("Isen.Dicom", [], "must be an object: { … }"),
    ],
)
def test_an_impossible_dicom_option_is_refused_by_its_path(
    path: str, value: Any, sentence: str, certificates: dict[str, str]
) -> None:
    base = GOOD | certificates if "Tls" in path else GOOD
    found, message = only_problem(changed(path, value, base))
    assert found == path
    assert sentence in message


@pytest.fixture
def certificates(tmp_path: Path) -> dict[str, str]:
    options = {}
    for option in ("DicomTlsCertificate", "DicomTlsPrivateKey", "DicomTlsTrustedCertificates"):
        (tmp_path / option).touch()
        options[option] = str(tmp_path / option)
    return options


def test_a_wrong_entry_of_a_list_is_named_by_its_place() -> None:
    assert only_problem(changed("AcceptedTransferSyntaxes", ["1.2", "JPEG"]))[0] == "AcceptedTransferSyntaxes[1]"


def test_fewer_associations_than_processes_are_refused() -> None:
    configuration = changed("Isen.Dicom", {"Processes": 4, "MaximumAssociations": 3})
    assert only_problem(configuration) == (
        "Isen.Dicom.MaximumAssociations",
        "must be at least 4, one for each of the Processes",
    )


def test_every_dicom_option_reaches_its_setting() -> None:
    """Guards the names of Orthanc's options: each must change exactly its setting."""
    values: dict[str, tuple[str, Any]] = {
        "DicomAet": ("ae_title", "ISEN"),
        "DicomPort": ("port", 104),
        "DicomCheckCalledAet": ("check_called_aet", True),
        "StrictAetComparison": ("strict_aet_comparison", True),
        "DicomCheckModalityHost": ("check_modality_host", True),
        "DicomAlwaysAllowEcho": ("always_allow_echo", False),
        "DicomAlwaysAllowStore": ("always_allow_store", False),
        "DicomAlwaysAllowFind": ("always_allow_find", True),
        "DicomAlwaysAllowFindWorklist": ("always_allow_find_worklist", True),
        "DicomAlwaysAllowGet": ("always_allow_get", True),
        "DicomAlwaysAllowMove": ("always_allow_move", True),
        "DicomModalitiesInDatabase": ("modalities_in_database", True),
        "DicomScpTimeout": ("scp_timeout", 0),
        "DicomScuTimeout": ("scu_timeout", 99),
        "MaximumPduLength": ("maximum_pdu_length", 16384),
        "LimitFindResults": ("limit_find_results", 7),
        "LimitFindInstances": ("limit_find_instances", 8),
        "CaseSensitivePN": ("case_sensitive_pn", True),
        "DefaultEncoding": ("default_encoding", "Utf8"),
        "AcceptedTransferSyntaxes": ("accepted_transfer_syntaxes", ("1.2.840.10008.1.2",)),
        "UnknownSopClassAccepted": ("unknown_sop_class_accepted", True),
        "AcceptedSopClasses": ("accepted_sop_classes", ("1.2.840.*",)),
        "RejectedSopClasses": ("rejected_sop_classes", ("1.2.3?",)),
        "TranscodeDicomProtocol": ("transcode_dicom_protocol", False),
        "SynchronousCMove": ("synchronous_c_move", False),
        "DicomScuPreferredTransferSyntax": ("scu_preferred_transfer_syntax", "1.2.840.10008.1.2"),
        "Isen.Dicom.Processes": ("processes", 5),
        "Isen.Dicom.MaximumAssociations": ("maximum_associations", 77),
    }
    default = accepted(GOOD).settings.dicom
    assert default
    for option, (setting, value) in values.items():
        written = list(value) if isinstance(value, tuple) else value
        assert dicom(option, written) == default.model_copy(update={setting: value}), option


def test_ae_titles_lose_their_padding() -> None:
    assert dicom("DicomAet", " ISEN ").ae_title == "ISEN"


def test_transfer_syntax_groups_add_and_reject() -> None:
    settings = dicom("RleTransferSyntaxAccepted", value=False)
    assert settings.rejected_transfer_syntaxes == TRANSFER_SYNTAX_GROUPS["Rle"]
    configuration = changed("AcceptedTransferSyntaxes", ["1.2.840.10008.1.2.1"]) | {
        "JpegLosslessTransferSyntaxAccepted": True,
        "H265TransferSyntaxAccepted": False,
    }
    both = accepted(configuration).settings.dicom
    assert both
    assert both.accepted_transfer_syntaxes == ("1.2.840.10008.1.2.1", *TRANSFER_SYNTAX_GROUPS["JpegLossless"])
    assert both.rejected_transfer_syntaxes == TRANSFER_SYNTAX_GROUPS["H265"]


def test_the_default_number_of_processes_follows_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    for processors, processes in ((1, 2), (2, 2), (5, 5), (64, 8)):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, count=processors: set(range(count)))
        assert default_processes() == processes


def test_orthancs_own_server_may_run_when_isens_does_not() -> None:
    configuration = changed("Isen.Dicom.Enabled", value=False)
    assert accepted(configuration | {"DicomServerEnabled": True, "HttpServerEnabled": False}).settings.dicom is None


def test_the_refusal_of_two_servers_says_both_ways_out() -> None:
    _, message = only_problem(changed("DicomServerEnabled", value=True))
    assert "must be false" in message
    assert '"Enabled": false' in message


def test_connections_that_are_not_kept_alive_are_worth_a_warning() -> None:
    assert any(warning.startswith("KeepAlive:") for warning in accepted(changed("KeepAlive", value=False)).warnings)


class TestModalities:
    """Both forms of an entry, as Orthanc reads them."""

    def read(self, entry: Any) -> Modality:
        (modality,) = dicom("DicomModalities", {"ct": entry}).modalities
        return modality

    def test_list_form(self) -> None:
        modality = self.read(["CT1", "192.0.2.1", 104])
        assert modality == Modality(name="ct", ae_title="CT1", host="192.0.2.1", port=104)
        assert self.read(["CT1", "h", "104", "GE"]).manufacturer == "GE"

    def test_object_form(self) -> None:
        modality = self.read(
            {
                "AET": "CT1",
                "Host": "ct.example.org",
                "Port": 104,
                "Manufacturer": "Vitrea",
                "AllowEcho": False,
                "AllowFind": False,
                "AllowFindWorklist": False,
                "AllowGet": False,
                "AllowMove": False,
                "AllowStore": False,
                "AllowTranscoding": False,
                "LocalAet": "OTHER",
                "Timeout": 60,
            }
        )
        assert modality == Modality(
            name="ct",
            ae_title="CT1",
            host="ct.example.org",
            port=104,
            manufacturer="Vitrea",
            allow_echo=False,
            allow_find=False,
            allow_find_worklist=False,
            allow_get=False,
            allow_move=False,
            allow_store=False,
            allow_transcoding=False,
            local_ae_title="OTHER",
            timeout=60,
        )

    def test_everything_is_allowed_by_default(self) -> None:
        modality = self.read({"AET": "CT1", "Host": "h", "Port": 104})
        assert modality == self.read(["CT1", "h", 104])

    def test_storage_commitment_is_both_of_its_requests(self) -> None:
        modality = self.read({"AET": "CT1", "Host": "h", "Port": 104, "AllowStorageCommitment": False})
        assert not modality.allow_n_action
        assert not modality.allow_event_report

    def test_an_empty_local_aet_is_none(self) -> None:
        assert self.read({"AET": "CT1", "Host": "h", "Port": 104, "LocalAet": ""}).local_ae_title is None

    @pytest.mark.parametrize(
        ("entry", "path", "sentence"),
        [
            (["CT1", "h"], "DicomModalities.ct", "must be [AET, Host, Port]"),
            (["CT1", "h", 104, "GE", 1], "DicomModalities.ct", "must be [AET, Host, Port]"),
            ("CT1", "DicomModalities.ct", "must be [AET, Host, Port]"),
            (["CT1", "h", 0], "DicomModalities.ct[2]", "must be at least 1"),
            (["CT1", "h", 65536], "DicomModalities.ct[2]", "must be at most 65535"),
            (["CT1", "h", "port"], "DicomModalities.ct[2]", "must be a whole number"),
            (["A" * 17, "h", 104], "DicomModalities.ct[0]", "has 17 characters"),
            (["A\\B", "h", 104], "DicomModalities.ct[0]", "backslash"),
            (["CT1", "", 104], "DicomModalities.ct[1]", "must be a host name"),
            (["CT1", "h:104", 104], "DicomModalities.ct[1]", "option of its own"),
            ({"Host": "h", "Port": 104}, "DicomModalities.ct.AET", "is missing"),
            ({"AET": "CT1", "Port": 104}, "DicomModalities.ct.Host", "is missing"),
            ({"AET": "CT1", "Host": "h"}, "DicomModalities.ct.Port", "is missing"),
            (
                {"AET": "CT1", "Host": "h", "Port": 1, "AllowMove": "no"},
                "DicomModalities.ct.AllowMove",
                "true or false",
            ),
            ({"AET": "CT1", "Host": "h", "Port": 1, "LocalAet": "\n"}, "DicomModalities.ct.LocalAet", "control"),
            ({"AET": "CT1", "Host": "h", "Port": 1, "Timeout": -1}, "DicomModalities.ct.Timeout", "at least 0"),
        ],
    )
    def test_an_impossible_entry_is_refused_by_its_path(self, entry: Any, path: str, sentence: str) -> None:
        found, message = only_problem(changed("DicomModalities", {"ct": entry, "ok": ["MR", "h", 104]}))
        assert found == path
        assert sentence in message

    def test_a_symbolic_name_orthanc_refuses_is_refused(self) -> None:
        assert only_problem(changed("DicomModalities", {"c t": ["CT1", "h", 1]}))[0] == "DicomModalities.c t"

    def test_a_misspelt_permission_is_worth_a_warning(self) -> None:
        entry = {"AET": "CT1", "Host": "h", "Port": 104, "AllowMoev": False, "RetrieveMethod": "C-GET"}
        warnings = accepted(changed("DicomModalities", {"ct": entry})).warnings
        assert any("AllowMoev" in warning and "Did you mean AllowMove?" in warning for warning in warnings)
        assert not any("RetrieveMethod" in warning for warning in warnings)


class TestTls:
    """The DicomTls* options."""

    def test_no_certificates_mean_no_tls(self) -> None:
        settings = accepted(GOOD).settings.dicom
        assert settings
        assert settings.tls is None
        assert settings.scu_tls is None

    def test_the_port_and_outgoing_connections_have_their_own_switches(self, certificates: dict[str, str]) -> None:
        outgoing = accepted(GOOD | certificates).settings.dicom
        assert outgoing
        assert outgoing.tls is None
        assert outgoing.scu_tls
        both = accepted(GOOD | certificates | {"DicomTlsEnabled": True}).settings.dicom
        assert both
        assert both.tls == both.scu_tls == outgoing.scu_tls
        assert str(outgoing.scu_tls.certificate) == certificates["DicomTlsCertificate"]

    @pytest.mark.parametrize("option", ["DicomTlsCertificate", "DicomTlsPrivateKey", "DicomTlsTrustedCertificates"])
    def test_a_file_that_is_missing_is_refused(self, option: str, certificates: dict[str, str]) -> None:
        switched_on = GOOD | certificates | {"DicomTlsEnabled": True}
        path, message = only_problem(changed(option, "/nowhere.pem", switched_on))
        assert (path, message) == (option, "there is no file /nowhere.pem")
        assert only_problem(changed(option, Removed, switched_on))[0] == option

    def test_one_way_tls_needs_no_trusted_certificates(self, certificates: dict[str, str]) -> None:
        del certificates["DicomTlsTrustedCertificates"]
        settings = accepted(
            GOOD | certificates | {"DicomTlsEnabled": True, "DicomTlsRemoteCertificateRequired": False}
        ).settings.dicom
        assert settings
        assert settings.tls
        assert not settings.tls.remote_certificate_required

    def test_a_modality_with_tls_needs_certificates(self) -> None:
        entry = {"AET": "A", "Host": "h", "Port": 1, "UseDicomTls": True}
        assert set(problems(changed("DicomModalities", {"ct": entry}))) == {
            "DicomTlsCertificate",
            "DicomTlsPrivateKey",
            "DicomTlsTrustedCertificates",
        }

    def test_a_minimum_needs_ciphers(self, certificates: dict[str, str]) -> None:
        configuration = GOOD | certificates | {"DicomTlsMinimumProtocolVersion": 4}
        assert only_problem(configuration)[0] == "DicomTlsCiphersAccepted"
        settings = accepted(configuration | {"DicomTlsCiphersAccepted": ["ECDHE-RSA-AES256-GCM-SHA384"]}).settings.dicom
        assert settings
        assert settings.scu_tls
        assert settings.scu_tls.minimum_protocol_version == 4

    @pytest.mark.parametrize("ciphers", ["AES", [1]])
    def test_ciphers_are_a_list_of_names(self, ciphers: Any, certificates: dict[str, str]) -> None:
        configuration = GOOD | certificates | {"DicomTlsMinimumProtocolVersion": 4, "DicomTlsCiphersAccepted": ciphers}
        assert only_problem(configuration)[0] == "DicomTlsCiphersAccepted"
