"""How long to wait after the n-th failure: capped, exponential, with full jitter.

Full jitter (a random part of the whole delay) keeps many clients of one server from coming back all at once.
"""

from __future__ import annotations

import random
from typing import Final

_LONGEST_EXPONENT: Final = 16  # 2**16 is beyond every cap


def back_off(failures: int, *, first: float, cap: float) -> float:
    """Seconds to wait after so many failures in a row; `first` and `cap` are in seconds."""
    longest = min(cap, first * 2.0 ** min(failures - 1, _LONGEST_EXPONENT))
    return random.uniform(0.1 * longest, longest)  # noqa: S311 - not a secret; the lower bound keeps it from spinning
