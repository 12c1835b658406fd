"""`python -m backend.stack run|demo`: what `make run` and `make demo` execute."""

from __future__ import annotations

import sys

from backend.stack.demo import demo
from backend.stack.run import run

COMMANDS = {"run": run, "demo": demo}

if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in COMMANDS:
        sys.exit("usage: python -m backend.stack run|demo")
    sys.exit(COMMANDS[sys.argv[1]]())
