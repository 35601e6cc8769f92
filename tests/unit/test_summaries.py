import base64
import json
import pickle
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udfs.core.summaries import (
    FORMAT_VERSION,
    STARS,
    STOP_WORDS,
    Reviews,
    Summary,
    of_panes,
    summarise,
    terms_of,
)

SAVED = Path(__file__).parent / "saved"
LG_K = 10


class Member(NamedTuple):
    review_id: str
    star_rating: int
    body_length: int
    payload: bytes


def review(review_id: str, star_rating: int = 5, body: str = "") -> Member:
    return Member(review_id, star_rating, len(body), json.dumps({"review_body": body}).encode())


def columns(
    members: Sequence[Member], *, has_lengths: bool = True, has_terms: bool = True
) -> Reviews:
    ids, ratings, lengths, payloads = zip(*members, strict=True) if members else ((),) * 4
    return Reviews(ids, ratings, lengths if has_lengths else None, payloads if has_terms else None)


def summary_of(members: Sequence[Member], lg_k: int = LG_K, **counted: bool) -> Summary:
    return Summary.of(columns(members, **counted), lg_k)


def saved_reviews() -> list[Member]:
    """Those that `saved/summary-N.json` was written from; enough for registers."""
    return [review(f"R{n}", n * n % 5 + 1, f"Gift number {'x' * (n % 7)}") for n in range(1_000)]


members = st.builds(
    review,
    st.integers(0, 40).map("R{}".format),
    st.sampled_from(STARS),
    st.sampled_from(["", "Great gift", "The gift card works", "Ça marche très bien", "x " * 50]),
)


@given(st.lists(members, min_size=1, max_size=60), st.integers(0, 2**32), st.integers(1, 8))
def test_any_disorder_and_any_split_gives_what_a_recomputation_gives(
    reviews: list[Member], seed: int, parts: int
) -> None:
    rng = random.Random(seed)
    shuffled = rng.sample(reviews, len(reviews))
    panes = [rng.randrange(parts) for _ in shuffled]
    pieces = summarise(["Books"] * len(shuffled), panes, columns(shuffled), LG_K)
    merged, *others = rng.sample(list(pieces.values()), len(pieces))
    for other in others:
        merged.merge(pickle.loads(pickle.dumps(other)))
    ratings = sorted(r.star_rating for r in reviews)
    assert merged.reviews == len(reviews)
    assert merged.counts == [ratings.count(stars) for stars in STARS]
    assert merged.average == sum(ratings) / len(ratings)
    for rank in (0.25, 0.5, 0.75, 1.0):
        assert merged.rating_quantile(rank) == ratings[int(-(-rank * len(ratings) // 1)) - 1]
    assert merged.review_ids.estimate == pytest.approx(
        len({r.review_id for r in reviews}), rel=0.001
    )
    assert merged.lengths is not None
    assert merged.lengths.count == len(reviews)
    assert merged.lengths.quantiles([1.0]) == [max(r.body_length for r in reviews)]
    truth = Counter(
        term for r in reviews for term in terms_of(json.loads(r.payload or b"{}")["review_body"])
    )
    assert merged.terms is not None
    assert {term.text: term.upper for term in merged.terms.top(100)} == truth


@given(
    st.lists(
        st.tuples(st.sampled_from(["Books", "Toys"]), st.sampled_from([0, 5_000]), members),
        max_size=30,
    )
)
def test_a_batch_has_one_summary_of_each_category_and_pane(
    rows: list[tuple[str, int, Member]],
) -> None:
    categories, panes, reviews = zip(*rows, strict=True) if rows else ((), (), ())
    found = summarise(categories, panes, columns(reviews), LG_K)
    groups = {(category, pane) for category, pane, _ in rows}
    assert {(categories[place], panes[place]) for place in found} == groups
    for place, summary in found.items():
        key = categories[place], panes[place]
        same = [at for at, row in enumerate(rows) if row[:2] == key]
        assert place == same[-1]
        assert summary.reviews == len(same)


@given(
    st.lists(
        st.tuples(st.sampled_from(["Books", "Toys"]), st.sampled_from([0, 5_000]), members),
        max_size=30,
    ),
    st.booleans(),
)
def test_the_summaries_of_a_batch_merge_to_one_of_each_pane(
    rows: list[tuple[str, int, Member]], is_counted: bool
) -> None:
    categories, panes, reviews = zip(*rows, strict=True) if rows else ((), (), ())
    batch = columns(reviews, has_lengths=is_counted, has_terms=is_counted)
    found = of_panes(summarise(categories, panes, batch, LG_K), panes)
    assert {panes[place] for place in found} == set(panes)
    for place, summary in found.items():
        same = [at for at, pane in enumerate(panes) if pane == panes[place]]
        expected = summary_of([reviews[at] for at in same])
        assert place == same[-1]
        assert summary.counts == expected.counts
        assert summary.review_ids.estimate == expected.review_ids.estimate
        assert (summary.lengths is not None, summary.terms is not None) == (is_counted,) * 2
        if summary.lengths is not None and expected.lengths is not None:
            assert summary.lengths.count == len(same)
        if summary.terms is not None and expected.terms is not None:
            assert summary.terms.top(100) == expected.terms.top(100)


@given(st.lists(members, max_size=20), st.booleans(), st.booleans())
def test_bytes_hold_everything(reviews: list[Member], has_lengths: bool, has_terms: bool) -> None:
    summary = summary_of(reviews, has_lengths=has_lengths, has_terms=has_terms)
    restored = Summary.from_bytes(summary.to_bytes())
    assert restored.counts == summary.counts
    assert restored.review_ids.estimate == summary.review_ids.estimate
    assert (restored.lengths is not None, restored.terms is not None) == (has_lengths, has_terms)
    if summary.lengths is not None and restored.lengths is not None:
        assert restored.lengths.quantiles([0.5]) == summary.lengths.quantiles([0.5])
    if summary.terms is not None and restored.terms is not None:
        assert restored.terms.top(50) == summary.terms.top(50)


def test_what_one_of_two_has_not_counted_the_merged_one_has_not_either() -> None:
    summary = summary_of([review("R1", 5, "gift")])
    summary.merge(summary_of([review("R2", 1, "card")], has_terms=False))
    assert summary.terms is None
    assert summary.lengths is not None
    assert summary.lengths.count == summary.reviews == 2


@pytest.mark.parametrize("path", sorted(SAVED.glob("summary-*.json")), ids=lambda p: p.stem)
def test_saved_state_of_every_version_is_read(path: Path) -> None:
    """Written once a version with `saved_reviews`, and kept: state of jobs of then is like it."""
    saved = json.loads(path.read_text())
    summary = Summary.from_bytes(base64.b64decode(saved["summary"]))
    fresh = summary_of(saved_reviews(), lg_k=12)
    assert summary.counts == saved["counts"] == fresh.counts
    assert summary.review_ids.estimate == saved["estimate"] == fresh.review_ids.estimate
    assert summary.lengths is not None
    assert summary.terms is not None
    assert summary.lengths.count == 1_000
    assert [list(term) for term in summary.terms.top(3)] == saved["top_terms"]
    # What the state of a window holds, a pickle: it names the module and the class.
    [(period_ms, accumulated)] = pickle.loads(base64.b64decode(saved["accumulator"]))
    assert period_ms == 1_790_000_000_000
    assert accumulated.to_bytes() == summary.to_bytes()
    summary.merge(fresh)
    assert summary.reviews == 2_000
    assert summary.review_ids.estimate == fresh.review_ids.estimate


def test_this_version_is_saved() -> None:
    assert (SAVED / f"summary-{FORMAT_VERSION}.json").exists()


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "no summary of a version up to 1"),
        (bytes([FORMAT_VERSION + 1]) + b"\0" * 60, "no summary of a version up to 1: 2"),
        (bytes([FORMAT_VERSION]) + b"\0" * 10, "cut short"),
        (summary_of(saved_reviews()).to_bytes()[:-1], "cut short"),
        (bytes([FORMAT_VERSION]) + b"\0" * 52, "not an HLL sketch"),
    ],
)
def test_what_is_no_summary_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Summary.from_bytes(data)


def test_the_size_does_not_grow_with_the_reviews() -> None:
    # Words that never come again, and ids, lengths that do neither.
    def size(count: int) -> int:
        words = (str(n).translate(str.maketrans("0123456789", "abcdefghij")) for n in range(count))
        bodies = (f"{word * 3} {'x' * (n % 900)}" for n, word in enumerate(words))
        members = [review(f"R{n}", 3, body) for n, body in enumerate(bodies)]
        return len(summary_of(members, lg_k=12).to_bytes())

    assert size(40_000) < 1.2 * size(10_000)


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("It's GREAT, great!", {"great"}),
        ("ab c 123 a1b2c3", set()),
        ("Café ÉTÉ straße", {"café", "été", "straße"}),
        ("とても良い商品", {"とても良い商品"}),
        ("x" * 40, {"x" * 32, "x" * 8}),
        ("snake_case_word", {"snake", "case", "word"}),
        (" ".join(STOP_WORDS), set()),
    ],
)
def test_terms(text: str, terms: set[str]) -> None:
    assert terms_of(text) == terms


@given(st.text(max_size=300))
def test_terms_are_letters_of_bounded_length(text: str) -> None:
    for term in terms_of(text):
        assert 3 <= len(term) <= 32
        assert not any(char.isdecimal() or char.isspace() or char == "_" for char in term)


def test_a_summary_of_nothing_has_no_median() -> None:
    with pytest.raises(ValueError, match="no review"):
        summary_of([]).rating_quantile(0.5)
