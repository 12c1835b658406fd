"""Person names: PS3.4 C.2.2.2.1.1."""

from __future__ import annotations

import pytest

from tests.fakes.data_sets import data_set, received
from tests.unit.scp.matching.helpers import compiled, match

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR")  # pydicom, about what we make it write


class TestC222111PersonName:
    @pytest.mark.parametrize("key", ["smith^john", "SMITH^JOHN", "Smith^John^^", "SMITH^JOHN^^^=="])
    def test_ignores_case_and_trailing_empty_components(self, key: str) -> None:
        assert match("PatientName", key, "Smith^John")

    def test_is_case_sensitive_when_configured(self) -> None:
        assert not match("PatientName", "smith^john", "Smith^John", case_sensitive_person_names=True)
        assert match("PatientName", "Smith^John", "Smith^John", case_sensitive_person_names=True)

    def test_ignores_case_of_accented_letters_but_not_accents(self) -> None:
        stored = data_set(SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Élodie")
        upper = data_set(SpecificCharacterSet="ISO_IR 192", PatientName="MÜLLER^ÉLODIE")
        assert compiled(upper).matches(received(stored))
        assert not compiled({"PatientName": "muller^elodie"}).matches(received(stored))

    @pytest.mark.parametrize(
        ("key", "expected"),
        [
            ("yamada*", True),
            ("山田*", True),
            ("=山田*", True),
            ("Yamada^Tarou=山田^太郎", True),
            ("山田*=*", False),
            ("Yamada*=鈴木*", False),
            ("==やまだ*", True),
            ("==やまだ*=", True),
        ],
    )
    def test_matches_by_component_group(self, key: str, expected: bool) -> None:
        stored = data_set(SpecificCharacterSet="ISO_IR 192", PatientName="Yamada^Tarou=山田^太郎=やまだ^たろう")
        keys = data_set(SpecificCharacterSet="ISO_IR 192", PatientName=key)
        assert compiled(keys).matches(received(stored)) is expected

    def test_sharp_s_is_one_character(self) -> None:
        stored = received(data_set(SpecificCharacterSet="ISO_IR 100", PatientName="GROß^A"))
        assert compiled({"PatientName": "gro?^a"}).matches(stored)

    def test_final_sigma_is_sigma(self) -> None:
        stored = received(data_set(SpecificCharacterSet="ISO_IR 192", PatientName="Παπαδόπουλος"))
        keys = data_set(SpecificCharacterSet="ISO_IR 192", PatientName="ΠΑΠΑΔΌΠΟΥΛΟΣ*")
        assert compiled(keys).matches(stored)
