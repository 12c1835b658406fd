"""Fuzzy semantic matching of person names: PS3.4 C.2.2.2.1.1, negotiated by byte 3 of C.5.1.1."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scp.matching import MatchingOptions
from scp.matching.fuzzy_name import fold, sound
from scp.matching.person_name import compile_person_name
from tests.fakes.data_sets import data_set, received
from tests.unit.scp.matching.helpers import compiled
from tests.unit.scp.matching.test_against_reference import NAME, NAME_PATTERN, unhurried

LITERAL, FUZZY = MatchingOptions(), MatchingOptions(fuzzy_person_names=True)


class TestC222111FuzzySemanticMatching:
    @pytest.mark.parametrize(
        ("key", "stored"),
        [
            ("muller^elodie", "Müller^Élodie"),
            ("Mueller^Elodie", "Müller^Élodie"),
            ("Elodie Müller", "Müller^Élodie"),
            ("MILLER", "Müller^Élodie"),
            ("Meier^Hans", "Maier^Hans^Peter^Dr."),
            ("Steven^Philips", "Phillips^Stephen"),
            ("Catherine", "Smith^Katharine"),
            ("SMYTH^J*", "Smith^John"),
            ("J*^SMITH", "Smith^John"),
            ("oneil", "O'Neil^Shaun"),
            ("Jean Luc*", "Picard^Jean^Luc"),
            ("strasse", "Straße^A"),
            ("lodz", "Łódź^B"),
            ("Mohamed", "MUHAMMAD^ALI"),
            ("ヤマダ", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
            ("太郎^山田", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
            ("ﾔﾏﾀﾞ", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ],
    )
    def test_words_are_alike_whatever_their_order_spelling_and_component(self, key: str, stored: str) -> None:
        assert compile_person_name(key, FUZZY)(stored)
        assert not compile_person_name(key, LITERAL)(stored)

    @pytest.mark.parametrize(
        ("key", "stored"),
        [
            ("Lee", "Lau^A"),
            ("Smith^Mary", "Smith^John"),
            ("Schulz", "Schmidt^A"),
            ("かく", "==がく"),
            ("山田", "鈴木^太郎"),
            ("Иванов", "Петров^Иван"),
            ("SMITH^X*", "Smith^John"),
        ],
    )
    def test_every_word_of_the_key_must_be_like_one_of_the_name(self, key: str, stored: str) -> None:
        assert not compile_person_name(key, FUZZY)(stored)

    @unhurried
    @given(NAME_PATTERN | NAME, NAME)
    def test_what_matches_literally_matches_fuzzily(self, key: str, stored: str) -> None:
        if compile_person_name(key, LITERAL)(stored):
            assert compile_person_name(key, FUZZY)(stored)

    @unhurried
    @given(st.permutations(["Müller", "Élodie", "Anna", "von"]))
    def test_the_order_of_words_says_nothing(self, words: list[str]) -> None:
        assert compile_person_name(" ".join(words), FUZZY)("Müller^Anna^Élodie^^von")

    @unhurried
    @given(st.text(max_size=20), st.text(max_size=20))
    def test_no_text_makes_it_raise(self, key: str, stored: str) -> None:
        compile_person_name(key, FUZZY)(stored)

    def test_names_are_answered_as_they_are_stored(self) -> None:
        stored = received(data_set(SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Élodie"))
        matcher = compiled({"PatientName": "Miller"}, fuzzy_person_names=True)
        assert matcher.matches(stored)
        assert str(matcher.answer(stored).PatientName) == "Müller^Élodie"

    def test_other_attributes_are_not_fuzzy(self) -> None:
        stored = received(data_set(PatientID="Müller"))
        assert not compiled({"PatientID": "Mueller"}, fuzzy_person_names=True).matches(stored)


@pytest.mark.parametrize(
    ("word", "code"),
    [
        ("wikipedia", "3412"),
        ("mueller", "657"),
        ("luedenscheidt", "52682"),
        ("breschnew", "17863"),
        ("heinzclassen", "068586"),
        ("xaver", "4837"),
        ("philip", "351"),
        ("cech", "84"),
        ("ivan", "036"),
        ("иванов", ""),
    ],
)
def test_the_sound_of_a_word(word: str, code: str) -> None:
    assert sound(word) == code


def test_folding_keeps_the_marks_that_make_kana() -> None:
    assert fold("ガク") == "がく"
    assert fold("ÉLODIE Ægir") == "elodie aegir"
