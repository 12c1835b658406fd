"""What another system, such as a RIS, is still to be told of a performed procedure step; part of the step's file."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any, Final

from pydicom.dataset import Dataset

N_CREATE: Final = "N-CREATE"
N_SET: Final = "N-SET"
FIRST_PAUSE: Final = 5.0  # seconds after a message was refused for the time being; doubles
LONGEST_PAUSE: Final = 900.0


@dataclass(frozen=True)
class Message:
    """One message as the modality sent it, its values in UTF-8."""

    operation: str
    attributes: Dataset
    received_at: float  # Unix time


@dataclass(frozen=True)
class Forwarding:
    """Messages in their order: each is sent once the one before was answered, and dropped when it was."""

    pending: tuple[Message, ...] = ()
    attempts: int = 0  # of the first one
    next_attempt: float = 0.0  # Unix time
    reason: str = ""  # of the last attempt that failed
    is_refused: bool = False  # a message was refused for good, or given up
    is_over: bool = False  # the step itself was: nothing more is sent

    @property
    def state(self) -> str:
        """For people."""
        if self.pending:
            return "Pending"
        return "Refused" if self.is_refused else "Forwarded"

    def with_message(self, message: Message) -> Forwarding:
        return self if self.is_over else replace(self, pending=(*self.pending, message))

    def delivered(self) -> Forwarding:
        """The first message was taken."""
        return replace(self, pending=self.pending[1:], attempts=0, next_attempt=0.0)

    def refused(self, reason: str) -> Forwarding:
        """The first message will never be taken. Without its N-CREATE no N-SET of a step can be (PS3.4 F.7.2.2.2)."""
        is_over = self.pending[0].operation == N_CREATE
        pending = () if is_over else self.pending[1:]
        return Forwarding(pending, reason=reason, is_refused=True, is_over=is_over)

    def postponed(self, reason: str) -> Forwarding:
        """The first message was not taken now."""
        pause = min(FIRST_PAUSE * 2 ** min(self.attempts, 16), LONGEST_PAUSE)
        return replace(self, attempts=self.attempts + 1, next_attempt=time.time() + pause, reason=reason)

    def to_json(self) -> dict[str, Any]:
        """`Attributes` are the DICOM JSON Model (PS3.18 F.2)."""
        return {
            "State": self.state,
            "Attempts": self.attempts,
            "NextAttempt": self.next_attempt,
            "Reason": self.reason,
            "IsRefused": self.is_refused,
            "IsOver": self.is_over,
            "Pending": [
                {"Operation": one.operation, "ReceivedAt": one.received_at, "Attributes": one.attributes.to_json_dict()}
                for one in self.pending
            ],
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Forwarding:
        pending = tuple(
            Message(one["Operation"], Dataset.from_json(one["Attributes"]), one["ReceivedAt"])
            for one in document["Pending"]
        )
        return cls(
            pending,
            document["Attempts"],
            document["NextAttempt"],
            document["Reason"],
            document["IsRefused"],
            document["IsOver"],
        )
