"""Encryption with a real Orthanc: nothing in the bucket is an image, keys are rotated, wrong ones stop the start."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
from pydicom import dcmread

from backend.stack.orthanc import NotStarted
from backend.stack.processes import wait_until
from tests.fakes.encryption import flipped
from tests.integration.archive import NOW, Bucket, found, isen, key_of
from tests.integration.harness import Node, NodeMaker

REGISTER = "isen-encryption-keys"
MAGIC = b"\x89Isen\r\n\x1a"
VARIABLE = "ISEN_TEST_ENCRYPTION_KEY"


def key_text(name: str) -> str:
    return base64.b64encode(sha256(name.encode()).digest()).decode()


def key_file(folder: Path, name: str, *, of: str = "") -> str:
    """A file with the made-up key `name`, or with another one under its name."""
    path = folder / f"{name}.key"
    path.unlink(missing_ok=True)
    path.write_text(key_text(of or name) + "\n")
    path.chmod(0o400)
    return str(path)


def with_keys(current: str, keys: Mapping[str, str], **options: Any) -> dict[str, Any]:
    return {
        "Isen": {"Storage": {"Encryption": {"Enabled": True, "CurrentKey": current, "Keys": dict(keys), **options}}}
    }


def set_encryption(node: Node, current: str, keys: Mapping[str, str], **options: Any) -> None:
    section = with_keys(current, keys, **options)["Isen"]["Storage"]["Encryption"]
    node.orthanc.settings["Isen"]["Storage"]["Encryption"] = section


def restarted_without_copies(node: Node) -> None:
    node.stop()
    node.set_aside("spool", "cache")
    node.start()


def pixels(files: Iterable[bytes]) -> dict[str, bytes]:
    """SOPInstanceUID → pixel data; the header of a file is written anew where it is received."""
    return {image.SOPInstanceUID: image.PixelData for image in (dcmread(BytesIO(content)) for content in files)}


def contents(*paths: Path) -> dict[str, bytes]:
    return pixels(path.read_bytes() for path in paths)


def everything(node: Node) -> dict[str, bytes]:
    return pixels(node.file(instance) for instance in node.instances())


def key_ids(node: Node) -> dict[str, str]:
    """Key → id of the master key that the header of its object names."""
    bodies = {key: node.s3.object(node.bucket, key) for key in set(node.keys()) - {REGISTER}}
    return {key: body[10:42].rstrip(b"\0").decode() for key, body in bodies.items()}


def refusal(node: Node) -> str:
    with pytest.raises(NotStarted) as refused:
        node.start()
    node.wait_for_the_end()
    return str(refused.value)


@pytest.mark.timeout(240)
def test_images_are_encrypted_in_the_bucket_and_come_back_and_keys_are_rotated(
    make_node: NodeMaker, tmp_path: Path, ten: list[Path], thumbnails: list[Path]
) -> None:
    keys = {"2025": key_file(tmp_path, "2025")}
    node = make_node(with_keys("2025", keys)).start()
    assert node.peer.send(*ten).sent == len(ten)
    node.wait_until_uploaded()
    bodies = [node.s3.object(node.bucket, key) for key in set(node.keys()) - {REGISTER}]
    assert len(bodies) >= len(ten)
    assert all(body.startswith(MAGIC) and b"DICM" not in body for body in bodies)
    assert not any(ten[0].read_bytes()[-64:] in body for body in bodies)

    restarted_without_copies(node)
    assert everything(node) == contents(*ten)
    for options in (NOW, (*NOW, "--read-data")):
        code, document = isen(node, "verify", *options)
        assert (code, document["Findings"]) == (0, [])

    keys["2026"] = key_file(tmp_path, "2026")
    node.stop()
    set_encryption(node, "2026", keys)
    node.start()
    assert node.peer.send(*thumbnails).sent == len(thumbnails)
    node.wait_until_uploaded()
    assert set(key_ids(node).values()) == {"2025", "2026"}
    restarted_without_copies(node)
    assert everything(node) == contents(*ten, *thumbnails)

    code, document = isen(node, "encrypt")
    assert (code, document["Counts"]) == (0, {"encrypted": len(bodies), "current": len(key_ids(node)) - len(bodies)})
    assert set(key_ids(node).values()) == {"2026"}
    node.stop()
    set_encryption(node, "2026", {"2026": keys["2026"]})
    node.set_aside("spool", "cache")
    node.start()
    assert everything(node) == contents(*ten, *thumbnails)
    assert "encryption_key_absent ids=2025" in node.orthanc.log.read_text()


@pytest.mark.timeout(240)
def test_a_wrong_key_or_none_stops_the_start_and_no_key_shows_anywhere(
    make_node: NodeMaker, tmp_path: Path, thumbnails: list[Path]
) -> None:
    node = make_node(with_keys("2026", {"2026": key_file(tmp_path, "2026")})).start()
    assert node.peer.send(thumbnails[0]).sent == 1
    node.wait_until_uploaded()
    before = set(node.keys())
    node.stop()

    key_file(tmp_path, "2026", of="another")
    assert "not the keys that the bucket was encrypted with: 2026" in refusal(node)
    os.chmod(tmp_path / "2026.key", 0o644)
    assert "Isen.Storage.Encryption.Keys.2026: other users may use" in refusal(node)
    (tmp_path / "2026.key").unlink()
    assert "Isen.Storage.Encryption.Keys.2026: " in refusal(node)
    node.orthanc.settings["Isen"]["Storage"]["Encryption"] = {"Enabled": False}
    assert "encrypted with the keys 2026, but Isen.Storage.Encryption is missing or off" in refusal(node)
    assert set(node.keys()) == before

    set_encryption(node, "2026", {"2026": f"env:{VARIABLE}"})
    node.orthanc.environment = {VARIABLE: key_text("2026")}
    node.start()
    environments = {command: Path(f"/proc/{pid}/environ").read_bytes() for pid, command in node.processes().items()}
    holders = [command for command, environment in environments.items() if VARIABLE.encode() in environment]
    assert len([command for command in holders if "-m backend.transfer" in command]) == 1
    assert all("-m backend.transfer" in command or "Orthanc" in command for command in holders)
    assert len(environments) > len(holders)
    for secret in (key_text("2026"), key_text("another")):
        assert secret not in node.orthanc.log.read_text()
        assert secret not in str(node.status())
        assert not any(secret in command for command in environments)


@pytest.mark.timeout(240)
def test_what_was_stored_before_stays_readable_until_it_is_encrypted(
    make_node: NodeMaker, tmp_path: Path, thumbnails: list[Path]
) -> None:
    node = make_node().start()
    assert node.peer.send(*thumbnails).sent == len(thumbnails)
    node.wait_until_uploaded()
    node.stop()
    node.set_aside("spool", "cache")

    keys = {"2026": key_file(tmp_path, "2026")}
    set_encryption(node, "2026", keys)
    node.start()
    code, document = isen(node, "verify", "--read-data", *NOW)
    assert code == 1
    assert set(found(document).values()) == {"unreadable"}
    node.stop()
    set_encryption(node, "2026", keys, AcceptUnencryptedBefore=datetime.now(UTC).isoformat())
    node.set_aside("spool", "cache")
    node.start()
    assert everything(node) == contents(*thumbnails)
    assert isen(node, "encrypt")[0] == 0
    assert set(key_ids(node).values()) == {"2026"}
    node.stop()
    set_encryption(node, "2026", keys)
    node.set_aside("spool", "cache")
    node.start()
    assert everything(node) == contents(*thumbnails)
    assert isen(node, "verify", "--read-data", *NOW)[1]["Findings"] == []


@pytest.mark.timeout(240)
def test_an_unencrypted_a_swapped_and_a_damaged_object_are_refused(
    make_node: NodeMaker, tmp_path: Path, thumbnails: list[Path]
) -> None:
    keys = {"2026": key_file(tmp_path, "2026")}
    node = make_node(with_keys("2026", keys)).start()
    assert node.peer.send(*thumbnails[:4]).sent == 4
    node.wait_until_uploaded()
    instances = node.instances()
    bucket = Bucket(node)
    one, two, three, four = (key_of(node, instance) for instance in instances)
    foreign = thumbnails[9].read_bytes()
    bucket.put(one, foreign, Metadata={"sha256": sha256(foreign).hexdigest()})
    bucket.put(two, bucket.get(three))
    bucket.put(three, flipped(bucket.get(three), -1))
    restarted_without_copies(node)
    for instance in instances[:3]:
        with pytest.raises(HTTPError):
            node.file(instance)
    assert pixels([node.file(instances[3])]).items() <= contents(*thumbnails).items()
    wait_until(lambda: counters(node)["corrupted"] >= 2, 10, "the transfer process has reported both")
    assert counters(node)["unencrypted"] >= 1
    assert found(isen(node, "verify", "--read-data", *NOW)[1]) == {
        one: "unreadable",
        two: "corrupted",
        three: "corrupted",
    }
    assert four not in found(isen(node, "verify", *NOW)[1])


def counters(node: Node) -> dict[str, int]:
    found: dict[str, int] = node.status()["Storage"]["Counters"]
    return found
