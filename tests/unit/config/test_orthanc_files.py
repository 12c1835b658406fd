"""Configuration files as Orthanc reads them; the cases were tried on Orthanc 1.10.1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from config.orthanc_files import OrthancFiles, read_files
from config.problems import ConfigurationError

ENVIRONMENT = {"WORD": "hello", "NUMBER": "42", "EMPTY": ""}


def read(text: str, folder: Path) -> OrthancFiles:
    file = folder / "orthanc.json"
    file.write_text(text)
    return read_files([file], ENVIRONMENT)


def refused(paths: list[Path]) -> str:
    with pytest.raises(ConfigurationError) as caught:
        read_files(paths, ENVIRONMENT)
    return str(caught.value)


@pytest.mark.parametrize(
    ("written", "meaning"),
    [
        ('"${WORD}"', "hello"),
        ("${NUMBER}", 42),
        ('"$WORD"', "$WORD"),
        ('"$${WORD}"', "$hello"),
        ('"${WORD}${WORD}"', "hellohello"),
        ('"${UNSET}"', ""),
        ('"${UNSET:-a b}"', "a b"),
        ('"${UNSET:-}"', ""),
        ("\"${UNSET:-'q'}\"", "q"),
        ('"${UNSET:-"q"}"', "q"),
        ('"${UNSET:-http://a:1/b?x}"', "http://a:1/b?x"),
        ('"${UNSET:-a}b}"', "ab}"),
        ('"${UNSET:-it\'s}"', "${UNSET:-it's}"),
        ('"${WORD:-other}"', "hello"),
        ('"${EMPTY:-other}"', ""),
        ('"${WORD:=x}"', "${WORD:=x}"),
        ('"${UNSET:-${WORD}}"', "${WORD}"),
        ('"${ WORD }"', ""),
    ],
)
def test_variables_are_replaced_as_orthanc_does(written: str, meaning: Any, tmp_path: Path) -> None:
    assert read(f'{{"X": {written}}}', tmp_path).configuration == {"X": meaning}


def test_a_variable_that_is_not_set_is_named_in_a_warning(tmp_path: Path) -> None:
    (warning,) = read('{"X": "${UNSET}" /* ${ALSO_UNSET} */, "Y": "${EMPTY}${WORD}${U:-}"}', tmp_path).warnings
    assert warning.startswith("orthanc.json: the environment variable UNSET is not set")


def test_comments_and_last_commas_are_allowed(tmp_path: Path) -> None:
    text = '// first\n{ /* "A": 0, */ "A": [1, 2, /* three */ ], // and\n'
    text += '"B": "// no /* comment */, ]", "C": {"D": "\\"//",},\n}'
    assert read(text, tmp_path).configuration == {"A": [1, 2], "B": "// no /* comment */, ]", "C": {"D": '"//'}}


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "{'A': 1}", "{A: 1}", '{"A": NaN}', '{"A": 0x10}', '{"A": 1 /*', '{"A": [,1]}']
)
def test_what_orthanc_cannot_read_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "orthanc.json").write_text(text)
    assert str(tmp_path / "orthanc.json") in refused([tmp_path / "orthanc.json"])


def test_a_mistake_is_located(tmp_path: Path) -> None:
    (tmp_path / "orthanc.json").write_text('/* one\n   two */\n{\n  "A": 1\n  "B": 2\n}')
    assert "line 5, column 3" in refused([tmp_path])


def test_an_empty_variable_name_stops_orthanc_and_us(tmp_path: Path) -> None:
    (tmp_path / "orthanc.json").write_text('{"A": "${}"}')
    assert "${}" in refused([tmp_path])


def test_a_folder_means_its_json_files(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"A": 1}')
    (tmp_path / "b.JSON").write_text('{"B": 2}')
    (tmp_path / "c.txt").write_text("not read")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "d.json").write_text('{"D": 4}')
    assert read_files([tmp_path], {}).configuration == {"A": 1, "B": 2}


def test_an_option_in_two_files_is_refused_with_both(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"Isen": {}}')
    (tmp_path / "b.json").write_text('{"Isen": {}}')
    message = refused([tmp_path])
    assert message.startswith("Isen: stands in ")
    assert "a.json" in message
    assert "b.json" in message


def test_missing_empty_and_binary_paths_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe")
    message = refused([tmp_path / "nowhere.json", tmp_path / "empty", tmp_path / "binary.json"])
    assert "nowhere.json: cannot be read: No such file" in message
    assert "empty: holds no *.json file" in message
    assert "binary.json: is not UTF-8 text" in message
