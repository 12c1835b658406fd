"""JSON of a request's body, read without harm to Orthanc."""

from __future__ import annotations

import json
import re
from typing import Any, Final

_DEEPEST: Final = 16  # levels; what Isen is asked for has three
_TOKENS: Final = re.compile(r'(?s)"(?:[^"\\]|\\.)*+"?|[\[{}\]]')  # strings, which may hold brackets, and brackets


def read_json(body: bytes) -> Any:
    """What `body` holds.

    Python's parser recurses, and the threads of Orthanc's HTTP server have a stack of 100 KB: a body of nested lists
    was the end of Orthanc.

    Raises:
        ValueError: it is not JSON in UTF-8, or nested deeper than anything that is asked for.
    """
    text = body.decode()
    depth = 0
    for token in _TOKENS.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0)
        if depth > _DEEPEST:
            raise ValueError("nested too deeply")
    return json.loads(text)
