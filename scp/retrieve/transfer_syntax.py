"""In which transfer syntax an instance goes out: as stored if the peer takes that, else as Orthanc can convert it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from scp.retrieve.selection import Instance

UNCOMPRESSED: Final = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian)
# a lossy conversion makes another instance (PS3.3 C.7.6.1.1.5), so it is never made on the way
LOSSLESS: Final = frozenset((
    *UNCOMPRESSED, DeflatedExplicitVRLittleEndian, JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless,
    RLELossless,
))  # fmt: skip
MAXIMUM_CONTEXTS: Final = 128  # of one association: odd numbers up to 255 (PS3.8 9.3.2.2)


class TransferSyntaxes:
    """What may be sent to one peer. `may_transcode`: compressed images may be decompressed for it.

    Conversion among the uncompressed ones is always allowed: every peer must be able to take Implicit VR Little Endian
    (PS3.5 10.1), whatever an instance is stored in.
    """

    def __init__(self, preferred: str, *, may_transcode: bool) -> None:
        first = (preferred,) if preferred in LOSSLESS else ()
        self._targets = tuple(dict.fromkeys((*first, *UNCOMPRESSED)))
        self._may_transcode = may_transcode

    def targets(self, stored: str) -> tuple[str, ...]:
        """What an instance may be converted to, best first."""
        if self._may_transcode or stored in UNCOMPRESSED or not stored:
            return tuple(target for target in self._targets if target != stored)
        return ()

    def chosen(self, stored: str, accepted: Sequence[str]) -> str | None:
        """The syntax to send in, of those the peer accepted; None: there is none."""
        return next((syntax for syntax in (stored, *self.targets(stored)) if syntax in accepted), None)

    def contexts(self, instances: Iterable[Instance]) -> list[tuple[list[Instance], list[tuple[str, tuple[str, ...]]]]]:
        """Instances, in order, grouped so that one association can carry each group, with the contexts to propose.

        Each stored syntax gets a context of its own, because of a context's syntaxes the peer picks one.
        """
        groups: list[tuple[list[Instance], list[tuple[str, tuple[str, ...]]]]] = []
        members: list[Instance] = []
        proposed: dict[tuple[str, tuple[str, ...]], None] = {}
        for instance in instances:
            needed = self._needed(instance)
            if members and len(proposed.keys() | set(needed)) > MAXIMUM_CONTEXTS:
                groups.append((members, list(proposed)))
                members, proposed = [], {}
            members.append(instance)
            proposed.update(dict.fromkeys(needed))
        if members:
            groups.append((members, list(proposed)))
        return groups

    def _needed(self, instance: Instance) -> list[tuple[str, tuple[str, ...]]]:
        offers = (
            (instance.transfer_syntax,) if instance.transfer_syntax else (),
            self.targets(instance.transfer_syntax),
        )
        return [(instance.sop_class_uid, offer) for offer in offers if offer and instance.sop_class_uid]
