"""Power cuts: the real spool and transfer process on a disk that loses what was not flushed, many times over.

    unshare --mount --propagation private python -m tests.faults.power_cut CYCLES [SEED] [MISTAKE]

Each cut takes what the disk may hold at that moment (`tests.faults.disk`), while the writer goes on; ext4 replays its
journal on it, and everything the writer had acknowledged until then is looked for. One cut in twenty is followed: the
machine comes up on what is left and works from there. Prints one JSON object; needs root, loop devices and FUSE.

MISTAKE is `no-fsync`, `no-directory-fsync` or `acknowledge-before-fsync`: then losses must be found.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final

from backend.atomic_file import read_digest
from backend.spool import Spool
from tests.faults.disk import Disk
from tests.faults.power_cut_writer import SPOOL_SIZE, content_of

ROOT: Final = Path(__file__).parents[2]
DISK_SIZE: Final = 24 * 1024 * 1024
FOLLOWED: Final = 0.05  # part of the cuts after which the machine comes up on what is left
DEADLINE: Final = 60.0  # seconds for the next cut to come
KNOWN: Final = 3000  # attachments that are remembered after nothing is owed for them any more


@dataclass
class Ledger:
    """What the writer has said of each attachment, in order."""

    events: dict[str, set[str]] = field(default_factory=dict)
    acknowledged: int = 0
    taken: int = 0

    def note(self, what: str, name: str) -> None:
        self.events.setdefault(name, set()).add(what)
        self.acknowledged += what in ("accepted", "buried")
        self.taken += what == "taken"
        if len(self.events) > 2 * KNOWN:
            for old in list(self.events)[:-KNOWN]:
                if self.events[old] & {"deleted", "uploaded"}:
                    del self.events[old]

    def copy(self) -> Ledger:
        return Ledger({name: set(said) for name, said in self.events.items()}, self.acknowledged, self.taken)


def losses(folder: Path, ledger: Ledger) -> list[tuple[str, str]]:
    """What must be there and is not, or must not be there and is: (kind, name)."""
    pending = set(os.listdir(folder / "pending"))
    tombstones = set(os.listdir(folder / "tombstones"))
    found = []
    for name, said in ledger.events.items():
        if "wrong" in said:
            found.append(("wrong bytes uploaded", name))
        if "deleted" in said:
            if name in pending - tombstones:
                found.append(("removed attachment is back", name))
        elif "buried" in said:
            if name not in tombstones:
                found.append(("tombstone lost", name))
        elif "accepted" in said and not said & {"burying", "uploaded"} and name not in pending:
            found.append(("attachment lost", name))
    for name in pending:  # acknowledged or not: what is here will be uploaded
        content = (folder / "pending" / name).read_bytes()
        if content != content_of(name) or read_digest(folder / "pending" / name) != sha256(content).digest():
            found.append(("attachment damaged", name))
    return found


class Machine:
    """A disk with the writer on it, and the cut that comes next."""

    def __init__(self, folder: Path, image: bytes, ledger: Ledger, source: random.Random, mistake: str) -> None:
        self._source = source
        self._ledger = ledger
        self._unread = b""
        self._countdown = -1
        self._after = "request"
        self.cut = threading.Event()
        self.ledger_at_cut = ledger
        self._crash = (folder / "crash").open("w+b")
        self._crash.truncate(DISK_SIZE)
        self.image = mmap.mmap(self._crash.fileno(), DISK_SIZE)
        reader, writer = os.pipe()
        self._live = folder / "live"
        self._disk = Disk(image, folder / "disk", reader, self._heard)
        self._disk.after_request = lambda: self._count("request")
        _mount(folder / "disk", self._live)
        seed = str(source.randrange(2**32))
        self._writer = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.power_cut_writer", self._live, str(writer), seed, mistake],
            pass_fds=(writer,),
            cwd=ROOT,
        )
        os.close(writer)
        self._reader = reader

    def next_cut(self) -> Ledger:
        """Wait for the next power cut; `image` holds what it leaves, the answer what had been acknowledged."""
        self.cut.clear()
        self._after = self._source.choice(("request", "acknowledgement"))
        self._countdown = self._source.randint(1, 40 if self._after == "request" else 10)
        if not self.cut.wait(DEADLINE):
            raise TimeoutError(f"the writer does nothing; its exit code is {self._writer.poll()}")
        return self.ledger_at_cut

    def switch_off(self) -> None:
        self._writer.kill()
        self._writer.wait()
        subprocess.run(["umount", self._live], check=True)
        self._disk.close()
        os.close(self._reader)
        self._crash.close()
        self.image.close()

    def _heard(self, data: bytes) -> None:
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            what, name = line.decode().split(" ")
            self._ledger.note(what, name)
            if what in ("accepted", "buried"):
                self._count("acknowledgement")

    def _count(self, what: str) -> None:
        if self._countdown > 0 and self._after == what:
            self._countdown -= 1
            if self._countdown == 0:
                self._disk.survivors(self._source, self.image)
                self.ledger_at_cut = self._ledger.copy()
                self.cut.set()


@dataclass
class Outcome:
    """What so many power cuts came to."""

    cycles: int
    seed: int
    mistake: str
    acknowledged: int = 0
    taken: int = 0  # of a DICOM worker's copies
    owed: int = 0  # attachments that had to be on the disk, over all cuts
    swept: int = 0  # half-written files that were found
    restarts: int = 0
    losses: Counter[str] = field(default_factory=Counter)
    examples: list[tuple[object, ...]] = field(default_factory=list)

    def check(self, cycle: int, spool: Path, ledger: Ledger) -> None:
        """Look what is left in the spool's folder after a cut, and recover it as the next start would."""
        if not (spool / "quarantine").exists():  # the last one made
            assert not ledger.events, "the folders of the spool are gone"
            return
        found = losses(spool, ledger)
        self.acknowledged, self.taken = ledger.acknowledged, ledger.taken
        self.owed += sum("accepted" in said and not said & {"burying", "uploaded"} for said in ledger.events.values())
        self.losses.update(kind for kind, _ in found)
        self.examples += [(cycle, *loss) for loss in found][: max(0, 5 - len(self.examples))]
        self.swept += len(os.listdir(spool / "incoming")) + len(os.listdir(spool / "arriving"))
        assert Spool(spool, SPOOL_SIZE).recover() == len(os.listdir(spool / "pending"))
        assert os.listdir(spool / "incoming") == os.listdir(spool / "arriving") == []


def run(cycles: int, seed: int, mistake: str, folder: Path) -> Outcome:
    """So many power cuts; what was acknowledged, and what was lost of it."""
    source = random.Random(seed)
    outcome = Outcome(cycles, seed, mistake)
    for name in ("live", "after"):
        (folder / name).mkdir()
    (folder / "disk").touch()
    machine = Machine(folder, _formatted(folder), Ledger(), source, mistake)
    for cycle in range(cycles):
        ledger = machine.next_cut()
        followed = bytes(machine.image) if source.random() < FOLLOWED else None
        _mount(folder / "crash", folder / "after")
        try:
            outcome.check(cycle, folder / "after" / "spool", ledger)
        finally:
            subprocess.run(["umount", folder / "after"], check=True)
        if followed is not None:
            # the file system must be whole, or this disk breaks promises that a real one keeps
            subprocess.run(["e2fsck", "-fn", folder / "crash"], check=True, capture_output=True)
            machine.switch_off()
            machine = Machine(folder, followed, ledger, source, mistake)
            outcome.restarts += 1
    machine.switch_off()
    return outcome


def _formatted(folder: Path) -> bytes:
    path = folder / "empty"
    with path.open("wb") as file:
        file.truncate(DISK_SIZE)
    options = "nodiscard,lazy_itable_init=0,lazy_journal_init=0"
    subprocess.run(["mkfs.ext4", "-q", "-b", "4096", "-E", options, path], check=True)
    return path.read_bytes()


def _mount(image: Path, target: Path) -> None:
    subprocess.run(["mount", "-t", "ext4", "-o", "loop", image, target], check=True)


def main() -> None:
    cycles = int(sys.argv[1])
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(2**32)
    mistake = sys.argv[3] if len(sys.argv) > 3 else "none"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], check=True)
        try:
            print(json.dumps(vars(run(cycles, seed, mistake, folder))), flush=True)
        finally:
            subprocess.run(["umount", "--lazy", "--recursive", folder], check=False)


if __name__ == "__main__":
    main()
