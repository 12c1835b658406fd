"""Person names (PN): matched by component group, without regard to case unless configured otherwise.

PS3.4 C.2.2.2.1.1 leaves case, accents and component groups to the implementation. Isen's choice: accents count unless
fuzzy matching was negotiated, and a key of one group matches any of the stored groups: `YAMADA*` and `山田*` both
find `Yamada^Tarou=山田^太郎`; of a key with `=` each group that is not empty must match the stored group at its place.
Trailing empty components and groups mean nothing (PS3.5 6.2.1.1).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

from scp.matching.fuzzy_name import compile_fuzzy_name
from scp.matching.options import MatchingOptions
from scp.matching.wild_card import compile_wild_card, has_wild_card

GroupTest = Callable[[str], bool] | None  # None: any


def compile_person_name(key: str, options: MatchingOptions) -> Callable[[str], bool]:
    """A function that says whether a stored name matches the key."""
    literal = _compile_literally(key, options)
    if not options.fuzzy_person_names:
        return literal
    fuzzy = compile_fuzzy_name(key)
    return lambda name: literal(name) or fuzzy(name)


def _compile_literally(key: str, options: MatchingOptions) -> Callable[[str], bool]:
    fold = str if options.case_sensitive_person_names else _fold_case
    tests = [_compile_group(group) for group in _groups(fold(key))]
    if len(tests) == 1:
        test = tests[0]
        return lambda name: test is None or any(test(group) for group in _groups(fold(name)))
    return lambda name: _match_groups(tests, _groups(fold(name)))


def _match_groups(tests: list[GroupTest], groups: list[str]) -> bool:
    groups = groups + [""] * (len(tests) - len(groups))
    return all(test is None or test(group) for test, group in zip(tests, groups, strict=False))


def _groups(name: str) -> list[str]:
    return [group.rstrip("^ ") for group in name.rstrip("=").split("=")]


def _compile_group(pattern: str) -> GroupTest:
    if not pattern.strip("*"):
        return None
    if not has_wild_card(pattern):
        return pattern.__eq__
    test = compile_wild_card(pattern)
    carets = pattern.count("^")
    if not carets:
        return test
    # `SMITH^*` asks for the stored `SMITH`, which is `SMITH^` with its empty components left out
    return lambda group: test(group) or test(group + "^" * (carets - group.count("^")))


def _fold_case(name: str) -> str:
    """Case folding that keeps every character one character, because `?` counts them: `ß` stays `ß`."""
    if name.isascii():
        return name.lower()
    folded = (c.casefold() if len(c.casefold()) == 1 else c.lower() for c in name)
    return unicodedata.normalize("NFC", "".join(folded))
