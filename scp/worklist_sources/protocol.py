"""Where the entries of the Modality Worklist come from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Protocol

from scp.matching import Candidate
from scp.worklist_sources.selection import EVERYTHING, Selection


class SourceUnavailable(Exception):
    """The entries cannot be read now; a later query may succeed. The message holds no patient data."""


class WorklistSource(Protocol):
    """Something that knows the scheduled procedure steps. Thread-safe."""

    def entries(self, selection: Selection = EVERYTHING) -> Iterable[Candidate]:
        """Every entry inside of `selection` that existed when the call began, one Scheduled Procedure Step each, in a
        stable order. Entries outside of it may be among them: a source without an index gives all.

        Each is complete: its attributes of type 1 with matching key type R in PS3.4 Table K.6-1 have values, and it has
        exactly one item in its ScheduledProcedureStepSequence.

        Raises:
            SourceUnavailable: better no answer than a list with patients missing; also while the entries are iterated.
        """
        ...


class SeveralSources:
    """The entries of several sources, one after the other."""

    def __init__(self, *sources: WorklistSource) -> None:
        self._sources = sources

    def entries(self, selection: Selection = EVERYTHING) -> Iterator[Candidate]:
        """See `WorklistSource.entries`."""
        return chain.from_iterable(source.entries(selection) for source in self._sources)
