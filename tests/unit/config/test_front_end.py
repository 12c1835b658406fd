"""The configuration of a front end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from config.front_end import LoadedFrontEnd, load_front_end
from config.loader import load
from config.problems import ConfigurationError
from config.settings import ScpSettings
from tests.unit.config.samples import GOOD

PASSWORD = "made-up-and-secret"
ORTHANCS = [
    {"Url": "http://orthanc-1:8042/", "Username": "front", "Password": PASSWORD},
    {"Url": "https://orthanc-2.example.org/archive"},
]
FRONT_END = {"Orthancs": ORTHANCS, "Directory": "/var/lib/isen"}


def loaded(front_end: dict[str, Any] = FRONT_END, isen: dict[str, Any] | None = None, **root: Any) -> LoadedFrontEnd:
    configuration = {**root, "Isen": {"FrontEnd": front_end, **(isen or {})}}
    return load_front_end(configuration, Path("/etc/isen/front-end.json"))


def mistakes(front_end: dict[str, Any] = FRONT_END, isen: dict[str, Any] | None = None, **root: Any) -> dict[str, str]:
    with pytest.raises(ConfigurationError) as refused:
        loaded(front_end, isen, **root)
    assert PASSWORD not in str(refused.value)
    return {problem.path: problem.message for problem in refused.value.problems}


def test_orthancs_own_options_keep_their_meaning() -> None:
    """`DicomServerEnabled` means nothing here: there is no Orthanc whose server could be on."""
    scp = loaded(
        DicomAet="HOSPITAL", DicomPort=11112, DicomModalities={"ct": ["CT1", "192.0.2.7", 104]}, OverwriteInstances=True
    ).scp
    assert scp.dicom
    assert (scp.dicom.ae_title, scp.dicom.port, scp.dicom.modalities[0].ae_title) == ("HOSPITAL", 11112, "CT1")
    assert scp.orthanc.overwrite_instances
    assert scp.directory == Path("/var/lib/isen")


def test_orthancs_are_taken_in_their_order() -> None:
    servers = loaded().scp.orthanc.servers
    assert [server.url for server in servers] == ["http://orthanc-1:8042", "https://orthanc-2.example.org/archive"]


def test_passwords_reach_the_workers_and_no_log() -> None:
    scp = loaded().scp
    assert PASSWORD not in repr(scp)
    assert PASSWORD not in str(scp.model_dump())
    message = json.loads(scp.model_dump_json(by_alias=True))
    assert message["Orthanc"]["Servers"][0]["Password"] == PASSWORD
    assert ScpSettings.model_validate(message) == scp


def test_every_mistake_is_reported_at_once() -> None:
    broken = {
        "Orthancs": [{"Url": "orthanc-1"}, {"Url": "http://u:p@host"}, {"Url": "http://host", "Username": "front"}],
        "Directory": "isen",
        "HealtPort": 1,
    }
    isen = {"Storage": {}, "Worklists": {"ManagedDirectory": "/somewhere"}, "Dicom": {"Enabled": False}}
    found = mistakes(broken, isen)
    assert found.keys() >= {
        "Isen.Storage",
        "Isen.FrontEnd.HealtPort",
        "Isen.FrontEnd.Directory",
        "Isen.Worklists.ManagedDirectory",
        "Isen.Dicom.Enabled",
        'Isen.FrontEnd.Orthancs[0]["Url"]',
        'Isen.FrontEnd.Orthancs[1]["Url"]',
    }


def test_a_user_without_password_is_refused() -> None:
    assert mistakes({**FRONT_END, "Orthancs": [{"Url": "http://host", "Username": "front"}]}).keys() == {
        "Isen.FrontEnd.Orthancs[0]"
    }


def test_no_orthanc_is_refused() -> None:
    assert mistakes({**FRONT_END, "Orthancs": []}).keys() == {"Isen.FrontEnd.Orthancs"}
    assert mistakes({"Directory": "/var/lib/isen"}).keys() == {"Isen.FrontEnd.Orthancs"}


class TestFrontEndUsers:
    """`Isen.FrontEndUsers` of Orthanc's configuration."""

    def test_are_users_that_orthanc_tells_apart(self) -> None:
        users = {"RegisteredUsers": {"front": "x"}, "AuthenticationEnabled": True}
        configuration = {**GOOD, **users, "Isen": {**GOOD["Isen"], "FrontEndUsers": ["front"]}}
        assert load(configuration).settings.front_end_users == ("front",)

    @pytest.mark.parametrize(
        ("changes", "names", "path"),
        [
            ({"RegisteredUsers": {"front": "x"}}, ["front"], "AuthenticationEnabled"),
            ({"RegisteredUsers": {"front": "x"}, "AuthenticationEnabled": True}, ["frnt"], "Isen.FrontEndUsers"),
            ({"AuthenticationEnabled": True}, ["front"], "Isen.FrontEndUsers"),
            ({"RegisteredUsers": {"front": "x"}, "AuthenticationEnabled": True}, [1], "Isen.FrontEndUsers"),
            ({}, "front", "Isen.FrontEndUsers"),
        ],
    )
    def test_who_cannot_be_told_apart_is_refused(self, changes: dict[str, Any], names: Any, path: str) -> None:
        configuration = {**GOOD, **changes, "Isen": {**GOOD["Isen"], "FrontEndUsers": names}}
        with pytest.raises(ConfigurationError) as refused:
            load(configuration)
        assert [problem.path for problem in refused.value.problems] == [path]
