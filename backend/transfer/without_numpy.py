"""Import this before pydicom: headers are read here and never pixels; NumPy would cost 15 MiB and 0.1 s of a start."""

from __future__ import annotations

import sys

sys.modules.setdefault("numpy", None)  # type: ignore[arg-type]  # documented: None makes its import fail
