"""Floods of one event are thinned, and said to be."""

from __future__ import annotations

import io
import logging
import time

from scp.log_limit import EventLimit


def test_a_flood_is_thinned_and_counted() -> None:
    output = io.StringIO()
    handler = logging.StreamHandler(output)
    handler.addFilter(EventLimit())
    log = logging.getLogger("tests.log_limit")
    log.propagate = False
    log.addHandler(handler)
    while time.monotonic() % 1 > 0.3:
        time.sleep(0.01)
    for number in range(500):
        log.warning("connection_refused address=%s", number)
    log.warning("other_event reason=%r", "100%s")
    lines = output.getvalue().splitlines()
    assert len(lines) == 21
    assert lines[-1] == "other_event reason='100%s'"
    time.sleep(1)
    log.warning("later address=%s", "%d")
    assert output.getvalue().splitlines()[-1] == "later address=%d lines_held_back_before=480"
