"""The modalities as Orthanc knows them now: its configuration, its database and changes through REST alike."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Final

from config.settings import Modality, ScpSettings
from scp.orthanc_client import OrthancClient

log = logging.getLogger(__name__)

_INTERVAL: Final = 5.0  # seconds until a change through REST counts

Fetch = Callable[[], Sequence[Modality]]


def modalities_of(settings: ScpSettings, client: OrthancClient) -> Fetch:
    """How to ask for the modalities: a front end's own, if its configuration names any, otherwise Orthanc's."""
    own = settings.dicom.modalities if settings.dicom and settings.orthanc.servers else ()
    return (lambda: own) if own else client.modalities


class ModalityTable:
    """What `DicomModalities` says, kept up to date by a thread; when Orthanc does not answer the last table holds."""

    def __init__(self, configured: Sequence[Modality], fetch: Fetch | None) -> None:
        """`configured` is what counts until `fetch` has answered; without `fetch` for ever."""
        self._table = tuple(configured)
        self._fetch = fetch
        self._answered = True

    def __call__(self) -> Sequence[Modality]:
        """The table; constant time."""
        return self._table

    def start(self) -> None:
        """Ask once, then keep asking. Orthanc's REST API has to be up."""
        if self._fetch is not None:
            self._refresh(self._fetch)
            threading.Thread(target=self._keep, args=(self._fetch,), name="modalities", daemon=True).start()

    def _keep(self, fetch: Fetch) -> None:
        pause = threading.Event()
        while not pause.wait(_INTERVAL):
            self._refresh(fetch)

    def _refresh(self, fetch: Fetch) -> None:
        try:
            self._table = tuple(fetch())
        except Exception as error:  # noqa: BLE001 -- whatever it is, the last table is better than none
            if self._answered:
                log.warning("modalities_not_read exception=%s", type(error).__name__)
            self._answered = False
        else:
            self._answered = True
