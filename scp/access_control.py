"""Who may associate and who may do what, as Orthanc's configuration says (`DicomModalities`, `DicomAlwaysAllow*`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from config.settings import DicomSettings, Modality

_ALWAYS_ALLOWED = (
    "allow_echo",
    "allow_store",
    "allow_find",
    "allow_find_worklist",
    "allow_get",
    "allow_move",
)


class AccessControl:
    """Orthanc's rules. Thread-safe; `settings` are asked each time, because they may change."""

    def __init__(self, settings: Callable[[], DicomSettings]) -> None:
        self._settings = settings

    def accepts_called(self, ae_title: str) -> bool:
        """DicomCheckCalledAet."""
        return not self._settings().check_called_aet or self._same(ae_title, self._settings().ae_title)

    def accepts_calling(self, ae_title: str, address: str) -> bool:
        """Whether this peer may associate: anybody if anything is allowed to anybody, else modalities only."""
        if any(self._is_always_allowed(permission) for permission in _ALWAYS_ALLOWED):
            return True
        return any(self._candidates(ae_title, address))

    def find(self, ae_title: str, address: str) -> Modality | None:
        """The entry of `DicomModalities` for this peer; of several with its AE title, the one with its address."""
        candidates = list(self._candidates(ae_title, address))
        return next((modality for modality in candidates if modality.host == address), next(iter(candidates), None))

    def allows(self, permission: str, ae_title: str, address: str) -> bool:
        """Whether this peer may use the service that `permission` (`allow_find`, …) governs.

        Of several modalities with this AE title one is enough when hosts are checked; otherwise all must allow it.
        """
        if self._is_always_allowed(permission):
            return True
        flags = [getattr(modality, permission) for modality in self._candidates(ae_title, address)]
        return any(flags) if self._settings().check_modality_host else bool(flags) and all(flags)

    def _candidates(self, ae_title: str, address: str) -> Iterator[Modality]:
        for modality in self._settings().modalities:
            if self._same(modality.ae_title, ae_title) and (
                not self._settings().check_modality_host or modality.host == address
            ):
                yield modality

    def _is_always_allowed(self, permission: str) -> bool:
        return bool(getattr(self._settings(), f"always_{permission}", False))

    def _same(self, one: str, other: str) -> bool:
        return one == other if self._settings().strict_aet_comparison else one.upper() == other.upper()
