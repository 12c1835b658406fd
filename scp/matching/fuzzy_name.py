"""Fuzzy semantic matching of person names (PS3.4 C.2.2.2.1.1), once it is negotiated (C.5.1.1, byte 3).

What is fuzzy is left to the implementation. Isen's: a key is a set of words, each of which must be like one of the
words of the stored name, in whatever order, component or component group. Words are alike if they are equal without
case, accents, ligatures and width of characters (`Müller`, `MULLER`; hiragana and katakana are equal too), or if they
sound alike by H. J. Postel's rules for names (the Kölner Phonetik of 1969: `Müller`, `Mueller`, `Miller`; `Meyer`,
`Maier`; `Stephen`, `Steven`), which say nothing of names with a single consonant: `Lee` is not `Lau`. A word with wild
cards is matched as it is written, without case and accents. Whatever matches literally matches fuzzily as well.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from typing import Final, NamedTuple

from scp.matching.wild_card import compile_wild_card, has_wild_card

_SEPARATORS: Final = re.compile(r"[\^=\s,.;]+")
_WITHIN_WORDS: Final = str.maketrans("", "", "-'`\u2019\u2010\u2011")  # O'Neil is Oneil, Jean-Luc is Jeanluc
_LIGATURES: Final = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "\u0131": "i"}
    | {chr(katakana): chr(katakana - 0x60) for katakana in range(0x30A1, 0x30F7)}
)
_LEAST_SOUNDS: Final = 2  # digits of a phonetic code that say enough

_SINGLE: Final = {
    **dict.fromkeys("aeijouy", "0"),
    **dict.fromkeys("bp", "1"),
    **dict.fromkeys("dt", "2"),
    **dict.fromkeys("fvw", "3"),
    **dict.fromkeys("gkq", "4"),
    "l": "5",
    **dict.fromkeys("mn", "6"),
    "r": "7",
    **dict.fromkeys("sz", "8"),
}
_HARD_C: Final = {"first": "ahkloqrux", "later": "ahkoqux"}  # letters before which C is a K


class _Word(NamedTuple):
    text: str  # folded
    sound: str  # empty: it does not say enough


def compile_fuzzy_name(key: str) -> Callable[[str], bool]:
    """A function that says whether a stored name is like the key."""
    tests = [_compile_word(text) for text in _split(key) if text.strip("*")]
    return lambda name: all(any(map(test, _words(name))) for test in tests)


def fold(name: str) -> str:
    """A name without case, accents, ligatures and width; kana keep the marks that make other syllables of them."""
    decomposed = unicodedata.normalize("NFKD", name.casefold())
    bare = "".join(c for c in decomposed if not "\u0300" <= c <= "\u036f")
    return unicodedata.normalize("NFC", bare).translate(_LIGATURES)


def sound(word: str) -> str:
    """The phonetic code of a folded word: a digit for each group of consonants, 0 for vowels at its beginning."""
    letters = [letter for letter in word if "a" <= letter <= "z"]
    if len(letters) != len(word):
        return ""  # the rules are for Latin letters
    codes = "".join(_code(letters, index) for index in range(len(letters)))
    distinct = re.sub(r"(.)\1+", r"\1", codes)
    return distinct[:1] + distinct[1:].replace("0", "")


def _compile_word(text: str) -> Callable[[_Word], bool]:
    if has_wild_card(text):
        matches = compile_wild_card(text)
        return lambda word: matches(word.text)
    asked = _word(text)
    return lambda word: word.text == asked.text or bool(asked.sound and word.sound == asked.sound)


def _split(name: str) -> list[str]:
    return [word for word in _SEPARATORS.split(fold(name).translate(_WITHIN_WORDS)) if word]


@lru_cache(maxsize=16384)
def _words(name: str) -> tuple[_Word, ...]:
    return tuple(map(_word, _split(name)))


def _word(text: str) -> _Word:
    code = sound(text)
    return _Word(text, code if len(code.replace("0", "")) >= _LEAST_SOUNDS else "")


def _code(letters: list[str], index: int) -> str:
    letter = letters[index]
    before = letters[index - 1] if index else ""
    after = letters[index + 1] if index + 1 < len(letters) else ""
    if letter == "p" and after == "h":
        return "3"
    if letter in "dt" and after and after in "csz":
        return "8"
    if letter == "x":
        return "8" if before and before in "ckq" else "48"
    if letter == "c":
        is_hard = after and after in _HARD_C["later" if index else "first"] and not (before and before in "sz")
        return "4" if is_hard else "8"
    return _SINGLE.get(letter, "")  # H is silent
