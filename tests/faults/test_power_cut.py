"""Power cuts at any moment: nothing that was acknowledged is lost, and the simulation finds it if something is."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TIME_LIMIT = 0.5  # seconds for one cut on a busy machine; alone it takes 0.2
MISTAKES = {
    "no-fsync": {"attachment lost", "attachment damaged"},
    "no-directory-fsync": {"attachment lost", "tombstone lost"},
    "acknowledge-before-fsync": {"attachment lost", "attachment damaged"},
}


def why_not() -> str | None:
    """What this machine lacks."""
    if os.geteuid() != 0:
        return "only root can mount"
    for path in ("/dev/fuse", "/dev/loop-control"):
        if not os.access(path, os.R_OK | os.W_OK):
            return f"there is no {path} here"
    for tool in ("mkfs.ext4", "e2fsck", "unshare"):
        if not shutil.which(tool):
            return f"{tool} is not installed"
    namespace = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False)
    return "there are no mount namespaces here" if namespace.returncode else None


pytestmark = pytest.mark.skipif(bool(why_not()), reason=f"no power cuts: {why_not()}")


def cut_power(cycles: int, mistake: str = "none", seed: int | None = None) -> dict[str, Any]:
    """Run the simulation and print what it was; the same seed makes the same choices."""
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    print(f"unshare --mount --propagation private python -m tests.faults.power_cut {cycles} {seed} {mistake}")
    # a namespace of its own: whatever happens, no mount and no loop device survives it
    namespace = ["unshare", "--mount", "--propagation", "private"]
    run = subprocess.run(
        [*namespace, sys.executable, "-m", "tests.faults.power_cut", str(cycles), str(seed), mistake],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        timeout=60 + cycles * TIME_LIMIT * 4,
        check=True,
    )
    outcome: dict[str, Any] = json.loads(run.stdout)
    print(outcome)
    return outcome


def assert_nothing_is_lost(cycles: int) -> None:
    outcome = cut_power(cycles)
    assert outcome["losses"] == {}, outcome["examples"]
    # and it was worth looking: attachments were owed at most cuts, half-written ones were swept, and the machine that
    # came up on what was left went on
    assert outcome["acknowledged"] > 5 * cycles
    assert outcome["taken"] > cycles
    assert outcome["owed"] > cycles
    assert outcome["swept"] > cycles / 10
    assert outcome["restarts"] > 0


@pytest.mark.timeout(400)
def test_two_hundred_power_cuts_lose_nothing_that_was_acknowledged() -> None:
    """Every accepted attachment is in the spool or in S3, whole; every removal is remembered; sweeping works."""
    assert_nothing_is_lost(200)


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.timeout(300)
def test_a_spool_with_a_mistake_is_caught(mistake: str) -> None:
    """The simulation is no test if it cannot fail."""
    outcome = cut_power(40, mistake)
    assert outcome["losses"].keys() & MISTAKES[mistake]


@pytest.mark.soak
def test_ten_thousand_power_cuts_lose_nothing_that_was_acknowledged() -> None:
    assert_nothing_is_lost(10_000)
