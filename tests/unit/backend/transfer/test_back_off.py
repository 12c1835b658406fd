from __future__ import annotations

from backend.transfer.back_off import back_off


def test_it_grows_is_capped_and_varies() -> None:
    for failures, longest in ((1, 0.5), (2, 1.0), (5, 8.0), (10, 30.0), (10_000, 30.0)):
        pauses = [back_off(failures, first=0.5, cap=30.0) for _ in range(200)]
        assert 0.8 * longest < max(pauses) <= longest
        assert 0.1 * longest <= min(pauses) < 0.3 * longest
