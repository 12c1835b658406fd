"""What becomes of one message: its steps in the managed worklist, and the answer to its sender.

Everything a message changes, and the memory of having answered it, is one transaction: a sender that has AA can rely on
it, and one that sends the same message again, because the answer was lost, gets the same answer and changes nothing.
"""

from __future__ import annotations

import hashlib
import logging
import time
from typing import Final

from pydicom.dataset import Dataset

from config.settings import Hl7Settings
from scp.hl7.acknowledgement import acknowledgement
from scp.hl7.errors import DATA_TYPE, INTERNAL_ERROR, REQUIRED_FIELD_MISSING, UNKNOWN_KEY, Rejected
from scp.hl7.message import Message
from scp.hl7.orders import Step, Values, steps_of
from scp.hl7.rejected import RejectedMessages
from scp.worklists.entry import Unusable, make_entry, read_data_set
from scp.worklists.store import StoredEntry, StoreUnavailable, Transaction, WorklistStore
from scp.worklists.tags import InvalidTags, data_set_of

log = logging.getLogger(__name__)

REMEMBERED: Final = 7 * 86400  # seconds that an answered message is remembered
_PERFORMED: Final = ("STARTED", "DEPARTED", "COMPLETED")  # what has begun is not scheduled again by a late change
_END: Final = "\x1f"  # between an order's number and its step's


class Processor:
    """Uses messages. Thread-safe: messages wait for each other at the database."""

    def __init__(
        self,
        store: WorklistStore,
        rejected: RejectedMessages,
        settings: Hl7Settings,
        station: str,
        *,
        make_study: bool = True,
    ) -> None:
        """`station` is the ScheduledStationAETitle of steps without one; `make_study`: see `make_entry`."""
        self._make_study = make_study
        self._store = store
        self._rejected = rejected
        self._settings = settings
        self._station = station
        self.counters = {"messages": 0, "repeated": 0, "rejected": 0}

    def process(self, content: bytes, peer: str) -> bytes | None:
        """Use the message between MLLP's start and end blocks; what to answer, None for nothing. Never raises."""
        self.counters["messages"] += 1
        try:
            return self._use(content)
        except Rejected as reason:
            rejected = reason
        except StoreUnavailable as error:
            rejected = Rejected("AE", INTERNAL_ERROR, "", 0, "the worklist cannot be written now")
            log.error("hl7_store_unavailable reason=%r", str(error))  # noqa: TRY400 - one line per event
        except Exception as error:  # noqa: BLE001 - the sender must be answered; its text may hold a value
            rejected = Rejected("AE", INTERNAL_ERROR, "", 0, "the message could not be used")
            log.error("hl7_message_failed exception=%s", type(error).__name__)  # noqa: TRY400 - as above
        self.counters["rejected"] += 1
        kept = self._rejected.keep(content)
        log.warning(
            "hl7_message_rejected code=%s condition=%d segment=%s field=%d reason=%r address=%s kept_as=%s",
            rejected.code,
            rejected.condition,
            rejected.segment,
            rejected.field,
            str(rejected),
            peer,
            kept,
        )
        return acknowledgement(content, rejected)

    def forget(self) -> None:
        """Drop the memory of messages answered long ago."""
        with self._store.transaction() as changes:
            changes.connection.execute("DELETE FROM message WHERE received_at < ?", (time.time() - REMEMBERED,))

    def _use(self, content: bytes) -> bytes | None:
        message = Message(content, self._settings.character_set)
        steps = steps_of(message, self._settings)
        keys = [(step.order, step.step_id) for step in steps]
        if len(set(keys)) < len(keys):
            raise Rejected(
                "AE", REQUIRED_FIELD_MISSING, "OBR", 20, "several steps of an order have the same id or none"
            )
        control_id, digest = message.header.text(10), hashlib.sha256(content).digest()
        sender = hashlib.sha256(f"{message.header.raw(3)}\r{message.header.raw(4)}".encode()).hexdigest()
        with self._store.transaction() as changes:
            known = changes.connection.execute(
                "SELECT acknowledgement FROM message WHERE sender = ? AND control_id = ? AND digest = ?",
                (sender, control_id, digest),
            ).fetchone()
            if known:
                self.counters["repeated"] += 1
                return known[0] or None
            for step in steps:
                self._apply(changes, step)
            answer = acknowledgement(content, None)
            changes.connection.execute(
                "INSERT OR REPLACE INTO message VALUES (?, ?, ?, ?, ?)",
                (sender, control_id, digest, time.time(), answer or b""),
            )
        log.info("hl7_message_used steps=%d", len(steps))
        return answer

    def _apply(self, changes: Transaction, step: Step) -> None:
        siblings = changes.by_order_prefix(step.order + _END)
        existing = _meant(step, siblings)
        if not step.is_open:
            if not existing:
                raise Rejected("AE", UNKNOWN_KEY, "ORC", 2, "there is no such order in the worklist")
            for known in existing:
                dataset = read_data_set(known.data_set)
                dataset.ScheduledProcedureStepSequence[0].ScheduledProcedureStepStatus = step.status
                self._put(changes, dataset, known, step)
            return
        if len(existing) > 1:
            raise Rejected("AE", REQUIRED_FIELD_MISSING, "OBR", 20, "the order has several steps: which one is meant?")
        entry = existing[0] if existing else None
        dataset = read_data_set(entry.data_set) if entry else _new(siblings)
        scheduled = dataset.ScheduledProcedureStepSequence[0]
        performed = scheduled.get("ScheduledProcedureStepStatus") in _PERFORMED
        _overlay(dataset, step.study)
        _overlay(scheduled, {**step.step, "ScheduledProcedureStepStatus": None} if performed else step.step)
        self._put(changes, dataset, entry, step)

    def _put(self, changes: Transaction, dataset: Dataset, existing: StoredEntry | None, step: Step) -> None:
        try:
            entry, _ = make_entry(dataset, self._station, make_study=self._make_study)
        except Unusable as error:
            raise Rejected("AE", REQUIRED_FIELD_MISSING, "", 0, str(error)) from error
        changes.put(entry, existing.id if existing else None, f"{step.order}{_END}{step.step_id}")


def _meant(step: Step, siblings: list[StoredEntry]) -> list[StoredEntry]:
    """The entries of this order that the message speaks of: without a step's id, all of them."""
    if not step.step_id:
        return siblings
    named = {entry.order_key: entry for entry in siblings}
    found = named.get(f"{step.order}{_END}{step.step_id}") or named.get(f"{step.order}{_END}")
    return [found] if found else []


def _new(siblings: list[StoredEntry]) -> Dataset:
    """An empty entry; steps of one order belong to one study and one requested procedure."""
    dataset = Dataset()
    dataset.ScheduledProcedureStepSequence = [Dataset()]
    if siblings:
        other = read_data_set(siblings[0].data_set)
        for keyword in ("StudyInstanceUID", "RequestedProcedureID"):
            if keyword in other:
                dataset[keyword] = other[keyword]
    return dataset


def _overlay(dataset: Dataset, values: Values) -> None:
    try:
        said = data_set_of({keyword: value for keyword, value in values.items() if value is not None})
    except InvalidTags as error:
        raise Rejected("AE", DATA_TYPE, "", 0, str(error)) from error
    for element in said:
        dataset[element.tag] = element
