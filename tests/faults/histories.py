"""Histories of an archive against a model of it: whatever happens in between, what was acknowledged reads back.

The model is two dictionaries: what was acknowledged and not removed, and what was removed. Everything else is real: the
plugin's `Attachments` and `Spool`, the transfer process, its S3 client and an S3 server that fails on purpose.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, MultipleResults, RuleBasedStateMachine, consumes, invariant, multiple, rule

from backend.custom_data import CHUNK, LARGE, CustomData
from backend.plugin.attachments import CorruptedAttachment
from backend.plugin.transfer_client import TransferError
from tests.fakes import s3_faults
from tests.fakes.transfer_child import name_of
from tests.faults.forked_node import ForkedNode, Forks

PATIENCE = 30.0  # seconds until what must work again does
SIZES = (1, 1000, 40_000, 300_000, LARGE + CHUNK // 2)  # bytes; the last is read in ranges
TROUBLES = ("none", "none", "down", "503", "slow", "damaging", "half")
MOMENTS = ("PUT before", "PUT after", "GET before", "DELETE before", "DELETE after")
S3_AWAY = {"unreachable", "throttled", "timeout", "local"}  # kinds of a failed read while S3 is not well


class Violation(AssertionError):
    """A promise was broken."""


@dataclass(frozen=True)
class Stored:
    """What Orthanc's index knows of an attachment."""

    name: str
    content: bytes = field(repr=False)
    known: CustomData | None = field(repr=False)


class History(RuleBasedStateMachine):
    """One archive's life. `forks` is set by whoever runs it."""

    forks: ClassVar[Forks]
    node_class: ClassVar[type[ForkedNode]] = ForkedNode
    violations: ClassVar[list[str]]
    steps: ClassVar[int] = 0

    attachments = Bundle("attachments")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="isen-history-"))
        self.s3, self.gate = self.forks.s3, self.forks.gate
        self.s3.objects.clear()
        self._heal_s3()
        self.node = self.node_class(self.forks, self.folder)
        self.live: dict[str, Stored] = {}
        self.removed: dict[str, Stored] = {}
        self.unacknowledged: dict[str, bytes] = {}
        self.count = 0

    # What Orthanc does

    @rule(target=attachments, size=st.sampled_from(SIZES), is_known=st.booleans())
    def store(self, size: int, is_known: bool) -> Stored:
        """Durability Spool: whatever S3 and the transfer process do, a store succeeds."""
        stored = self._made_up(size, is_known=is_known)
        self.node.attachments.create_in_spool(stored.name, stored.content)
        self.live[stored.name] = stored
        return stored

    @rule(target=attachments, sizes=st.lists(st.sampled_from(SIZES[:-1]), min_size=2, max_size=8))
    def store_several(self, sizes: list[int]) -> MultipleResults[Stored]:
        return multiple(*(self.store(size, is_known=False) for size in sizes))

    @rule(size=st.sampled_from(SIZES[:-1]))
    def store_and_wait_for_s3(self, size: int) -> None:
        """Durability ObjectStore: acknowledged means in the bucket; refused means removed."""
        stored = self._made_up(size, is_known=False)
        try:
            self.node.attachments.create_in_object_store(stored.name, stored.content, 0.5)
        except TransferError:
            self.removed[stored.name] = stored
        else:
            self._require(
                self._object(stored.name) == stored.content or self.is_damaging, "acknowledged before S3 had it"
            )
            self.live[stored.name] = stored

    @rule(target=attachments, old=consumes(attachments), is_kept=st.booleans())
    def send_again(self, old: Stored, is_kept: bool) -> Stored:
        """Orthanc writes the image under a new UUID, and removes either that or, if it overwrites, the old one."""
        new = Stored(self._unused_name(), old.content, old.known)
        self.node.attachments.create_in_spool(new.name, new.content)
        self.live[new.name] = new
        self._remove(new if is_kept else old)
        return old if is_kept else new

    @rule(old=consumes(attachments))
    def remove(self, old: Stored) -> None:
        self._remove(old)

    @rule(stored=attachments, start=st.floats(0, 1), length=st.floats(0, 1), is_whole=st.booleans())
    def read(self, stored: Stored, start: float, length: float, is_whole: bool) -> None:
        size = len(stored.content)
        first = min(int(size * start), size - 1)
        end = min(size, first + 1 + int(size * length**4))
        self._read(stored, None if is_whole else (first, end))

    # What happens to S3

    @rule(what=st.sampled_from(TROUBLES))
    def trouble_with_s3(self, what: str) -> None:
        self._heal_s3()
        self.trouble = "" if what == "none" else what
        damaging: dict[str, Callable[..., bool]] = {"PUT": s3_faults.store_damaged, "GET": s3_faults.give_damaged}
        match what:
            case "down":
                self.gate.refuse()
            case "503":
                self.s3.add("*", s3_faults.refuse_with(503, "SlowDown"), None)
            case "slow":
                self.s3.add("*", s3_faults.answer_late(0.03), None)
            case "damaging":
                for method, act in damaging.items():
                    self.s3.add(method, _unless_missing(act), None)
            case "half":
                self.s3.add("GET", _unless_missing(s3_faults.give_half), None)

    @rule()
    def everything_is_uploaded(self) -> None:
        """A quiet hour."""
        self._heal_s3()
        self.node.allow_restarts()
        self._wait(lambda: not self.node.listing("pending"), "everything owed to S3 is there")

    # What happens to processes and disks

    @rule(stays_dead=st.booleans())
    def kill_transfer(self, stays_dead: bool) -> None:
        """`stays_dead`: until something needs it."""
        if stays_dead:
            self.node.hold_restarts()
        self.node.kill_transfer()

    @rule(moment=st.sampled_from(MOMENTS))
    def kill_transfer_at(self, moment: str) -> None:
        """Once, between two steps of what it is going to do."""
        method, _, when = moment.partition(" ")

        def act(handler: Any, body: bytes) -> bool:
            if when == "after":
                if method == "PUT":
                    handler.store(body)
                else:
                    self.s3.objects.pop(handler.key, None)
            self.node.kill_transfer()
            return s3_faults.drop(handler, body)

        self.s3.faults.insert(0, s3_faults.Fault(method, act, 1))

    @rule(in_order=st.booleans())
    def restart_orthanc(self, in_order: bool) -> None:
        """In order, or after kill -9."""
        self.node.stop(in_order=in_order)
        self.node.start()

    @rule(size=st.sampled_from(SIZES[:-1]), step=st.sampled_from(("half", "staged", "renamed")))
    def kill_orthanc_in_a_store(self, size: int, step: str) -> None:
        """Nobody was told that it was stored: it may be there or not, but what is there is whole."""
        stored = self._made_up(size, is_known=False)
        self.unacknowledged[stored.name] = stored.content
        content = stored.content[: size // 2] if step == "half" else stored.content
        self.node.spool.stage(stored.name, content, durable=True)
        if step == "renamed":
            incoming = self.node.spool.directory / "incoming" / stored.name
            incoming.rename(self.node.spool.directory / "pending" / stored.name)
        self.restart_orthanc(in_order=False)

    @rule(luck=st.integers(0, 2**32))
    def cut_power(self, luck: int) -> None:
        """What was not synced is undone or spoiled: bytes in the cache, and that uploaded files have left the spool."""
        self.node.stop(in_order=False)
        chance = random.Random(luck)
        for path in self.node.cached():
            match chance.choice(("kept", "kept", "owed", "zeros", "short", "gone")):
                case "owed" if self._is_whole(path) and path.name not in self.node.listing("pending"):
                    shutil.copy2(path, self.folder / "spool" / "pending" / path.name)  # with its attributes
                case "zeros":
                    path.write_bytes(bytes(path.stat().st_size))
                case "short":
                    with path.open("r+b") as file:
                        file.truncate(path.stat().st_size // 2)
                case "gone":
                    path.unlink()
        self.node.start()

    @rule(luck=st.integers(0, 2**32))
    def lose_cached_files(self, luck: int) -> None:
        """Somebody needs room: the cache's files may go at any time."""
        chance = random.Random(luck)
        for path in self.node.cached():
            if chance.random() < 0.5:
                path.unlink(missing_ok=True)

    # What must be true

    @invariant()
    def the_spool_counts_what_it_holds(self) -> None:
        type(self).steps += 1
        counted = self.node.spool.used  # first: files leave the folder before they are counted off
        self._require(counted >= self.node.bytes_on_disk(), "the spool holds more bytes than it says")

    def teardown(self) -> None:
        """In the end everything is in S3 and nowhere else, and reads back from there."""
        try:
            if sys.exc_info()[0] is None:
                self._settle()
        finally:
            self._heal_s3()
            self.node.close()
            shutil.rmtree(self.folder)

    def _settle(self) -> None:
        self._heal_s3()
        self.node.allow_restarts()
        for folder in ("pending", "tombstones", "incoming"):
            self._wait(lambda folder=folder: not self.node.listing(folder), f"{folder} is empty")  # type: ignore[misc]
        self._wait(lambda: self.node.spool.used == 0, "the spool says that it is empty")
        self._require(self.node.listing("quarantine") == [], "a sound attachment is in quarantine")
        for name in self.removed:
            self._require(self._object(name) is None, "a removed attachment is still in S3")
        for name, content in self.unacknowledged.items():
            self._require(self._object(name) in (None, content), "an object of other bytes than were sent")
        for path in (*self.node.cached(), *(self.folder / "spool" / "uploaded").iterdir()):
            path.unlink(missing_ok=True)
        self._refuses_damaged_bytes()
        for stored in self.live.values():
            self._require(self._object(stored.name) == stored.content, "an acknowledged attachment is not in S3")
            self._read(stored, None)
        ours = {name for name in self.s3.objects if not name.startswith("isen-canary")}
        self._require(ours <= self.live.keys() | self.unacknowledged.keys(), "there are objects that nobody knows")

    def _refuses_damaged_bytes(self) -> None:
        """Of an attachment of which only the object's own digest is known."""
        self.trouble_with_s3("damaging")
        for stored in [one for one in self.live.values() if one.known is None][:1]:
            self._read(stored, None)
        self._heal_s3()

    # How

    @property
    def is_damaging(self) -> bool:
        return self.trouble in ("damaging", "half")

    def _made_up(self, size: int, *, is_known: bool) -> Stored:
        name = self._unused_name()
        content = random.Random(self.count).randbytes(size)
        return Stored(name, content, CustomData.of(content, name) if is_known or size > LARGE else None)

    def _unused_name(self) -> str:
        self.count += 1
        return name_of(self.count)

    def _object(self, name: str) -> bytes | None:
        found = self.s3.objects.get(name)
        return None if found is None else found.body

    def _is_whole(self, cached: Path) -> bool:
        """Whether it is a file that has come from the spool as it is."""
        stored = self.live.get(cached.name)
        return stored is not None and cached.read_bytes() == stored.content

    def _heal_s3(self) -> None:
        self.trouble = ""
        self.s3.faults.clear()
        self.gate.open()

    def _remove(self, old: Stored) -> None:
        del self.live[old.name]
        self.node.attachments.remove(old.name)
        self.removed[old.name] = old

    def _read(self, stored: Stored, part: tuple[int, int] | None) -> None:
        """Right bytes, or none if S3 is away; and right bytes in the end, if it is not."""
        self.node.allow_restarts()
        first, end = part or (0, len(stored.content))
        deadline = time.monotonic() + PATIENCE
        while True:
            is_owed = stored.name in self.node.listing("pending")
            try:
                if part is None:
                    content = self.node.attachments.read(stored.name, stored.known)
                else:
                    content = self.node.attachments.read_range(stored.name, first, end, stored.known)
            except (TransferError, CorruptedAttachment) as error:
                kind = getattr(error, "kind", "corrupted")
                allowed = S3_AWAY | ({"corrupted"} if self.is_damaging else set())
                self._require(kind in allowed, f"a read failed as {kind}")
                is_here = is_owed and stored.name in self.node.listing("pending")
                self._require(not is_here, "what is in the spool could not be read")
                if self.trouble not in ("", "slow"):
                    return
                self._require(time.monotonic() < deadline, f"S3 is back and reads still fail as {kind}")
                time.sleep(0.02)
            else:
                self._require(content == stored.content[first:end], "other bytes were served than were stored")
                return

    def _wait(self, condition: Callable[[], Any], what: str) -> None:
        try:
            self.node.wait(condition, what, PATIENCE)
        except AssertionError as error:
            self.violations.append(f"never: {what}")
            raise Violation(str(error)) from None

    def _require(self, is_true: bool, violation: str) -> None:
        if not is_true:
            self.violations.append(violation)
            log = ""
            with suppress(OSError):
                log = self.node.log.read_text()[-5000:]
            raise Violation(f"{violation}\n{log}")


def _unless_missing(act: Callable[..., bool]) -> Callable[..., bool]:
    """For faults that need an object's bytes."""

    def guarded(handler: Any, body: bytes) -> bool:
        is_wanted = handler.command == "PUT" or handler.key in handler.server.objects
        return is_wanted and act(handler, body)

    return guarded
