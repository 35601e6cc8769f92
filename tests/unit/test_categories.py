"""Effective categories: bounded, reported, and the same in the record that every job reads."""

import json
import logging
from collections.abc import Iterable

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.flink_context import FakeContext
from udfs.core.categories import OTHER, Categories, CategoryOptions, parse_allowed
from udfs.core.keys import MAX_KEY_BYTES
from udfs.core.parsing import ParsingOptions
from udfs.parsing import PARSED_REVIEW, ParseReviews

ARRIVAL = pd.Timestamp("2026-09-21T14:13:20Z")


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def effective(names: Iterable[str], **options: object) -> list[str]:
    categories = Categories(CategoryOptions(**options), Clock())  # type: ignore[arg-type]
    return [categories.effective(name) for name in names]


def test_a_producer_that_writes_product_ids_gets_so_many_categories_and_no_more() -> None:
    found = effective((f"B{number:09}" for number in range(50_000)), max_categories=100)
    assert len(set(found)) == 101
    assert found[:100] == [f"B{number:09}" for number in range(100)]
    assert set(found[100:]) == {OTHER}


def test_names_that_were_kept_stay() -> None:
    names = ["Books", "B1", "B2", "B3", "Books", "B1", "B3"]
    assert effective(names, max_categories=2) == ["Books", "B1", OTHER, OTHER, "Books", "B1", OTHER]


def test_other_takes_no_place_and_is_the_producers_own_other() -> None:
    names = ["Other", "Books", "B1", "Other", "other"]
    assert effective(names, max_categories=1) == ["Other", "Books", OTHER, OTHER, OTHER]
    assert effective(["Other", "x"], allowed=frozenset({"Books"})) == [OTHER, OTHER]


names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)


@given(st.lists(names), st.lists(names), st.frozensets(names, min_size=1))
def test_with_a_list_the_result_depends_on_the_name_alone(
    first: list[str], second: list[str], allowed: frozenset[str]
) -> None:
    """Every subtask, and every run after a failure, sees the same."""
    one = dict(zip(first + second, effective(first + second, allowed=allowed), strict=True))
    other = dict(zip(second + first, effective(second + first, allowed=allowed), strict=True))
    assert one == other
    assert all(one[name] == (name if name in allowed else OTHER) for name in one)


@given(st.lists(names), st.integers(1, 5))
def test_without_a_list_names_have_a_bound_and_do_not_change(
    reported: list[str], max_categories: int
) -> None:
    found = effective(reported, max_categories=max_categories)
    assert len(set(found) - {OTHER}) <= max_categories
    assert set(found) <= {*reported, OTHER}
    by_name: dict[str, str] = {}
    for name, category in zip(reported, found, strict=True):
        assert by_name.setdefault(name, category) == category
    assert found == effective(reported, max_categories=max_categories)


def test_the_log_has_one_line_a_minute_with_count_and_examples() -> None:
    clock = Clock()
    categories = Categories(CategoryOptions(max_categories=1), clock)
    categories.effective("Books")
    assert categories.report() is None
    categories.effective("B1")
    assert categories.report() == (
        "reviews counted as category Other: 1 (beyond categories.max_categories = 1), such as 'B1'"
    )
    for number in range(10_000):
        categories.effective(f"B{number}")
        assert categories.report() is None
    clock.now_s = 60.0
    message = categories.report()
    assert message is not None
    assert "10000 (" in message
    assert message.endswith("such as 'B0', 'B1', 'B2'")
    clock.now_s = 120.0
    assert categories.report() is None  # nothing since


def test_examples_are_short() -> None:
    categories = Categories(CategoryOptions(allowed=frozenset({"Books"})), Clock())
    for letter in "abcd":
        categories.effective(letter * MAX_KEY_BYTES)
    message = categories.report()
    assert message is not None
    assert "not in categories.allowed" in message
    assert len(message) < 400


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Books", {"Books"}),
        ("Books, Gift_Card ,Books", {"Books", "Gift_Card"}),
        ('["Home, Garden", " Books "]', {"Home, Garden", "Books"}),
    ],
)
def test_lists_of_names(text: str, expected: set[str]) -> None:
    assert parse_allowed(text) == expected


def test_everything_that_is_wrong_with_a_list_is_named() -> None:
    with pytest.raises(ValueError, match="name 2 is blank; name 3 ") as raised:
        parse_allowed(f"Books,, {'x' * 257}, a\x07b")
    assert "name 4 " in str(raised.value)


@pytest.mark.parametrize("text", ["[", "[]", '["Books", 1]', '[["Books"]]', ""])
def test_what_is_no_list_of_names(text: str) -> None:
    with pytest.raises(ValueError, match=r"list|string|blank"):
        parse_allowed(text)


def parsed(
    function: ParseReviews, categories: Iterable[str], context: FakeContext
) -> list[dict[str, object]]:
    payloads = [
        json.dumps({"review_id": "R", "product_category": name, "review_body": "b"}).encode()
        for name in categories
    ]
    frame = function.eval(
        pd.Series([*payloads, b"{"], dtype=object),
        pd.Series([ARRIVAL] * (len(payloads) + 1)),
        None,
    )
    assert frame.columns.tolist() == PARSED_REVIEW.field_names()
    return frame.to_dict("records")


def test_the_record_has_the_effective_and_the_reported_category(
    caplog: pytest.LogCaptureFixture,
) -> None:
    context = FakeContext()
    function = ParseReviews(ParsingOptions(), CategoryOptions(allowed=frozenset({"Books"})))
    function.open(context)
    with caplog.at_level(logging.WARNING):
        books, product, own, broken = parsed(function, ["Books", "B001", "Other"], context)
        parsed(function, ["B002"], context)
    fields = ("product_category", "reported_category", "reason")
    assert [books[name] for name in fields] == ["Books", None, None]
    assert [product[name] for name in fields] == ["Other", "B001", None]
    assert [own[name] for name in fields] == ["Other", None, None]
    assert [broken[name] for name in fields] == [None, None, "not_json"]
    assert context.counts == {"parsing.other_reviews": 2}
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "'B001'" in caplog.text
