"""The character set of answers: Orthanc's DefaultEncoding where it has every character, else ISO_IR 192."""

from __future__ import annotations

from collections.abc import Iterator, MutableSequence
from typing import Any, Final

from pydicom.charset import convert_encodings, decode_bytes, encode_string
from pydicom.dataset import Dataset
from pydicom.valuerep import TEXT_VR_DELIMS

from scp.matching.candidate import CHARACTER_SET_VRS

UTF_8: Final = "ISO_IR 192"
# Orthanc's DefaultEncoding -> the terms of SpecificCharacterSet it answers with (PS3.3 C.12.1.1.2)
TERMS: Final = {
    "Ascii": (),
    "Utf8": (UTF_8,),
    "Latin1": ("ISO_IR 100",),
    "Latin2": ("ISO_IR 101",),
    "Latin3": ("ISO_IR 109",),
    "Latin4": ("ISO_IR 110",),
    "Latin5": ("ISO_IR 148",),
    "Cyrillic": ("ISO_IR 144",),
    "Windows1251": ("ISO_IR 144",),
    "Arabic": ("ISO_IR 127",),
    "Greek": ("ISO_IR 126",),
    "Hebrew": ("ISO_IR 138",),
    "Thai": ("ISO_IR 166",),
    "Japanese": ("ISO_IR 13",),
    "Chinese": ("GB18030",),
    "JapaneseKanji": ("", "ISO 2022 IR 87"),
    "Korean": ("", "ISO 2022 IR 149"),
    "SimplifiedChinese": ("", "ISO 2022 IR 58"),
}


def python_encoding(default_encoding: str) -> str:
    """Python's name of the character set that data sets without SpecificCharacterSet are in."""
    if default_encoding == "Windows1251":
        return "cp1251"
    terms = TERMS.get(default_encoding, ())
    return convert_encodings(list(terms))[-1] if terms else "ascii"


def set_character_set(answer: Dataset, default_encoding: str) -> None:
    """Give `answer` a SpecificCharacterSet that has all its characters; none if it needs none (PS3.4 C.4.1.1.3.2)."""
    texts = [text for text in _texts(answer) if not text.isascii()]
    terms = TERMS.get(default_encoding, ())
    if texts and not _can_hold(terms, texts):
        terms = (UTF_8,)
    if terms:
        answer.SpecificCharacterSet = terms[0] if len(terms) == 1 else list(terms)


def _can_hold(terms: tuple[str, ...], texts: list[str]) -> bool:
    if not terms:
        return False
    encodings = convert_encodings(list(terms))
    if not terms[0] and any(_is_latin_1(text) for text in texts):
        return False  # pydicom takes ISO IR 6 for Latin-1, and writes what nobody may expect there
    for text in texts:
        try:
            if decode_bytes(encode_string(text, encodings), encodings, TEXT_VR_DELIMS) != text:
                return False
        except (UnicodeError, LookupError, ValueError):
            return False
    return True


def _is_latin_1(text: str) -> bool:
    return any("\x80" <= character <= "\xff" for character in text)


def _texts(dataset: Dataset) -> Iterator[str]:
    for element in dataset.values():
        value: Any = element.value
        if element.VR == "SQ":
            for item in value or ():
                yield from _texts(item)
        elif element.VR in CHARACTER_SET_VRS and value:
            yield from map(str, value if isinstance(value, MutableSequence) else [value])
