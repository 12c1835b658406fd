"""The bounds on what a peer may send, taken from the settings once per worker."""

from __future__ import annotations

from dataclasses import dataclass

from config.settings import DicomSettings


@dataclass(frozen=True)
class Limits:
    """Sizes are bytes, times are seconds, rates are bytes per second; None = no limit."""

    maximum_pdu_length: int  # what we announce, PS3.8 Annex D.1
    maximum_associate_length: int
    maximum_user_items: int
    maximum_command_length: int
    maximum_identifier_length: int
    maximum_data_set_length: int
    maximum_sequence_depth: int
    maximum_inflated_length: int
    data_set_memory: int
    idle_timeout: float | None  # between messages, and between the PDUs of one message
    pdu_timeout: float  # without a byte inside a PDU
    minimum_receive_rate: int  # of a message, once it took longer than `slow_message_grace`
    slow_message_grace: float

    @classmethod
    def of(cls, settings: DicomSettings) -> Limits:
        return cls(
            maximum_pdu_length=settings.maximum_pdu_length,
            maximum_associate_length=settings.maximum_associate_length,
            maximum_user_items=settings.maximum_user_items,
            maximum_command_length=settings.maximum_command_length,
            maximum_identifier_length=settings.maximum_identifier_length,
            maximum_data_set_length=settings.maximum_data_set_length,
            maximum_sequence_depth=settings.maximum_sequence_depth,
            maximum_inflated_length=settings.maximum_inflated_length,
            data_set_memory=settings.data_set_memory,
            idle_timeout=float(settings.scp_timeout) or None,
            pdu_timeout=settings.pdu_timeout,
            minimum_receive_rate=settings.minimum_receive_rate,
            slow_message_grace=settings.slow_message_grace,
        )
