"""Stores of the benchmark: uploads are held back while images arrive, so each must show what that costs."""

from __future__ import annotations

import pytest

from tests.bench import work_store
from tests.bench.table import FULL, QUICK, Form, Sample


@pytest.mark.parametrize("form", [QUICK, FULL], ids=lambda form: form.name)
def test_each_store_has_a_row_for_when_all_is_in_s3(form: Form) -> None:
    cases = [case for work in work_store.works(form) for case in work.cases]
    stored = [case.title for case in cases if case.work == "store"]
    assert stored
    assert [case.title for case in cases if case.work == "stored and in S3"] == stored


def test_a_slow_one_is_not_rounded_to_nothing() -> None:
    """500 MB take ten seconds and more."""
    sample = Sample(0.5, {"images": 1, "seconds_until_all_in_s3": 25.0})
    assert work_store._until_in_s3(sample).value == pytest.approx(0.04)
