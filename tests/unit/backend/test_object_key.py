"""Names and keys are those of Orthanc's own S3 plugin."""

from __future__ import annotations

import pytest

from backend.object_key import attachment_name, is_attachment_name, object_key

UUID = "5ee9a8b6-8a1e-4a3c-9e0e-0f1d2c3b4a59"


@pytest.mark.parametrize(
    ("content_type", "extension"), [(0, ".unk"), (1, ".dcm"), (2, ".json"), (3, ".dcm.head"), (1024, ".unk")]
)
def test_flat_names_carry_the_extension_of_their_content_type(content_type: int, extension: str) -> None:
    name = attachment_name(UUID, content_type, legacy=False)
    assert name == UUID + extension
    assert is_attachment_name(name)
    assert object_key(name, root_path="", legacy=False) == name
    assert object_key(name, root_path="a/b", legacy=False) == f"a/b/{name}"


def test_legacy_keys_are_folders_without_extension() -> None:
    name = attachment_name(UUID, 1, legacy=True)
    assert name == UUID
    assert object_key(name, root_path="", legacy=True) == f"5e/e9/{UUID}"
    assert object_key(name, root_path="root", legacy=True) == f"root/5e/e9/{UUID}"


@pytest.mark.parametrize("uuid", ["", "../../etc/passwd", UUID + "/", UUID.upper(), UUID[:-1], UUID + "\n"])
def test_what_is_no_uuid_never_becomes_a_name(uuid: str) -> None:
    with pytest.raises(ValueError, match="UUID"):
        attachment_name(uuid, 1, legacy=False)
    assert not is_attachment_name(uuid + ".dcm")


@pytest.mark.parametrize("name", [".", "..", "lock", UUID + ".tmp", "." + UUID, UUID + ".dcm~"])
def test_stray_files_are_told_apart(name: str) -> None:
    assert not is_attachment_name(name)
