"""No secret is ever repeated: not in messages, warnings, representations or logs, wherever it was written."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from config.loader import Capabilities, load, settable_options
from config.problems import ConfigurationError
from config.settings import Settings
from tests.unit.config.samples import GOOD, SECRET, accepted, changed

NATIVE_OPTIONS = ("SecretKey", "Tags", "StorageClass", "HybridMode", "StorageEncryption", "EnableAwsSdkLogs", "Comment")
NATIVE = {
    "DicomServerEnabled": False,
    "StorageDirectory": "/var/lib/orthanc",
    "AwsS3Storage": {"BucketName": "dicom", "Region": "eu-west-1"},
}
PATHS = [
    *(f"{section}.{option}" for section, options in settable_options().items() for option in sorted(options)),
    *(f"{section}.{option}" for section in ("Isen.Storage", "AwsS3Storage") for option in NATIVE_OPTIONS),
    "DicomAet",
    "DicomModalities.ct",
    "DicomPort",
    "DicomTlsCiphersAccepted",
    "Dictionary",
    "HttpPort",
    "OverwriteInstances",
    "RegisteredUsers.alice",
]


def everything_said(configuration: Any) -> str:
    try:
        loaded = load(configuration, Capabilities(allow_threads=True))
    except ConfigurationError as error:
        return f"{error} {error!r} {error.problems} {error.warnings} {error.__cause__!r} {error.__context__!r}"
    return f"{loaded!r} {loaded.settings} {loaded.warnings}"


@given(
    path=st.sampled_from(PATHS),
    shape=st.sampled_from(
        [lambda s: s, lambda s: [s], lambda s: {"X": s}, lambda s: [s, s, s], lambda s: "http://u:" + s]
    ),
    other=st.sampled_from(PATHS),
    base=st.sampled_from([GOOD, NATIVE]),
    value=st.none() | st.booleans() | st.integers() | st.text(max_size=5),
)
def test_a_secret_shows_nowhere_however_wrong_the_configuration_is(
    path: str, shape: Any, other: str, base: dict[str, Any], value: Any
) -> None:
    configuration = base
    for place, content in ((other, value), (path, shape(SECRET))):
        try:
            configuration = changed(place, content, configuration)
        except (AttributeError, TypeError):
            continue  # the other value stands where a section is needed
    # A folder, a host or a name is no secret: only places that hold one, or refuse the value, are searched.
    said = everything_said(configuration)
    if said.startswith("Loaded"):
        assert "SecretKey" not in path or SECRET not in said
    else:
        assert SECRET not in said


def test_settings_mask_the_key_wherever_people_look() -> None:
    settings = accepted(GOOD).settings
    for form in (repr(settings), str(settings), f"{settings.storage}", str(settings.model_dump())):
        assert SECRET not in form
    assert json.loads(settings.model_dump_json())["storage"]["secret_key"] == SECRET  # the pipe needs it


def test_the_validation_library_is_told_not_to_show_its_input() -> None:
    broken = json.dumps({"Python": 5, "Storage": {"SecretKey": SECRET, "Oops": SECRET}})
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate_json(broken)
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value)


def test_logging_settings_masks_the_key(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        logging.getLogger(__name__).info("started settings=%s", accepted(GOOD).settings)
    assert SECRET not in caplog.text
