"""Bodies that would be the end of Orthanc are refused before Python's parser sees them."""

from __future__ import annotations

import json

import pytest

from backend.plugin.request_json import read_json


@pytest.mark.parametrize(
    "value", ['[["{[", {"a": []}]]', '"]]]["', r'["\"[", "\\"]', "[" * 16 + "]" * 16, "[[]," * 3 + "1]]]"]
)
def test_what_is_asked_for_is_read(value: str) -> None:
    assert read_json(value.encode()) == json.loads(value)


def test_brackets_in_texts_are_no_levels() -> None:
    assert read_json(b'["' + b"[" * 1000 + b'"]') == ["[" * 1000]


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 17 + b"]" * 17,
        b'{"a":' * 17 + b"1" + b"}" * 17,
        b'["\\\\",' * 17 + b"1" + b"]" * 17,
        ("[" * 17).encode("utf-16"),
        b"{",
        b'"\\',
        b"\xff",
        b"",
    ],
)
def test_what_is_deep_or_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError):
        read_json(body)
