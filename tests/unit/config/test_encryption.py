"""`Encryption` and the native plugin's `StorageEncryption`: where the keys are, never the keys."""

from __future__ import annotations

from typing import Any

import pytest

from config.loader import Loaded
from config.settings import EncryptionSettings
from tests.unit.config.samples import GOOD, Removed, accepted, changed, only_problem, problems

OWN: dict[str, Any] = {"CurrentKey": "2026", "Keys": {"2026": "/etc/isen/2026.key", "2025": "env:ISEN_KEY_2025"}}
ENCRYPTED = changed("Isen.Storage.Encryption", OWN)
MASTER: dict[str, Any] = {"Enable": True, "MasterKey": [3, "/etc/orthanc/3.key"]}


def encryption(option: str, value: Any) -> dict[str, Any]:
    return changed(f"Isen.Storage.Encryption.{option}", value, ENCRYPTED)


def native(value: Any) -> dict[str, Any]:
    """The native plugin's section, with both kinds of encryption."""
    storage = {"BucketName": "dicom", "Region": "eu-west-1", "Encryption": OWN, "StorageEncryption": value}
    return {"DicomServerEnabled": False, "StorageDirectory": "/var/lib/orthanc", "AwsS3Storage": storage}


def own(loaded: Loaded) -> EncryptionSettings:
    assert loaded.settings.storage.encryption
    return loaded.settings.storage.encryption


def test_the_keys_are_named_and_one_is_current() -> None:
    settings = own(accepted(ENCRYPTED))
    assert settings.current_key == "2026"
    assert settings.keys == OWN["Keys"]
    assert settings.accept_unencrypted_before == ""


def test_it_is_off_unless_it_is_there_and_enabled() -> None:
    assert accepted(GOOD).settings.storage.encryption is None
    for enabled in (True, False):
        assert (accepted(encryption("Enabled", enabled)).settings.storage.encryption is not None) is enabled


@pytest.mark.parametrize("moment", ["", "2026-01-02T03:04:05Z", "2026-01-02T03:04:05+02:00"])
def test_a_moment_of_the_past_may_be_given(moment: str) -> None:
    assert own(accepted(encryption("AcceptUnencryptedBefore", moment))).accept_unencrypted_before == moment


@pytest.mark.parametrize(
    ("option", "value", "path", "sentence"),
    [
        ("CurrentKey", Removed, "CurrentKey", "is missing"),
        ("CurrentKey", "2024", "CurrentKey", "is not one of the Keys"),
        ("CurrentKey", "a key", "CurrentKey", "1 to 32 letters"),
        ("Keys", Removed, "Keys", "is missing"),
        ("Keys", ["/etc/isen/2026.key"], "Keys", "must be an object"),
        ("Keys", {"2026": "relative.key"}, 'Keys["2026"]', "absolute path"),
        ("Keys", {"2026": "env:"}, 'Keys["2026"]', "env:NAME"),
        ("Keys", {"2026": "q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA="}, 'Keys["2026"]', "absolute path"),
        ("Keys", {"x" * 33: "/etc/isen/2026.key"}, None, "1 to 32 letters"),
        ("AcceptUnencryptedBefore", "yesterday", "AcceptUnencryptedBefore", "time zone"),
        ("AcceptUnencryptedBefore", "2026-01-02T03:04:05", "AcceptUnencryptedBefore", "time zone"),
        ("AcceptUnencryptedBefore", "2999-01-01T00:00:00Z", "AcceptUnencryptedBefore", "lies in the future"),
        ("Enabled", "yes", "Enabled", "must be true or false"),
        ("Key", "x", "Key", "Did you mean Keys?"),
    ],
)
def test_what_cannot_be_used_is_refused_without_a_word_of_its_value(
    option: str, value: Any, path: str | None, sentence: str
) -> None:
    found, message = only_problem(encryption(option, value))
    assert path is None or found == f"Isen.Storage.Encryption.{path}"
    assert sentence in message
    assert "q83v" not in found + message


def test_a_section_that_is_none_is_refused() -> None:
    assert only_problem(changed("Isen.Storage.Encryption", "on"))[0] == "Isen.Storage.Encryption"


def test_master_keys_of_the_native_plugin_are_taken_from_its_section() -> None:
    section = {**MASTER, "PreviousMasterKeys": [[1, "/etc/orthanc/1.key"]], "MaxConcurrentInputSize": 1024}
    settings = accepted(native(section)).settings.storage
    assert settings.storage_encryption
    assert settings.storage_encryption.keys == {"3": "/etc/orthanc/3.key", "1": "/etc/orthanc/1.key"}
    assert accepted(native({**MASTER, "Enable": False})).settings.storage.storage_encryption is None


def test_without_keys_of_ours_the_native_plugins_would_leave_new_images_unencrypted() -> None:
    configuration = changed("AwsS3Storage.Encryption", Removed, native(MASTER))
    path, message = only_problem(configuration)
    assert path == "AwsS3Storage.Encryption"
    assert "format of its own" in message


@pytest.mark.parametrize(
    "section", [{"MasterKey": [1]}, {"MasterKey": ["1", "/k"]}, {"MasterKey": [-1, "/k"]}, {"Enable": True}]
)
def test_a_master_key_is_a_number_and_a_path(section: dict[str, Any]) -> None:
    assert "AwsS3Storage.StorageEncryption.MasterKey" in problems(native(section))


@pytest.mark.parametrize("previous", [5, [[1]], ["/k"], [[2**32, "/k"]]])
def test_previous_master_keys_are_pairs(previous: Any) -> None:
    found = problems(native({**MASTER, "PreviousMasterKeys": previous}))
    assert "AwsS3Storage.StorageEncryption.PreviousMasterKeys" in found
