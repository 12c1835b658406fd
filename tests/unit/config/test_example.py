"""`config/orthanc.json`, the example an administrator copies: complete, right, and true about the defaults."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from config.loader import load, settable_options
from config.options import From, Unit
from config.orthanc_files import parse, read_files, without_comments
from config.section import option_name
from config.settings import (
    DicomSettings,
    EncryptionSettings,
    Frozen,
    Hl7Settings,
    OrthancSettings,
    StorageSettings,
    WorklistSettings,
)

EXAMPLE = Path(__file__).parents[3] / "config" / "orthanc.json"
TEXT = EXAMPLE.read_text()
COMMENTED_OPTION = re.compile(r'^(\s*)// ("\w+": ["\d\[{].*)$', re.MULTILINE)
NO_DEFAULT = {
    "BucketName",
    "Region",
    "AccessKey",
    "SecretKey",
    "SpoolDirectory",
    "CacheDirectory",
    "Directory",
    "ManagedDirectory",
    "ReceiveDirectory",
    "Encryption",
    "CurrentKey",
    "Keys",
}
OWN_SECTIONS: dict[str, type[Frozen]] = {
    "Storage": StorageSettings,
    "Storage.Encryption": EncryptionSettings,
    "Dicom": DicomSettings,
    "Worklists": WorklistSettings,
    "Hl7": Hl7Settings,
}


@pytest.fixture(params=["as it is", "with every commented option"])
def example(request: pytest.FixtureRequest) -> dict[str, Any]:
    text = TEXT if request.param == "as it is" else COMMENTED_OPTION.sub(r"\1\2", TEXT)
    content = parse(without_comments(text.replace("${ISEN_ACCESS_KEY:-}", "").replace("${ISEN_SECRET_KEY:-}", "")))
    assert isinstance(content, dict)
    return content


@pytest.fixture
def complete() -> dict[str, Any]:
    content = parse(without_comments(COMMENTED_OPTION.sub(r"\1\2", TEXT)))
    assert isinstance(content, dict)
    return content


def test_it_is_accepted(example: dict[str, Any]) -> None:
    assert load(example).settings.storage.bucket_name == "dicom"


def test_it_asks_for_no_variable_but_its_secrets() -> None:
    keys = {"ISEN_ACCESS_KEY": "AKIA", "ISEN_SECRET_KEY": "hidden"}
    for environment in ({}, keys):
        files = read_files([EXAMPLE], environment)
        assert files.warnings == ()
    settings = load(files.configuration).settings.storage
    assert settings.access_key == "AKIA"


def test_every_option_of_isen_is_in_it(complete: dict[str, Any]) -> None:
    for path, options in settable_options().items():
        section = complete
        for name in path.split("."):
            section = section[name]
        assert set(section) == options, path


def test_the_values_in_isens_sections_are_the_defaults(complete: dict[str, Any]) -> None:
    for name, model in OWN_SECTIONS.items():
        section = complete["Isen"]
        for part in name.split("."):
            section = section[part]
        for option, default in defaults(model).items():
            if option not in NO_DEFAULT:
                assert section[option] == default, option


def test_orthancs_options_that_isen_reads_have_isens_defaults(complete: dict[str, Any]) -> None:
    found = 0
    for model in (DicomSettings, OrthancSettings):
        for information in model.model_fields.values():
            for mark in information.metadata:
                if isinstance(mark, From) and mark.option in complete:
                    assert complete[mark.option] == information.default, mark.option
                    found += 1
    assert found > 15


def defaults(model: type[Frozen]) -> dict[str, Any]:
    """Option → its default as an administrator writes it."""
    written = {}
    for field, information in model.model_fields.items():
        unit = next((mark.size for mark in information.metadata if isinstance(mark, Unit)), 1)
        option = option_name(information.alias or field, information)
        if option in settable_options()[f"Isen.{next(n for n, m in OWN_SECTIONS.items() if m is model)}"]:
            default = information.default
            default = list(default) if isinstance(default, tuple) else default
            written[option] = default // unit if unit > 1 else default
    return written
