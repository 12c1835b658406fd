"""Answers the storage commitment requests that are open, until each has been reported.

Every worker accepts requests and tries once to answer them on the association they came on; one worker, whichever has
the lock, looks after all that remain. Steps that fail are tried again with growing pauses. What was done by a worker
that died is repeated: a report may then come twice, never not at all.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from scp.orthanc_client import OrthancClient, OrthancError
from scp.statuses import DUPLICATE_TRANSACTION_UID
from scp.storage_commitment.confirmation import Confirmation
from scp.storage_commitment.reporter import NotDelivered, Reporter
from scp.storage_commitment.transactions import Failures, Transaction, Transactions

log = logging.getLogger(__name__)

Deliver = Callable[[Transaction, Failures], None]

_INTERVAL: Final = 0.5  # seconds between two looks at the folder
_HOUSEKEEPING: Final = 3600.0  # seconds
_THREADS: Final = 4
_FIRST_PAUSE: Final = 0.5  # seconds; doubles
_LONGEST_PAUSE: Final = 60.0
# Seconds before each, while the peer waits on its association: longer than uploads give way to stores
_FIRST_ATTEMPTS: Final = (0.0, 0.25, 0.5, 1.0, 1.5, 3.0)


@dataclass
class _Progress:
    """What this worker remembers of one transaction."""

    confirmation: Confirmation | None = None
    due: float = 0.0  # monotonic time
    pause: float = _FIRST_PAUSE / 2
    is_running: bool = False


class CommitmentDesk:
    """Thread-safe."""

    def __init__(
        self,
        transactions: Transactions,
        client: OrthancClient,
        reporter: Reporter,
        *,
        supports: Callable[[str], bool],
        patience: float,
        report_patience: float,
        is_on_its_way: Callable[[str], bool] = lambda _uid: False,
    ) -> None:
        """`patience`: seconds an instance may take to reach S3. `report_patience`: seconds a report is tried."""
        self._transactions = transactions
        self._client = client
        self._reporter = reporter
        self._supports = supports
        self._is_on_its_way = is_on_its_way
        self._patience = patience
        self._report_patience = report_patience
        self._progress: dict[str, _Progress] = {}
        self._stopped = threading.Event()

    def start(self) -> None:
        """Look after all requests, once no other worker does."""
        threading.Thread(target=self._run, name="storage-commitment", daemon=True).start()

    def stop(self) -> None:
        """Begin nothing more and leave the rest to another worker; what is under way goes on. Returns at once."""
        self._stopped.set()

    def answer_at_once(self, name: str, deliver: Deliver, peer_speaks: Callable[[float], bool]) -> None:
        """Try to report on the association the request came on, until the peer wants something else from it.

        `deliver` raises NotDelivered or whatever ends the association; the report is then sent on another one.
        """
        progress = _Progress()
        with self._transactions.claimed(name) as transaction:
            if transaction is None:
                return
            for pause in _FIRST_ATTEMPTS:
                if peer_speaks(pause):
                    return
                if self._failures(name, transaction, progress, lambda: peer_speaks(0)) is not None:
                    if not peer_speaks(0):
                        self._report(name, transaction, deliver)
                    return

    def _run(self) -> None:
        turn = self._transactions.wait_for_turn()
        log.info("storage_commitment_started")
        next_housekeeping = 0.0
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="storage-commitment") as threads:
            while not self._stopped.wait(_INTERVAL):
                try:
                    self._submit_due(threads)
                    if time.monotonic() > next_housekeeping:
                        next_housekeeping = time.monotonic() + _HOUSEKEEPING
                        self._transactions.forget_old()
                except OSError as error:
                    log.error("storage_commitment_failed reason=%s", error)  # noqa: TRY400 - one line per event
        os.close(turn)

    def _submit_due(self, threads: ThreadPoolExecutor) -> None:
        names = self._transactions.names()
        for gone in self._progress.keys() - set(names):
            del self._progress[gone]
        for name in names:
            progress = self._progress.setdefault(name, _Progress())
            if not progress.is_running and time.monotonic() >= progress.due:
                progress.is_running = True
                threads.submit(self._attempt, name, progress)

    def _attempt(self, name: str, progress: _Progress) -> None:
        try:
            with self._transactions.claimed(name) as transaction:
                if transaction is not None and self._failures(name, transaction, progress) is not None:
                    self._report(name, transaction, self._reporter.deliver)
        except Exception as error:  # noqa: BLE001 - one request that cannot be handled must not stop the others
            log.error("storage_commitment_failed transaction=%s reason=%r", name, type(error).__name__)  # noqa: TRY400
        finally:
            progress.pause = min(progress.pause * 2, _LONGEST_PAUSE)
            progress.due = time.monotonic() + progress.pause
            progress.is_running = False

    def _failures(
        self,
        name: str,
        transaction: Transaction,
        progress: _Progress,
        is_unwanted: Callable[[], bool] = lambda: False,
    ) -> Failures | None:
        """What the report says; None while instances are undecided."""
        settled = self._transactions.outcome(name)
        if settled is not None:
            return settled
        failures: Failures | None = None
        if transaction.is_duplicate:
            failures = {one.sop_instance_uid: DUPLICATE_TRANSACTION_UID for one in transaction.references}
        else:
            failures = self._confirm(transaction, progress, is_unwanted)
        if failures is not None:
            self._transactions.settle(name, failures)
            progress.pause = _FIRST_PAUSE / 2
        return failures

    def _confirm(
        self, transaction: Transaction, progress: _Progress, is_unwanted: Callable[[], bool]
    ) -> Failures | None:
        if progress.confirmation is None:
            progress.confirmation = Confirmation(
                self._client, transaction.references, self._supports, self._is_on_its_way
            )
        try:
            failures = progress.confirmation.advance(is_unwanted)
        except OrthancError as error:
            log.info("storage_commitment_postponed reason=%s", error)
            failures = None
        if failures is None and time.time() - transaction.received_at > self._patience:
            return progress.confirmation.give_up()
        return failures

    def _report(self, name: str, transaction: Transaction, deliver: Deliver) -> None:
        failures = self._transactions.outcome(name) or {}
        try:
            deliver(transaction, failures)
        except NotDelivered as error:
            is_over = time.time() - transaction.received_at > self._patience + self._report_patience
            log.log(
                logging.WARNING if is_over or deliver == self._reporter.deliver else logging.INFO,
                "storage_commitment_not_reported calling_ae_title=%r action=%s reason=%s",
                transaction.calling_ae_title,
                "give_up" if is_over else "retry",
                error,
            )
            if not is_over:
                return
        else:
            log.info(
                "storage_commitment_reported calling_ae_title=%r instances=%d failed=%d",
                transaction.calling_ae_title,
                len(transaction.references),
                len(failures),
            )
        self._transactions.finish(name)


def supported_by(classes: Sequence[str], *, any_class: bool) -> Callable[[str], bool]:
    """Whether instances of a SOP class are stored here."""
    known = frozenset(classes)
    return lambda sop_class_uid: any_class or sop_class_uid in known
