"""What an administrator changes through Orthanc's REST API while it runs, and the settings as they are with it.

    /modalities                            those in Orthanc's database included (DicomModalitiesInDatabase)
    /tools/default-encoding
    /tools/accepted-transfer-syntaxes
    /tools/unknown-sop-class-accepted

A change holds for the next association: its thread calls `refresh` before it answers. That is one round trip to
Orthanc in which its Python has no part; associations that arrive meanwhile share it. Between associations a thread
keeps the values fresh for those that stay open. When Orthanc does not answer, the last values hold.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from config.settings import DicomSettings, Modality, ScpSettings
from scp.orthanc_client import OrthancClient, modality_of
from scp.pipeline import Pipeline
from scp.upper_layer.negotiation import uid_matcher

log = logging.getLogger(__name__)

_TIMEOUT: Final = 2  # seconds that a new association may wait for Orthanc to say something
_INTERVAL: Final = 5.0  # seconds between rounds without associations, and after a round that failed

# What Orthanc 1.10.1 lists; later ones list more. A syntax beyond them is nothing that an administrator has taken away.
_JPEG: Final = "1.2.840.10008.1.2.4."
LISTED_TRANSFER_SYNTAXES: Final = frozenset((
    *("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"),
    *(f"{_JPEG}{number}" for number in (*range(50, 67), 70, 80, 81, *range(90, 96), *range(100, 109))),
    *("1.2.840.10008.1.2.5", "1.2.840.10008.1.2.6.1", "1.2.840.10008.1.2.6.2"),
))  # fmt: skip

Current = Callable[[], DicomSettings]  # the settings as they are now


@dataclass(frozen=True)
class RunTimeValues:
    """What Orthanc says now."""

    modalities: Sequence[Modality]
    default_encoding: str
    accepted_transfer_syntaxes: Sequence[str] | None  # None: as configured
    unknown_sop_class_accepted: bool


_PATHS: Final = (
    "/modalities?expand",
    "/tools/default-encoding",
    "/tools/accepted-transfer-syntaxes",
    "/tools/unknown-sop-class-accepted",
)


class Administration:
    """Asks the Orthanc on this machine. For one thread at a time."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._answers: list[bytes] = []
        self._values: RunTimeValues | None = None

    def __call__(self) -> RunTimeValues:
        """What holds now; the same object as long as Orthanc answers the same bytes.

        Raises:
            OrthancError: it did not answer.
            ValueError, KeyError: its answer is not to be understood.
        """
        answers = self._pipeline.get(*_PATHS)
        if self._values is None or answers != self._answers:
            modalities, encoding, syntaxes, unknown = answers
            self._values = RunTimeValues(
                tuple(modality_of(name, fields) for name, fields in json.loads(modalities).items()),
                encoding.decode("ascii").strip(),
                tuple(map(str, json.loads(syntaxes))),
                unknown_sop_class_accepted=unknown.strip() == b"1",
            )
            self._answers = answers
        return self._values


def modalities_of(settings: ScpSettings, client: OrthancClient) -> Callable[[], Sequence[Modality]]:
    """How to ask for the modalities: a front end's own, if its configuration names any, otherwise Orthanc's."""
    own = settings.dicom.modalities if settings.dicom and settings.orthanc.servers else ()
    return (lambda: own) if own else client.modalities


def administration(settings: ScpSettings, token: str, worker: int) -> Callable[[], RunTimeValues]:
    """What to ask while a worker runs. Of a front end, which may have several Orthancs, only the modalities: everything
    else is in its own configuration.
    """
    dicom = settings.dicom or DicomSettings()
    if not settings.orthanc.servers:
        return Administration(Pipeline(settings.orthanc, token, _TIMEOUT))
    # connections of its own: those of the services may all be busy with stores
    client = OrthancClient(settings.orthanc, token, dicom.processes, worker, read_timeout=_TIMEOUT)
    modalities = modalities_of(settings, client)
    return lambda: RunTimeValues(modalities(), dicom.default_encoding, None, dicom.unknown_sop_class_accepted)


class CurrentSettings:
    """The settings of the configuration, with what was changed since. Thread-safe."""

    def __init__(self, configured: DicomSettings, fetch: Callable[[], RunTimeValues] | None) -> None:
        """`configured` counts until `fetch` has answered; without `fetch` for ever."""
        if configured.modalities_in_database:
            configured = configured.model_copy(update={"modalities": ()})
        self._configured = configured
        self._current = configured
        self._values: RunTimeValues | None = None
        self._fetch = fetch
        self._lock = threading.Lock()
        self._began = float("-inf")  # when the latest round began; monotonic
        self._failed = float("-inf")  # when the latest one failed
        self._answered = True

    def __call__(self) -> DicomSettings:
        """The settings; constant time, and the same object as long as nothing changes."""
        return self._current

    def start(self) -> None:
        """Ask once, then keep asking. Orthanc's REST API has to be up."""
        if self._fetch is not None:
            self.refresh()
            threading.Thread(target=self._keep, name="administration", daemon=True).start()

    def refresh(self) -> None:
        """Every change that was complete before this call counts when it returns; never raises.

        Takes one round of requests, or what is left of one that began after the call; none for a while after a failure.
        """
        asked = time.monotonic()
        if self._fetch is None:
            return
        with self._lock:
            if self._began <= asked and self._failed < asked - _INTERVAL:
                self._began = time.monotonic()
                self._read(self._fetch)

    def _keep(self) -> None:
        pause = threading.Event()
        while not pause.wait(_INTERVAL):
            self.refresh()

    def _read(self, fetch: Callable[[], RunTimeValues]) -> None:
        try:
            values = fetch()
        except Exception as error:  # noqa: BLE001 -- whatever it is, the last values are better than none
            if self._answered:
                log.warning("administration_not_read exception=%s", type(error).__name__)
            self._answered, self._failed = False, time.monotonic()
            return
        self._answered = True
        if values != self._values:
            self._values, self._current = values, self._configured.model_copy(update=self._changes(values))

    def _changes(self, values: RunTimeValues) -> dict[str, Any]:
        changes: dict[str, Any] = {
            "modalities": tuple(values.modalities),
            "default_encoding": values.default_encoding,
            "unknown_sop_class_accepted": values.unknown_sop_class_accepted,
        }
        accepted = values.accepted_transfer_syntaxes
        if accepted is not None and self._were_changed(accepted):
            changes["accepted_transfer_syntaxes"] = tuple(accepted)
            changes["rejected_transfer_syntaxes"] = ()
        return changes

    def _were_changed(self, listed: Sequence[str]) -> bool:
        """Whether Orthanc accepts other transfer syntaxes than the configuration says.

        Unchanged, the configuration decides: its patterns cover syntaxes of the Standard that this Orthanc has not
        heard of, and what it has not heard of it stores all the same.
        """
        accepts = uid_matcher(self._configured.accepted_transfer_syntaxes)
        rejects = uid_matcher(self._configured.rejected_transfer_syntaxes)
        configured = {uid for uid in LISTED_TRANSFER_SYNTAXES if accepts(uid) and not rejects(uid)}
        return configured != LISTED_TRANSFER_SYNTAXES & set(listed)
