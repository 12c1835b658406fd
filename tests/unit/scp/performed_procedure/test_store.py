"""Performed procedure steps as files, and the worklist that is told of them."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from scp.performed_procedure import store
from scp.performed_procedure.rules import created, updated
from scp.performed_procedure.store import PerformedProcedureSteps, StoredStep, now
from scp.performed_procedure.worklist_link import WorklistLink
from scp.statuses import DUPLICATE_SOP_INSTANCE, RESOURCE_LIMITATION, Refusal
from tests.fakes.performed_steps import creation, ending

STEP = StoredStep("1.2.3", "CT1", now(), created(creation()), changed_at=now())


@pytest.fixture
def steps(tmp_path: Path) -> PerformedProcedureSteps:
    return PerformedProcedureSteps(tmp_path)


def test_a_step_survives_as_it_was(steps: PerformedProcedureSteps, tmp_path: Path) -> None:
    steps.create(STEP)
    assert PerformedProcedureSteps(tmp_path).get("1.2.3") == STEP
    assert steps.get("1.2.4") is None
    (path,) = (tmp_path / "steps").iterdir()
    assert "1.2.3" not in path.name
    assert json.loads(path.read_text())["PerformedProcedureStepStatus"] == "IN PROGRESS"


def test_it_is_made_once_and_replaced(steps: PerformedProcedureSteps) -> None:
    steps.create(STEP)
    with pytest.raises(Refusal) as refused:
        steps.create(replace(STEP, calling_ae_title="CT2"))
    assert refused.value.status == DUPLICATE_SOP_INSTANCE
    attributes, _ = updated(STEP.attributes, ending())
    steps.replace(replace(STEP, attributes=attributes))
    found = steps.get("1.2.3")
    assert found == replace(STEP, attributes=attributes)


def test_a_full_disk_leaves_it_as_it_was(steps: PerformedProcedureSteps, monkeypatch: pytest.MonkeyPatch) -> None:
    steps.create(STEP)
    attributes, _ = updated(STEP.attributes, ending())

    def fail(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    for action, step in (
        (steps.replace, replace(STEP, attributes=attributes)),
        (steps.create, replace(STEP, sop_instance_uid="1.2.4")),
    ):
        with pytest.raises(Refusal) as refused:
            action(step)
        assert refused.value.status == RESOURCE_LIMITATION
    assert steps.get("1.2.3") == STEP
    assert steps.get("1.2.4") is None


def test_a_step_that_grows_too_large_stays_as_it_was(
    steps: PerformedProcedureSteps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each N-SET may add attributes, and a message to be forwarded: without a bound they would fill the memory."""
    steps.create(STEP)
    monkeypatch.setattr(store, "MAXIMUM_LENGTH", len(STEP.encode()))
    steps.replace(STEP)
    larger = replace(STEP, calling_ae_title=STEP.calling_ae_title + "X")
    for action in (steps.replace, steps.create):
        with pytest.raises(Refusal, match="too large") as refused:
            action(larger)
        assert refused.value.status == RESOURCE_LIMITATION
    assert steps.get("1.2.3") == STEP


def test_old_steps_are_forgotten(steps: PerformedProcedureSteps, tmp_path: Path) -> None:
    steps.create(STEP)
    steps.create(replace(STEP, sop_instance_uid="1.2.4"))
    (old, _) = (tmp_path / "steps").iterdir()
    os.utime(old, (0, 0))
    assert steps.forget_before(time.time() - 100) == 1
    assert len(list((tmp_path / "steps").iterdir())) == 1


def test_a_worklist_that_cannot_be_written_does_not_keep_a_modality_from_reporting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    WorklistLink(tmp_path / "file" / "worklists", "UNKNOWN").tell(STEP.attributes)
    assert "worklist_not_told status='STARTED' exception=DatabaseUnusable" in caplog.text
    WorklistLink(None, "UNKNOWN").tell(STEP.attributes)
