"""The whole configuration: what is read from where, and what the answer promises."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from config.loader import Capabilities, load
from config.problems import ConfigurationError
from config.settings import Settings, WorklistSettings
from tests.unit.config.samples import GOOD, Removed, accepted, changed, only_problem, problems


def test_settings_survive_the_pipe_to_the_child_processes() -> None:
    settings = accepted(changed("DicomModalities", {"ct": ["CT1", "h", 104]})).settings
    assert Settings.model_validate_json(settings.model_dump_json(by_alias=True)) == settings


def test_every_mistake_is_reported_at_once() -> None:
    configuration = changed("Isen.Storage.Region", Removed, changed("Isen.Dicom.Processes", 0)) | {
        "DicomPort": 70000,
        "HttpPort": -1,
        "DicomModalities": {"ct": ["CT1"]},
    }
    configuration["Isen"]["Worklists"]["Directory"] = "relative"
    configuration["Isen"]["Pyhton"] = "/usr/bin/python3"
    assert set(problems(configuration)) == {
        "Isen.Pyhton",
        "Isen.Storage.Region",
        "Isen.Dicom.Processes",
        "DicomPort",
        "HttpPort",
        "DicomModalities.ct",
        "Isen.Worklists.Directory",
    }


def test_the_error_reads_as_one_sentence_per_line() -> None:
    with pytest.raises(ConfigurationError, match=r"^Isen\.Storage\.Region: is missing; name the region"):
        load(changed("Isen.Storage.Region", Removed))


def test_unknown_options_at_the_top_level_belong_to_others() -> None:
    assert accepted(GOOD | {"DicomWeb": {"Enable": True}, "Xyzzy": 1}) == accepted(GOOD)


@pytest.mark.parametrize("configuration", [None, [], "x", 5])
def test_anything_but_an_object_is_refused(configuration: Any) -> None:
    assert set(problems(configuration)) == {"configuration"}


@pytest.mark.parametrize("path", ["Isen", "Isen.Storage", "Isen.Worklists"])
@pytest.mark.parametrize("value", [None, [], "x", 5, True])
def test_a_section_that_is_no_object_is_refused(path: str, value: Any) -> None:
    assert problems(changed(path, value))[path] == "must be an object: { … }"


class TestPython:
    def test_named(self) -> None:
        assert accepted(changed("Isen.Python", "/opt/venv/bin/python")).settings.python == Path("/opt/venv/bin/python")

    @pytest.mark.parametrize("value", ["python3", 5, ""])
    def test_must_be_an_absolute_path(self, value: Any) -> None:
        assert only_problem(changed("Isen.Python", value))[0] == "Isen.Python"

    @pytest.mark.parametrize("form", ["PythonScript", "Python"])
    def test_is_found_beside_the_script(self, form: str, tmp_path: Path) -> None:
        interpreter = tmp_path / ".venv" / "bin" / "python"
        interpreter.parent.mkdir(parents=True)
        interpreter.touch()
        script = str(tmp_path / "orthanc_plugin.py")
        section: dict[str, Any] = {"PythonScript": script} if form == "PythonScript" else {"Python": {"Path": script}}
        assert accepted(GOOD | section).settings.python == interpreter

    def test_is_otherwise_the_one_that_validates(self) -> None:
        assert accepted(GOOD | {"PythonScript": "/nowhere/plugin.py"}).settings.python == Path(sys.executable)


class TestAllowThreads:
    """Without it, a Python storage area can deadlock Orthanc."""

    able = Capabilities(allow_threads=True)

    @pytest.mark.parametrize(
        "section", [{}, {"PythonScript": "/x.py"}, {"Python": {"Path": "/x.py"}}, {"Python": {"AllowThreads": "true"}}]
    )
    def test_is_demanded_of_a_plugin_that_knows_it(self, section: dict[str, Any]) -> None:
        path, message = only_problem(GOOD | section, self.able)
        assert path == "Python.AllowThreads"
        assert '"AllowThreads": true' in message

    def test_is_enough(self) -> None:
        accepted(GOOD | {"Python": {"Path": "/x.py", "AllowThreads": True}}, self.able)

    def test_is_nothing_to_a_plugin_that_does_not_know_it(self) -> None:
        accepted(GOOD | {"PythonScript": "/x.py"})


class TestOrthanc:
    """Where the REST API is."""

    @pytest.mark.parametrize(
        ("options", "url"),
        [
            ({}, "http://127.0.0.1:8042"),
            ({"HttpPort": 80}, "http://127.0.0.1:80"),
            ({"HttpBindAddresses": ["0.0.0.0"]}, "http://127.0.0.1:8042"),
            ({"HttpBindAddresses": ["192.0.2.1"]}, "http://192.0.2.1:8042"),
            ({"HttpBindAddresses": ["fd00::1"]}, "http://[fd00::1]:8042"),
        ],
    )
    def test_address(self, options: dict[str, Any], url: str) -> None:
        assert accepted(GOOD | options).settings.orthanc.url == url

    def test_https(self, tmp_path: Path) -> None:
        certificate = tmp_path / "orthanc.pem"
        certificate.touch()
        orthanc = accepted(GOOD | {"SslEnabled": True, "SslCertificate": str(certificate)}).settings.orthanc
        assert orthanc.url == "https://127.0.0.1:8042"
        assert orthanc.ca_certificates == certificate

    @pytest.mark.parametrize("options", [{}, {"SslCertificate": ""}, {"SslCertificate": "/nowhere.pem"}])
    def test_https_needs_its_certificate(self, options: dict[str, Any]) -> None:
        assert only_problem(GOOD | {"SslEnabled": True} | options)[0] == "SslCertificate"

    def test_client_certificates_cannot_be_shown(self, tmp_path: Path) -> None:
        certificate = tmp_path / "orthanc.pem"
        certificate.touch()
        options = {"SslEnabled": True, "SslCertificate": str(certificate), "SslVerifyPeers": True}
        assert only_problem(GOOD | options)[0] == "SslVerifyPeers"
        accepted(GOOD | {"SslVerifyPeers": True})  # without TLS it means nothing

    @pytest.mark.parametrize(
        ("value", "overwrites"), [(False, False), (True, True), ("Never", False), ("Always", True), ("IfChanged", True)]
    )
    def test_overwriting(self, value: Any, overwrites: bool) -> None:
        assert accepted(GOOD | {"OverwriteInstances": value}).settings.orthanc.overwrite_instances is overwrites

    def test_threads_and_dictionary(self) -> None:
        dictionary = {"0014,1020": ["DA", "ValidationExpiryDate", 1, 1], "00e1,c2": ["UI", "Name", 1, 1, "ELSCINT1"]}
        orthanc = accepted(GOOD | {"HttpThreadsCount": 9, "Dictionary": dictionary}).settings.orthanc
        assert orthanc.http_threads_count == 9
        assert orthanc.dictionary == {tag: tuple(entry) for tag, entry in dictionary.items()}


class TestWorklists:
    def read(self, isen: Any = Removed, orthanc: Any = Removed) -> WorklistSettings:
        configuration = changed("Isen.Worklists", isen)
        return accepted(
            configuration if orthanc is Removed else configuration | {"Worklists": orthanc}
        ).settings.worklists

    def test_none(self) -> None:
        assert self.read() == WorklistSettings()

    @pytest.mark.parametrize("name", ["Directory", "Database"])
    def test_both_names_of_the_folder(self, name: str) -> None:
        settings = self.read({name: "/worklists", "FilterIssuerAet": True, "LimitAnswers": 5})
        assert settings == WorklistSettings(directory=Path("/worklists"), filter_issuer_aet=True, limit_answers=5)

    def test_orthancs_section_counts_when_it_is_enabled(self) -> None:
        section = {"Enable": True, "Database": "/worklists"}
        assert self.read(orthanc=section).directory == Path("/worklists")
        assert self.read(orthanc=section | {"Enable": False}).directory is None
        assert self.read(orthanc={"Database": "/worklists"}).directory is None

    def test_isens_section_comes_first(self) -> None:
        assert self.read({"Directory": "/a"}, {"Enable": True, "Database": "/b"}).directory == Path("/a")
        assert self.read({"Enable": False, "Directory": "/a"}, {"Enable": True, "Database": "/b"}).directory is None

    def test_options_of_the_newer_plugin_without_effect_are_named(self) -> None:
        section = {"Enable": True, "Directory": "/w", "LogMatchedWorklistIds": True}
        warnings = accepted(changed("Isen.Worklists", Removed) | {"Worklists": section}).warnings
        assert any(warning.startswith("Worklists.LogMatchedWorklistIds: is ignored") for warning in warnings)

    def test_options_of_the_newer_plugin_keep_their_meaning_in_either_section(self) -> None:
        options = {"DeleteWorklistsOnStableStudy": True, "HousekeepingInterval": 5, "Directory": "/w"}
        for settings in (self.read(options), self.read(orthanc={"Enable": True, **options})):
            assert settings.delete_worklists_on_stable_study
            assert settings.housekeeping_interval == 5
        managed = {"ManagedDirectory": "/m", "DeleteWorklistsDelay": 24, "SetStudyInstanceUidIfMissing": False}
        settings = self.read(managed)
        assert (settings.delete_worklists_delay, settings.set_study_instance_uid_if_missing) == (24, False)

    def test_files_are_deleted_by_default_only_where_the_newer_plugin_would_have(self) -> None:
        assert self.read(orthanc={"Enable": True, "Directory": "/w"}).delete_worklists_on_stable_study
        assert not self.read(orthanc={"Enable": True, "Database": "/w"}).delete_worklists_on_stable_study
        assert not self.read({"Directory": "/w"}).delete_worklists_on_stable_study

    @pytest.mark.parametrize(
        ("section", "path"),
        [
            ({}, "Directory"),
            ({"Directory": ""}, "Directory"),
            ({"Directory": "w"}, "Directory"),
            ({"Database": "w"}, "Database"),
            ({"Directory": "/a", "Database": "/a"}, "Database"),
            ({"Directory": "/a", "LimitAnswers": -1}, "LimitAnswers"),
            ({"Directory": "/a", "SaveInOrthancDatabase": True}, "SaveInOrthancDatabase"),
            ({"Directory": "/a", "FilterIssuerAets": True}, "FilterIssuerAets"),
            ({"Directory": "/a", "Enable": 1}, "Enable"),
        ],
    )
    def test_mistakes(self, section: dict[str, Any], path: str) -> None:
        assert only_problem(changed("Isen.Worklists", section))[0] == f"Isen.Worklists.{path}"


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"DelayedDeletion": {"Enable": True}}, "DelayedDeletion"),
        ({"AdvancedStorage": {"Enable": True}}, "AdvancedStorage"),
        ({"GoogleCloudStorage": {"BucketName": "x"}}, "GoogleCloudStorage"),
        ({"StoreDicom": False}, "StoreDicom"),
        ({"HttpsVerifyPeers": False}, "HttpsVerifyPeers"),
    ],
)
def test_options_that_mean_something_else_with_isen_are_worth_a_warning(options: dict[str, Any], path: str) -> None:
    assert any(warning.startswith(f"{path}:") for warning in accepted(GOOD | options).warnings)


def test_plugins_that_are_switched_off_are_no_warning() -> None:
    assert not accepted(GOOD | {"DelayedDeletion": {"Enable": False}, "AdvancedStorage": {}}).warnings
