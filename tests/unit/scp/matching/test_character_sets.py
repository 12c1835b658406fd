"""Character sets: PS3.5 6.1."""

from __future__ import annotations

import pytest

from scp.matching import compile_identifier
from scp.statuses import Refusal
from tests.fakes.data_sets import data_set, received, with_bytes
from tests.unit.scp.matching.helpers import SPS, compiled

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR")  # pydicom, about what we make it write


class TestCharacterSets:
    """PS3.5 6.1: each side is decoded with its own character set, compared in normalization form C."""

    @pytest.mark.parametrize(
        "charset", ["ISO_IR 100", "ISO_IR 192", "GB18030", "ISO 2022 IR 100", ["", "ISO 2022 IR 100"]]
    )
    def test_key_and_value_have_their_own(self, charset: str | list[str]) -> None:
        stored = received(data_set(SpecificCharacterSet=charset, PatientID="Zürich 1"))
        key = data_set(SpecificCharacterSet="ISO_IR 192", PatientID="Zürich 1")
        assert compiled(key).matches(stored)

    @pytest.mark.parametrize(
        ("charset", "name"),
        [
            (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
            (["ISO 2022 IR 13", "ISO 2022 IR 87"], "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"),
            (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
            ("GB18030", "Wang^XiaoDong=王^小东"),
            ("ISO_IR 144", "Люкceмбypг"),  # noqa: RUF001 - Cyrillic is the point
            ("ISO_IR 126", "Διονυσιος"),
            ("ISO_IR 138", "שרון^דבורה"),
            ("ISO_IR 166", "สมชาย"),
        ],
    )
    def test_the_examples_of_the_standard(self, charset: str | list[str], name: str) -> None:
        stored = received(data_set(SpecificCharacterSet=charset, PatientName=name))
        matcher = compiled(data_set(SpecificCharacterSet="ISO_IR 192", PatientName=name))
        assert matcher.matches(stored)
        assert str(matcher.answer(stored).PatientName) == name
        assert not compiled({"PatientName": "Other"}).matches(stored)

    def test_simplified_chinese_with_code_extensions(self) -> None:
        """PS3.5 K.2; the bytes are the Standard's, because pydicom writes none of the escape sequences."""
        name = b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab="
        stored = with_bytes(data_set(SpecificCharacterSet=["", "ISO 2022 IR 58"]), "PatientName", name)
        matcher = compiled(data_set(SpecificCharacterSet="ISO_IR 192", PatientName="张^小东"))
        assert matcher.matches(stored)
        assert str(matcher.answer(stored).PatientName) == "Zhang^XiaoDong=张^小东"

    def test_a_trail_byte_of_0x5c_does_not_split(self) -> None:
        name = "張誠乗"  # GB18030 encodes 乗 as 81 5C
        assert b"\\" in name.encode("gb18030")
        stored = received(data_set(SpecificCharacterSet="GB18030", PatientID=name))
        matcher = compiled(data_set(SpecificCharacterSet="ISO_IR 192", PatientID=name))
        assert matcher.matches(stored)

    def test_composed_and_decomposed_letters_are_equal(self) -> None:
        stored = received(data_set(SpecificCharacterSet="ISO_IR 192", PatientID="Zu\u0308rich"))
        assert compiled(data_set(SpecificCharacterSet="ISO_IR 100", PatientID="Z\u00fcrich")).matches(stored)

    def test_items_inherit_it(self) -> None:
        stored = received(data_set({"SpecificCharacterSet": "ISO_IR 192", SPS: {"ScheduledStationName": "Gerät"}}))
        key = data_set({"SpecificCharacterSet": "ISO_IR 100", SPS: {"ScheduledStationName": "Gerät"}})
        assert compiled(key).matches(stored)

    def test_data_sets_without_one_have_the_configured_one(self) -> None:
        stored = received(data_set(PatientID=b"Gda\xf1sk".decode("latin_1")))
        key = data_set(SpecificCharacterSet="ISO_IR 192", PatientID="Gdańsk")
        assert compiled(key, default_encoding="iso8859_2").matches(stored)

    def test_a_key_that_is_not_in_its_character_set_is_malformed(self) -> None:
        keys = received(data_set(SpecificCharacterSet="ISO_IR 100", PatientID="Zürich"))
        keys.SpecificCharacterSet = "ISO_IR 192"
        with pytest.raises(Refusal, match="PatientID: not in its character set"):
            compile_identifier(keys)

    @pytest.mark.parametrize("charset", ["hex", "rot13", "undefined", "idna", "punycode", "zlib"])
    def test_a_codec_of_pythons_that_is_no_character_set_counts_as_unknown(self, charset: str) -> None:
        """Unknown terms are names of codecs to pydicom; these raise, whatever is to be done about errors."""
        term = f"{charset:6}".encode()
        stored = with_bytes(with_bytes(data_set(), "PatientName", b"Z\xfcrich"), "SpecificCharacterSet", term)
        assert compiled({"PatientName": "Zürich"}).matches(stored)

    def test_an_undecodable_stored_value_does_not_raise(self) -> None:
        stored = received(data_set(SpecificCharacterSet="ISO_IR 100", PatientID="Zürich", AccessionNumber="1"))
        stored.SpecificCharacterSet = "ISO_IR 192"
        assert compiled({"AccessionNumber": "1"}).matches(stored)
