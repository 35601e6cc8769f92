import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.generated_records import json_values
from udfs.core.json_sequences import MAX_OBJECTS
from udfs.core.parsing import ParsingOptions
from udfs.core.splitting import split

JSON = ParsingOptions()
TSV = ParsingOptions(format="tsv")

objects = st.builds(
    lambda fields, is_ascii, indent: json.dumps(
        fields, ensure_ascii=is_ascii, indent=indent
    ).encode(errors="replace"),
    st.dictionaries(st.text() | st.just("}{"), json_values, max_size=4),
    st.booleans(),
    st.sampled_from([None, 2]),
)
gaps = st.text(" \t\r\n\ufeff", max_size=3).map(str.encode)


@st.composite
def joined(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    """Draw objects that are joined in a way that is accepted, and the objects."""
    parts = draw(st.lists(objects, min_size=2, max_size=6))
    comma = draw(st.sampled_from([b"", b","]))
    text = draw(gaps) + parts[0]
    for part in parts[1:]:
        text += draw(gaps) + comma + draw(gaps) + part
    if comma:
        text = draw(gaps) + b"[" + text + draw(gaps) + b"]"
    return text + draw(gaps), parts


@given(joined())
def test_joined_objects_are_split_byte_for_byte(record: tuple[bytes, list[bytes]]) -> None:
    payload, parts = record
    assert split(payload, JSON) == parts


@given(joined(), st.sampled_from([b"x", b"{", b"}", b"[]", b",", b"null", b"\xff", b'{"a": }']))
def test_a_record_that_cannot_be_split_completely_stays_whole(
    record: tuple[bytes, list[bytes]], rest: bytes
) -> None:
    payload = record[0] + rest
    assert split(payload, JSON) == [payload]


@given(objects, gaps, gaps)
def test_one_object_is_the_whole_record(part: bytes, before: bytes, after: bytes) -> None:
    payload = before + part + after
    assert split(payload, JSON) == [payload]


@given(objects, gaps, gaps)
def test_an_array_of_one_object_is_that_object(part: bytes, before: bytes, after: bytes) -> None:
    assert split(before + b"[" + part + b"]" + after, JSON) == [part]


@pytest.mark.parametrize(
    "payload",
    [
        *(b"", b"[]", b"[[{}]]", b"[{}, 1]", b"[{},]", b"[{}{}]", b"[{}]{}", b"{}[{}]", b"{},{}"),
        *(b"R1\tGift_Card\tNice.", b"{" * 50_000, b'{"a":' * 50_000, b"[{}," * 50_000),
        b'{}{"n": ' + b"9" * 5_000 + b"}",
    ],
)
def test_other_records_stay_whole(payload: bytes) -> None:
    assert split(payload, JSON) == [payload]


def test_the_number_of_parts_is_bounded() -> None:
    for part, options in ((b'{"a": 1}\n', JSON), (b"R1\tGift_Card\tNice.\n", TSV)):
        assert split(part * MAX_OBJECTS, options) == [part[:-1]] * MAX_OBJECTS
        more = part * (MAX_OBJECTS + 1)
        assert split(more, options) == [more]
    more = b"[" + b",".join([b"{}"] * (MAX_OBJECTS + 1)) + b"]"
    assert split(more, JSON) == [more]


def test_a_record_over_the_bound_stays_whole() -> None:
    assert split(b"{}{}", ParsingOptions(max_body_bytes=3)) == [b"{}{}"]
    assert split(b"{}{}", ParsingOptions(max_body_bytes=4)) == [b"{}", b"{}"]


cells = st.text(st.characters(codec="utf-8", exclude_characters="\t\r\n")).map(str.encode)


@given(
    st.lists(st.tuples(cells, cells, cells).map(b"\t".join), min_size=2),
    st.sampled_from([b"\n", b"\r\n", b"\n\n"]),
    st.booleans(),
)
def test_lines_are_split_byte_for_byte(parts: list[bytes], end: bytes, is_ended: bool) -> None:
    assert split(end.join(parts) + (end if is_ended else b""), TSV) == parts


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\n",
        b"a\tb\tc",
        b"a\tb\tc\r\n",
        b"a\tb\tc\nd",
        b"a\tb\tc\nd\te\tf\tg",
        b"a\tb\tc\n\xff",
    ],
)
def test_lines_that_are_not_all_reviews_stay_whole(payload: bytes) -> None:
    assert split(payload, TSV) == [payload]


def test_no_record_is_none() -> None:
    assert split(None, JSON) == [b""]
