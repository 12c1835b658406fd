"""Wild card matching of PS3.4 C.2.2.2.4: `*` is any sequence of characters, even none, `?` is any one character.

No pattern makes it slow: its time is proportional to the text's length, times the pattern's length divided by the bits
of a machine word. That is why it is neither a regular expression nor a matcher that backtracks.
"""

from __future__ import annotations

from collections.abc import Callable


def has_wild_card(text: str) -> bool:
    return "*" in text or "?" in text


def compile_wild_card(pattern: str) -> Callable[[str], bool]:
    """A function that says whether a whole text matches `pattern`, which holds at least one wild card."""
    if "?" not in pattern:
        prefix, *middle, suffix = pattern.split("*")
        return lambda text: _has_parts(text, prefix, middle, suffix)
    prefix = pattern.partition("*")[0].partition("?")[0]
    automaton = _Automaton(pattern)
    return lambda text: text.startswith(prefix) and automaton.accepts(text)


def _has_parts(text: str, prefix: str, middle: list[str], suffix: str) -> bool:
    """Whether `text` is prefix, then the middle parts in this order anywhere, then suffix, none overlapping."""
    if not (text.startswith(prefix) and text.endswith(suffix)):
        return False
    position, end = len(prefix), len(text) - len(suffix)
    for part in middle:
        found = text.find(part, position, end)
        if found < 0:
            return False
        position = found + len(part)
    return position <= end


class _Automaton:
    """All states of the pattern at once, one bit each: bit i is set when the first i characters have matched."""

    def __init__(self, pattern: str) -> None:
        self._any_character = 0  # states that any character advances: `?`
        self._characters: dict[str, int] = {}  # states that this character advances
        self._stays = 0  # states with a `*`: any character stays in them
        state = 0
        for character in pattern:
            bit = 1 << state
            if character == "*":
                self._stays |= bit
                continue
            if character == "?":
                self._any_character |= bit
            else:
                self._characters[character] = self._characters.get(character, 0) | bit
            state += 1
        self._final = 1 << state

    def accepts(self, text: str) -> bool:
        states = 1
        for character in text:
            advancing = self._any_character | self._characters.get(character, 0)
            states = (states & advancing) << 1 | states & self._stays
            if not states:
                return False
        return bool(states & self._final)
