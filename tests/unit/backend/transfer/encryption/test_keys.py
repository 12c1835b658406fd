"""Where keys come from, and what is refused in their place."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from backend.transfer.encryption.keys import Keyring, read_key
from backend.transfer.object_store.errors import ObjectOfAnotherKey, UnusableSettings
from tests.fakes.encryption import SECRETS, keyring

SECRET = bytes(range(32))
TEXT = base64.b64encode(SECRET).decode()


def key_file(folder: Path, text: str = TEXT + "\n", mode: int = 0o400) -> str:
    path = folder / "key"
    path.write_text(text)
    path.chmod(mode)
    return str(path)


@pytest.mark.parametrize("mode", [0o400, 0o600])
def test_a_file_that_only_its_owner_can_use_is_read(tmp_path: Path, mode: int) -> None:
    assert read_key(key_file(tmp_path, mode=mode), "K") == SECRET


@pytest.mark.parametrize("mode", [0o440, 0o404, 0o620, 0o644, 0o660, 0o601])
def test_a_file_that_others_can_use_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(UnusableSettings, match=r"K: other users may use .*chmod 400"):
        read_key(key_file(tmp_path, mode=mode), "K")


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root")
def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    path = key_file(tmp_path)
    os.chown(path, 12345, 12345)
    with pytest.raises(UnusableSettings, match="belongs to another user"):
        read_key(path, "K")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(UnusableSettings, match=f"K: {path} cannot be read"):
            read_key(str(path), "K")


def test_a_variable_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISEN_TEST_KEY", TEXT)
    assert read_key("env:ISEN_TEST_KEY", "K") == SECRET
    monkeypatch.delenv("ISEN_TEST_KEY")
    with pytest.raises(UnusableSettings, match="ISEN_TEST_KEY is not set"):
        read_key("env:ISEN_TEST_KEY", "K")


@pytest.mark.parametrize(
    "text", ["", "x", TEXT[:-4], TEXT + TEXT, "!" + TEXT[1:], base64.b64encode(bytes(32)).decode(), SECRET.hex()]
)
def test_what_is_no_key_is_refused_and_not_repeated(tmp_path: Path, text: str) -> None:
    with pytest.raises(UnusableSettings, match="openssl rand") as refused:
        read_key(key_file(tmp_path, text), "K")
    assert text == "" or len(text) == 1 or text not in str(refused.value)
    assert refused.value.__cause__ is None


def test_each_key_has_a_check_value_that_is_not_the_key() -> None:
    values = keyring().check_values()
    assert set(values) == set(SECRETS)
    assert len(set(values.values())) == len(values)
    assert all(len(value) == 32 for value in values.values())


def test_a_key_is_found_by_id_and_check_value_or_the_difference_is_told() -> None:
    keys = keyring()
    right = bytes.fromhex(keys.check_values()["2025"])
    assert keys.find("2025", right, "name").secret == SECRETS["2025"]
    with pytest.raises(ObjectOfAnotherKey, match="'2024', which is not in"):
        keys.find("2024", right, "name")
    with pytest.raises(ObjectOfAnotherKey, match="another key '2026'"):
        keys.find("2026", right, "name")
    assert not ObjectOfAnotherKey.concerns_all
    assert not ObjectOfAnotherKey.retry_helps


def test_the_current_key_is_one_of_them() -> None:
    assert Keyring("2025", SECRETS).current.id == "2025"
    with pytest.raises(KeyError):
        Keyring("2024", SECRETS)
