"""Objects that somebody, or a disk of the server, has altered: never served, always reported, all found."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError

import pytest
from pydicom import dcmread

from backend.stack.processes import wait_until
from tests.integration.archive import NOW, Bucket, found, isen, key_of, store_images
from tests.integration.harness import Node, NodeMaker

UNTOUCHED = 30  # images among the altered ones
RETRIEVED = 16  # altered images in a study of its own, because a C-GET reads one after the other
SIDE = 16  # pixels: what counts here is how many there are
READERS = 8  # at once


@dataclass
class Victim:
    """An object to alter, and another of equal size whose bytes are at hand."""

    bucket: Bucket
    key: str
    other: str
    chance: random.Random

    def put(self, content: bytes) -> None:
        """Other bytes, and everything else as it was: what a failing disk leaves."""
        headers = self.bucket.client.head_object(Bucket=self.bucket.name, Key=self.key)
        self.bucket.put(self.key, content, Metadata=headers["Metadata"])

    @property
    def content(self) -> bytes:
        return self.bucket.get(self.key)


def flip_a_bit(victim: Victim) -> None:
    content = bytearray(victim.content)
    content[victim.chance.randrange(len(content))] ^= 1 << victim.chance.randrange(8)
    victim.put(bytes(content))


def flip_a_bit_of_the_last_byte(victim: Victim) -> None:
    victim.put(victim.content[:-1] + bytes([victim.content[-1] ^ 1]))


def truncate(victim: Victim) -> None:
    victim.put(victim.content[: victim.chance.randrange(1, len(victim.content))])


def extend(victim: Victim) -> None:
    victim.put(victim.content + victim.chance.randbytes(victim.chance.randrange(1, 2000)))


def empty(victim: Victim) -> None:
    victim.put(b"")


def zero_a_block(victim: Victim) -> None:
    victim.put(victim.content[:256] + bytes(256) + victim.content[512:])


def give_it_the_bytes_of_another(victim: Victim) -> None:
    victim.put(victim.bucket.get(victim.other))


def copy_another_over_it(victim: Victim) -> None:
    """With everything that belongs to the other: what is there is sound, and another patient's."""
    source = {"Bucket": victim.bucket.name, "Key": victim.other}
    victim.bucket.client.copy_object(Bucket=victim.bucket.name, Key=victim.key, CopySource=source)


ALTERATIONS: tuple[Callable[[Victim], None], ...] = (
    *(flip_a_bit, flip_a_bit_of_the_last_byte, truncate, extend, empty, zero_a_block),
    *(give_it_the_bytes_of_another, copy_another_over_it),
)


def alter(node: Node, instances: list[str], keys: dict[str, str], source: str) -> dict[str, str]:
    """Alter the objects of these instances, each in one of all ways; key → what was done.

    `source` is the instance whose object is put into others' places.
    """
    bucket, seed = Bucket(node), random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    victims = [Victim(bucket, keys[one], keys[source], random.Random(seed + at)) for at, one in enumerate(instances)]
    deeds = [ALTERATIONS[at % len(ALTERATIONS)] for at in range(len(victims))]
    with ThreadPoolExecutor(READERS) as pool:
        list(pool.map(lambda deed, victim: deed(victim), deeds, victims))
    return {victim.key: deed.__name__ for victim, deed in zip(victims, deeds, strict=True)}


def read(node: Node, instance: str) -> bytes | None:
    """`/instances/{id}/file`; None: refused."""
    try:
        return node.file(instance)
    except HTTPError:
        return None


def assert_altered_objects_do_no_harm(make_node: NodeMaker, folder: Path, count: int) -> None:
    node = make_node({"MaximumStorageCacheSize": 0}).start()
    retrieved = store_images(node, folder / "retrieved", RETRIEVED + 4, side=SIDE)
    stored = retrieved | store_images(node, folder / "images", count - RETRIEVED + UNTOUCHED, side=SIDE)
    keys = {instance: key_of(node, instance) for instance in stored}
    node.stop()
    node.set_aside("cache", "spool")  # there are no other copies
    node.start()
    altered = [*list(retrieved)[:RETRIEVED], *(one for one in stored if one not in retrieved)][:count]
    sound = [instance for instance in stored if instance not in altered]
    deeds = alter(node, altered, keys, source=sound[0])
    assert set(deeds.values()) == {deed.__name__ for deed in ALTERATIONS}
    assert_verify_finds(node, deeds)
    assert_never_served(node, stored, {instance: deeds.get(keys[instance], "") for instance in stored})
    assert_reported(node, deeds)
    assert_never_sent(node, folder / "received", [retrieved[one] for one in retrieved if one in sound])


def assert_verify_finds(node: Node, deeds: dict[str, str]) -> None:
    """Each of them, and nothing else."""
    code, document = isen(node, "verify", *NOW, "--read-data")
    assert code == 1
    findings = found(document)
    assert set(findings) == set(deeds), {deeds.get(key, "untouched") for key in set(findings) ^ set(deeds)}
    assert set(findings.values()) <= {"corrupted", "truncated"}


def assert_never_served(node: Node, stored: dict[str, Path], deeds: dict[str, str]) -> None:
    """Over REST; and what was not altered is."""
    with ThreadPoolExecutor(READERS) as pool:
        answers = dict(zip(stored, pool.map(lambda one: read(node, one), stored), strict=True))
    assert [deeds[one] for one in stored if deeds[one] and answers[one] is not None] == []
    assert all(answers[one] == stored[one].read_bytes() for one in stored if not deeds[one])


def assert_reported(node: Node, deeds: dict[str, str]) -> None:
    """Who reads the log finds each by its name, who watches the metrics sees them count."""
    log = node.orthanc.log.read_text(errors="replace")
    # the key is named where Orthanc keeps custom data
    reported = set(re.findall(r"read_failed name=(\S+) (?:key=\S+ )?error=corrupted", log))
    assert [name for name in deeds if name not in reported] == []
    wait_until(lambda: corrupted(node) >= len(deeds), 10, "the metric counts them all")


def corrupted(node: Node) -> float:
    metrics = node.orthanc.get("/tools/metrics-prometheus").decode().splitlines()
    return sum(float(line.split()[1]) for line in metrics if line.startswith("isen_storage_corrupted_total"))


def assert_never_sent(node: Node, folder: Path, sound: list[Path]) -> None:
    """Over DICOM: a C-GET of a study sends what is sound in it, and that whole."""
    folder.mkdir()
    uid = str(dcmread(sound[0], stop_before_pixels=True).StudyInstanceUID)
    answer = node.peer.get(folder, "QueryRetrieveLevel=STUDY", f"StudyInstanceUID={uid}")
    received = {str(image.SOPInstanceUID): image.PixelData for image in map(dcmread, folder.iterdir())}
    wanted = {str(image.SOPInstanceUID): image.PixelData for image in map(dcmread, sound)}
    assert received == wanted, answer.output[-2000:]


@pytest.mark.timeout(300)
def test_no_altered_object_is_served_and_each_is_reported_and_found(make_node: NodeMaker, tmp_path: Path) -> None:
    assert_altered_objects_do_no_harm(make_node, tmp_path, 64)


@pytest.mark.soak
def test_no_altered_object_of_a_thousand_is_served_and_each_is_reported_and_found(
    make_node: NodeMaker, tmp_path: Path
) -> None:
    assert_altered_objects_do_no_harm(make_node, tmp_path, 1000)
