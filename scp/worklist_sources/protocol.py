"""Where the entries of the Modality Worklist come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from scp.matching import Candidate


class SourceUnavailable(Exception):
    """The entries cannot be read now; a later query may succeed. The message holds no patient data."""


class WorklistSource(Protocol):
    """Something that knows the scheduled procedure steps. Thread-safe."""

    def entries(self) -> Sequence[Candidate]:
        """Every entry that existed when the call began, one Scheduled Procedure Step each, in a stable order.

        Each is complete: its attributes of type 1 with matching key type R in PS3.4 Table K.6-1 have values, and it has
        exactly one item in its ScheduledProcedureStepSequence.

        Raises:
            SourceUnavailable: better no answer than a list with patients missing.
        """
        ...
