"""Import this before pydicom: a worker never touches pixels, and NumPy would cost it 15 MiB and a thread."""

from __future__ import annotations

import sys

sys.modules.setdefault("numpy", None)  # type: ignore[arg-type]  # documented: None makes its import fail
