import sys
import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udfs.core.characters import has_visible_character
from udfs.core.keys import MAX_KEY_BYTES, InvalidKeyError, normalised_key
from udfs.core.publishing import dimension_value

# Unicode's White_Space; Python's `isspace` also has the four information separators.
SPACES = [chr(c) for c in range(sys.maxunicode + 1) if chr(c).isspace() and not 0x1C <= c <= 0x1F]
CONTROLS = [chr(c) for c in range(sys.maxunicode + 1) if unicodedata.category(chr(c)) == "Cc"]
# They show, though their category is that of format characters.
VISIBLE_FORMATS = set("\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2")
VISIBLE_FORMATS |= {"\U000110bd", "\U000110cd"}


@given(st.text(max_size=80))
def test_a_key_is_normal_or_an_error(text: str) -> None:
    try:
        key = normalised_key(text)
    except InvalidKeyError as error:
        str(error).encode()
    else:
        assert normalised_key(key) == key
        assert normalised_key(f"\u3000{key}\n") == key
        assert unicodedata.is_normalized("NFC", key)
        assert 1 <= len(key.encode()) <= MAX_KEY_BYTES
        assert has_visible_character(key)
        value = dimension_value(key)
        assert 1 <= len(value) <= 1_024
        assert value.isascii()
        assert value.isprintable()


def test_white_space_of_any_kind_is_one_space() -> None:
    for space in SPACES:
        assert normalised_key(f"{space}Gift{space}{space}Card{space}") == "Gift Card"
        with pytest.raises(InvalidKeyError, match="is blank"):
            normalised_key(space)


def test_control_characters_but_white_space_are_invalid() -> None:
    for control in set(CONTROLS) - set(SPACES):
        with pytest.raises(InvalidKeyError, match=r"U\+00.. \(control character\) as character 3"):
            normalised_key(f"Gi{control}ft")


@pytest.mark.parametrize("character", [*"\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"])
def test_directions_that_can_disguise_a_key_are_invalid(character: str) -> None:
    with pytest.raises(InvalidKeyError, match=unicodedata.name(character)):
        normalised_key(f"Gift{character}")


def test_code_points_that_are_no_characters_are_invalid() -> None:
    last = [plane << 16 | end for plane in range(17) for end in (0xFFFE, 0xFFFF)]
    for point in (*range(0xFDD0, 0xFDF0), *last, 0xD800, 0xDFFF):
        with pytest.raises(InvalidKeyError) as caught:
            normalised_key(f"Gift{chr(point)}")
        assert caught.value.reason == "key_not_printable"


def test_the_bound_is_that_of_the_normal_form() -> None:
    assert normalised_key("  " + "e\u0301" * 128 + "\u200b") == "é" * 128
    with pytest.raises(InvalidKeyError, match="258 bytes"):
        normalised_key("é" * 129)
    with pytest.raises(InvalidKeyError, match="257 bytes"):
        normalised_key("R" * 257)


def test_a_long_run_of_marks_takes_no_time() -> None:
    started_s = time.process_time()
    with pytest.raises(InvalidKeyError, match="200001 characters"):
        normalised_key("a" + "\u0301\u0316" * 100_000)
    assert time.process_time() - started_s < 0.5


def test_what_cannot_be_seen_is_known() -> None:
    invisible = {c for c in map(chr, range(sys.maxunicode + 1)) if not has_visible_character(c)}
    by_category = {
        c
        for c in map(chr, range(sys.maxunicode + 1))
        if unicodedata.category(c) in ("Cc", "Cf", "Zs", "Zl", "Zp")
    }
    assert by_category - invisible == VISIBLE_FORMATS
    # Beyond those: fillers, selectors, the blank pattern, the null notehead, noncharacters, and
    # the ranges that Unicode keeps for more of them.
    for c in invisible - by_category:
        assert unicodedata.category(c) in ("Mn", "Lo", "So", "Cn"), hex(ord(c))
    assert all(c in invisible for c in "\u034f\u115f\u3164\u2800\ufe0f\uffa0\ufdd0\uffff\U000e0100")


@pytest.mark.parametrize(
    "text", ["a", " \u200b!", "\u0301", "\U0001e4d0", "\ud800", "\ue000", "👍"]
)
def test_what_can_be_seen(text: str) -> None:
    assert has_visible_character(text)
