"""What an administrator changes through Orthanc's REST API, and when it counts."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from pydicom.uid import JPEG2000Lossless

from backend.stack.processes import wait_until
from config.settings import DicomSettings, Modality
from scp.administration import LISTED_TRANSFER_SYNTAXES, CurrentSettings, RunTimeValues
from scp.orthanc_client import OrthancUnreachable
from scp.upper_layer.negotiation import uid_matcher

CT = Modality(name="ct", ae_title="CT1", host="192.0.2.1", port=104)
HTJ2K = "1.2.840.10008.1.2.4.201"  # Orthanc 1.10.1 has not heard of it
CHANGED = RunTimeValues((CT,), "Greek", sorted(LISTED_TRANSFER_SYNTAXES), unknown_sop_class_accepted=True)


@dataclass
class FakeAdministration:
    """Orthanc's answers; `held` delays them."""

    values: RunTimeValues = CHANGED
    fails: bool = False
    asked: int = 0
    released: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.released.set()

    def __call__(self) -> RunTimeValues:
        values = self.values
        self.asked += 1
        self.released.wait(10)
        if self.fails:
            raise OrthancUnreachable("GET /modalities: ReadTimeoutError")
        return values


def accepts(current: CurrentSettings, uid: str) -> bool:
    settings = current()
    is_accepted, is_rejected = (
        uid_matcher(patterns) for patterns in (settings.accepted_transfer_syntaxes, settings.rejected_transfer_syntaxes)
    )
    return is_accepted(uid) and not is_rejected(uid)


def test_the_configuration_counts_until_orthanc_has_answered() -> None:
    configured = DicomSettings(modalities=(CT,), default_encoding="Latin2")
    assert CurrentSettings(configured, FakeAdministration())() == configured
    in_database = CurrentSettings(configured.model_copy(update={"modalities_in_database": True}), None)
    assert in_database().modalities == (), "with the modalities in the database, those of the file mean nothing"


def test_what_was_changed_counts_after_a_refresh() -> None:
    current = CurrentSettings(DicomSettings(), FakeAdministration())
    current.refresh()
    settings = current()
    assert (settings.modalities, settings.default_encoding) == ((CT,), "Greek")
    assert settings.unknown_sop_class_accepted


def test_as_long_as_nothing_changes_the_settings_are_the_same_object() -> None:
    current = CurrentSettings(DicomSettings(), FakeAdministration())
    current.refresh()
    before = current()
    current.refresh()
    assert current() is before


def test_unchanged_transfer_syntaxes_are_those_of_the_configuration_unknown_to_orthanc_or_not() -> None:
    current = CurrentSettings(DicomSettings(), FakeAdministration())
    current.refresh()
    assert accepts(current, HTJ2K)


@pytest.mark.parametrize("configured", [{}, {"rejected_transfer_syntaxes": ("1.2.840.10008.1.2.5",)}])
def test_changed_transfer_syntaxes_are_those_that_orthanc_lists(configured: dict[str, tuple[str, ...]]) -> None:
    listed = [uid for uid in CHANGED.accepted_transfer_syntaxes if uid != JPEG2000Lossless]
    administration = FakeAdministration(replace(CHANGED, accepted_transfer_syntaxes=listed))
    current = CurrentSettings(DicomSettings(**configured), administration)  # type: ignore[arg-type]
    current.refresh()
    assert not accepts(current, JPEG2000Lossless)
    assert not accepts(current, HTJ2K)
    assert accepts(current, "1.2.840.10008.1.2.5"), "accepted anew although the configuration rejects it"
    administration.values = CHANGED
    current.refresh()
    assert accepts(current, JPEG2000Lossless)


def test_when_orthanc_does_not_answer_the_last_values_hold_and_nobody_waits_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    administration = FakeAdministration()
    current = CurrentSettings(DicomSettings(), administration)
    current.refresh()
    administration.fails = True
    for _ in range(3):
        current.refresh()
    assert current().modalities == (CT,)
    assert administration.asked == 2
    assert [record.getMessage() for record in caplog.records] == [
        "administration_not_read exception=OrthancUnreachable"
    ]


def in_threads(*calls: Callable[[], None]) -> list[threading.Thread]:
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    return threads


def test_associations_that_arrive_meanwhile_share_a_round_that_began_after_they_did() -> None:
    """A round under way may have read what was changed since: those who come later wait for the next one."""
    administration = FakeAdministration()
    current = CurrentSettings(DicomSettings(), administration)
    administration.released.clear()
    first = in_threads(current.refresh)
    wait_until(lambda: administration.asked == 1, 10, "the first round is under way")
    administration.values = replace(CHANGED, default_encoding="Hebrew")
    others = in_threads(*[current.refresh] * 8)
    frames = sys._current_frames
    wait_until(
        lambda: sum(frame.f_code is current.refresh.__code__ for frame in frames().values()) == 8, 10, "all eight wait"
    )
    administration.released.set()
    for thread in first + others:
        thread.join(10)
    assert current().default_encoding == "Hebrew"
    assert administration.asked == 2
