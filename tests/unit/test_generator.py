import csv
import gzip
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from deploy.local import texts
from deploy.local.generator import (
    COLUMNS,
    SCORED,
    GeneratorOptions,
    generate,
    labelled_texts,
    write_tsv,
)
from deploy.local.records import Outgoing, encode, faults, partition_key
from udfs.core.characters import has_visible_character
from udfs.core.keys import normalised_key
from udfs.core.parsing import (
    ParseReason,
    ParsingOptions,
    Review,
    ReviewFormat,
    parse,
)

START_S = 1_795_467_600.25
FORMATS: tuple[ReviewFormat, ...] = ("json", "tsv")


class Ticking:
    """A clock that moves on by `step_s` whenever it is read."""

    def __init__(self, step_s: float, now_s: float = START_S) -> None:
        self.now_s = now_s - step_s
        self.step_s = step_s

    def __call__(self) -> float:
        self.now_s += self.step_s
        return self.now_s


def made(
    options: GeneratorOptions, count: int, seed: int = 1, step_s: float = 0.01
) -> list[tuple[Outgoing, float]]:
    """Return records, each with its time of sending."""
    clock = Ticking(step_s)
    records = generate(options, seed, clock)
    return [(record, clock.now_s) for record in itertools.islice(records, count)]


def fate_by_parser(record: Outgoing, sent_s: float, options: GeneratorOptions) -> str:
    parsing = ParsingOptions(format=options.format, max_body_bytes=options.max_body_bytes)
    parsed = parse(record.data, int(sent_s * 1000), parsing)
    return SCORED if isinstance(parsed, Review) else parsed.reason.value


def ages_s(records: list[tuple[Outgoing, float]]) -> Iterator[tuple[Outgoing, float]]:
    """Yield the sound records that have an event time, with its distance to the sending."""
    for record, sent_s in records:
        if record.fate == SCORED and (text := json.loads(record.data).get("event_time")):
            yield record, sent_s - datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize("format", FORMATS)
def test_the_parser_agrees_with_every_fate(format: ReviewFormat) -> None:
    options = GeneratorOptions(format=format, broken_share=0.5, max_body_bytes=32 * 1024)
    for record, sent_s in made(options, 2_000):
        assert fate_by_parser(record, sent_s, options) == record.fate, record.data[:300]


@pytest.mark.parametrize("max_body_bytes", [256 * 1024, 700 * 1024])
def test_the_parser_agrees_with_every_fate_at_the_default_share(max_body_bytes: int) -> None:
    options = GeneratorOptions(max_body_bytes=max_body_bytes)
    for record, sent_s in made(options, 3_000):
        assert fate_by_parser(record, sent_s, options) == record.fate, record.data[:300]
        assert len(record.data) + 256 <= 1024 * 1024, "Kinesis would not take it"


@pytest.mark.parametrize("format", FORMATS)
def test_every_reason_can_be_provoked_in_several_ways(format: ReviewFormat) -> None:
    expected = set(ParseReason) - {ParseReason.WRONG_COLUMNS}
    if format == "tsv":
        expected = set(ParseReason) - {
            ParseReason.NOT_JSON,
            ParseReason.NOT_OBJECT,
            ParseReason.WRONG_TYPE,
            ParseReason.BAD_EVENT_TIME,
            ParseReason.EVENT_TIME_TOO_OLD,
            ParseReason.EVENT_TIME_IN_FUTURE,
        }
    assert set(faults(format)) == expected
    assert min(map(len, faults(format).values())) >= 2


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_any_2000_records_hold_every_reason(format: ReviewFormat, seed: int) -> None:
    records = made(GeneratorOptions(format=format), 10_000, seed)
    places: dict[str, list[int]] = {reason.value: [-1] for reason in faults(format)}
    for index, (record, _) in enumerate(records):
        if record.fate is not None and record.fate != SCORED:
            places[record.fate].append(index)
    for reason, indices in places.items():
        gaps = [b - a for a, b in itertools.pairwise([*indices, len(records)])]
        assert max(gaps) <= 2_000, reason
    broken = sum(record.fate != SCORED for record, _ in records)
    assert broken == pytest.approx(200, abs=2)


def test_the_seed_alone_decides_the_content() -> None:
    def content(step_s: float, seed: int) -> list[tuple[object, ...]]:
        rows: list[tuple[object, ...]] = []
        for record, _ in made(GeneratorOptions(), 3_000, seed, step_s):
            data: object = None
            if record.fate == SCORED:
                data = {**json.loads(record.data), "event_time": None}
            rows.append(
                (
                    data,
                    record.partition_key,
                    record.fate,
                    record.review_id,
                    record.product_category,
                    record.star_rating,
                    record.burst,
                )
            )
        return rows

    assert content(0.01, seed=1) == content(0.5, seed=1)
    assert content(0.01, seed=1) != content(0.01, seed=2)
    assert made(GeneratorOptions(), 3_000) == made(GeneratorOptions(), 3_000)


def test_records_are_made_when_they_are_asked_for() -> None:
    clock = Ticking(0.0)
    options = GeneratorOptions(max_disorder_s=0, broken_share=0, late_share=0)
    records = generate(options, 1, clock)
    next(records)
    clock.now_s += 1_000
    sent = list(zip(itertools.islice(records, 10), itertools.repeat(clock.now_s), strict=False))
    ages = [age for _, age in ages_s(sent)]
    assert ages
    assert max(ages) < 0.01


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    delay_s=st.floats(0.5, 120),
    disorder_share=st.floats(0, 0.99),
    step_s=st.sampled_from([0.0, 0.005, 0.1, 2.0]),
    late_share=st.sampled_from([0.0, 0.005, 0.5]),
    lateness_s=st.sampled_from([1.0, 60.0, 600.0]),
)
def test_event_times_are_within_the_disorder_or_late(
    seed: int,
    delay_s: float,
    disorder_share: float,
    step_s: float,
    late_share: float,
    lateness_s: float,
) -> None:
    options = GeneratorOptions(
        max_disorder_s=delay_s * disorder_share,
        watermark_delay_s=delay_s,
        late_share=late_share,
        min_lateness_s=lateness_s,
    )
    rounding_s = 0.0011  # event times have milliseconds
    for record, age_s in ages_s(made(options, 300, seed, step_s)):
        if record.is_late:
            least_s, most_s = delay_s + lateness_s, delay_s + 2 * lateness_s
            assert least_s - rounding_s <= age_s <= most_s + rounding_s
        else:
            assert -rounding_s <= age_s <= options.max_disorder_s + rounding_s


def test_none_is_late_in_the_first_ten_seconds_and_a_share_is_afterwards() -> None:
    records = made(GeneratorOptions(broken_share=0), 20_000)
    late = [sent_s - START_S for record, sent_s in records if record.is_late]
    assert min(late) >= GeneratorOptions().late_free_s
    assert len(late) == pytest.approx(0.005 * 19_000, rel=0.4)
    assert all(record.fate == SCORED for record, _ in records if record.is_late)


def test_without_event_time_none_is_late() -> None:
    records = made(GeneratorOptions(format="tsv", late_share=0.5), 3_000)
    assert not any(record.is_late for record, _ in records)


@pytest.mark.parametrize("seed", [1, 2, 7])
def test_any_5000_records_hold_two_whole_bursts(seed: int) -> None:
    records = [record for record, _ in made(GeneratorOptions(), 12_000, seed)]
    places: dict[str, list[int]] = {}
    for index, record in enumerate(records):
        if record.burst:
            places.setdefault(record.burst, []).append(index)
    spans = [(indices[0], indices[-1]) for indices in places.values()]
    for start in range(0, 7_000, 100):
        assert sum(start <= a and b < start + 5_000 for a, b in spans) >= 2
    for label, indices in places.items():
        members = [records[i] for i in indices]
        assert len(members) == 60
        (category,) = {record.product_category for record in members}
        assert {record.star_rating for record in members} == {1}
        assert {record.fate for record in members} == {SCORED}
        of_category = [
            record.burst
            for record in records[indices[0] : indices[-1] + 1]
            if record.product_category == category
        ]
        assert of_category == [label] * 60, "the burst's category has no other review meanwhile"

    def mean_length(chosen: list[Outgoing]) -> float:
        bodies = sorted(len(json.loads(record.data)["review_body"]) for record in chosen)
        return bodies[len(bodies) // 2]

    sound = [record for record in records if record.fate == SCORED]
    outraged = [record for record in sound if record.burst]
    assert mean_length(outraged) > 2 * mean_length([r for r in sound if not r.burst])


def test_one_category_is_enough() -> None:
    options = GeneratorOptions(categories=("Gift_Card",), format="tsv")
    records = [record for record, _ in made(options, 3_000)]
    assert {record.product_category for record in records} == {"Gift_Card"}
    assert sum(record.burst == "burst-1" for record in records) == 60


def test_shares_of_zero_switch_off() -> None:
    options = GeneratorOptions(broken_share=0, late_share=0, burst_reviews=0)
    for record, _ in made(options, 5_000):
        assert (record.fate, record.is_late, record.burst) == (SCORED, False, None)


@pytest.mark.parametrize("format", FORMATS)
def test_sizes_lie_exactly_at_the_bound_and_one_byte_beyond(format: ReviewFormat) -> None:
    options = GeneratorOptions(format=format)
    records = [record for record, _ in made(options, 12_000)]
    sound = [len(record.data) for record in records if record.fate == SCORED]
    oversize = [len(record.data) for record in records if record.fate == "oversize"]
    assert max(sound) == options.max_body_bytes
    assert sound.count(options.max_body_bytes) in (5, 6, 7)
    assert options.max_body_bytes + 1 in oversize
    if format == "tsv":
        # Small as it is, its control characters take six bytes each in JSON.
        assert min(oversize) < options.max_body_bytes / 5


def test_odd_but_legal_records_occur() -> None:
    records = [record for record, _ in made(GeneratorOptions(), 10_000)]
    sound = [json.loads(record.data) for record in records if record.fate == SCORED]
    bodies = [fields["review_body"] for fields in sound]
    by_id = Counter(fields["review_id"] for fields in sound)
    assert max(by_id.values()) >= 2, "no review id comes twice"
    assert any("event_time" not in fields for fields in sound)
    assert any("event_time" in fields and fields["event_time"] is None for fields in sound)
    assert any(str(fields.get("event_time")).endswith("-08:00") for fields in sound)
    assert any("marketplace" in fields for fields in sound)
    assert any(rb"\u" in record.data for record in records if record.fate == SCORED)
    for what, low, high in (
        ("emoji", "\U0001f300", "\U0001faff"),
        ("CJK", "\u4e00", "\u9fff"),
        ("Hebrew", "\u0590", "\u05ff"),
        ("Arabic", "\u0600", "\u06ff"),
        ("combining marks", "\u0300", "\u036f"),
    ):
        assert any(low <= c <= high for body in bodies for c in body), what
    assert any("<br />" in body for body in bodies)
    assert any("&amp;" in body for body in bodies)
    assert any("\n" in body for body in bodies)
    assert any(len(body) <= 4 for body in bodies)
    assert any(3_000 < len(body) < 9_000 for body in bodies)


@pytest.mark.parametrize("format", FORMATS)
def test_partition_keys_are_valid_and_the_truth_stays_out(format: ReviewFormat) -> None:
    for record, _ in made(GeneratorOptions(format=format, broken_share=0.5), 1_000):
        assert 1 <= len(record.partition_key) <= 256
        assert record.partition_key.isprintable()
        assert record.star_rating in (1, 2, 3, 4, 5)
        assert b"star_rating" not in record.data


def test_ratings_are_distributed_like_a_j() -> None:
    _, ratings = labelled_texts(10_000, seed=1)
    count = Counter(ratings)
    assert count[5] > count[4] > count[3] > count[2] < count[1] < count[5]


def test_a_model_learns_the_ratings_but_not_to_perfection() -> None:
    bodies, ratings = labelled_texts(3_000, seed=1)
    unseen_bodies, unseen_ratings = labelled_texts(2_000, seed=2)
    model = make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=1_000))
    accuracy = model.fit(bodies, ratings).score(unseen_bodies, unseen_ratings)
    always_five = unseen_ratings.count(5) / len(unseen_ratings)
    assert always_five + 0.2 < accuracy < 0.93


def test_texts_hardly_repeat() -> None:
    bodies, _ = labelled_texts(5_000, seed=1)
    assert len(set(bodies)) > 4_700


def test_texts_have_no_open_symbol() -> None:
    bodies, _ = labelled_texts(10_000, seed=3)
    assert not [body for body in bodies if "{" in body or "}" in body]


@pytest.mark.parametrize("name", ["reviews.tsv", "reviews.tsv.gz"])
def test_rows_are_written_as_the_amazon_data_set_has_them(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write_tsv(path, 2_000, seed=1)
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if name.endswith(".gz") else raw).decode()
    header, *rows = csv.reader(text.split("\n")[:-1], delimiter="\t", quoting=csv.QUOTE_NONE)
    assert tuple(header) == COLUMNS
    assert len(COLUMNS) == 15
    assert len(rows) == 2_000
    assert {len(row) for row in rows} == {15}
    for row in rows:
        review = dict(zip(COLUMNS, row, strict=True))
        assert review["star_rating"] in "12345"
        assert int(review["helpful_votes"]) <= int(review["total_votes"])
        assert review["product_category"] in texts.CATEGORIES
        assert review["review_body"].strip()
        datetime.strptime(review["review_date"], "%Y-%m-%d")


def test_every_wrong_option_is_named_at_once() -> None:
    with pytest.raises(ValueError, match="max_disorder_s") as caught:
        GeneratorOptions(
            format="xml",  # type: ignore[arg-type]
            categories=("Groceries",),
            max_disorder_s=10,
            late_share=0.6,
            broken_share=-0.1,
            burst_every=100,
            max_body_bytes=100,
        )
    for name in ("format", "categories", "late_share", "broken_share", "burst_every", "max_body"):
        assert name in str(caught.value)


# Text as UTF-8 can hold it.
TEXT = st.text(st.characters(codec="utf-8"), min_size=1)
KEY = st.text(st.characters(codec="utf-8"), min_size=1, max_size=60).filter(
    lambda key: key.isprintable() and has_visible_character(key)
)
BODY = TEXT.filter(has_visible_character)


@given(KEY, KEY, BODY, st.integers(-86_400_000, 5_000))
def test_what_is_encoded_is_parsed(key: str, category: str, body: str, offset_ms: int) -> None:
    arrival_ms = 1_795_467_600_000
    event_time = datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=arrival_ms + offset_ms)
    data = encode(key, category, body, event_time, "json")
    line = encode(key, category, body, event_time, "tsv")
    key, category = normalised_key(key), normalised_key(category)
    assert parse(data, arrival_ms, ParsingOptions()) == Review(
        key, category, body, arrival_ms + offset_ms
    )
    flat = body.replace("\t", " ").replace("\n", " ").replace("\r", " ")
    assert parse(line, arrival_ms, ParsingOptions("tsv")) == Review(key, category, flat, arrival_ms)


@given(st.none() | st.text(), st.binary())
def test_partition_keys_are_always_valid(review_id: str | None, data: bytes) -> None:
    key = partition_key(review_id, data)
    assert 1 <= len(key) <= 256
    key.encode()
    assert key == partition_key(review_id, data)


def test_long_or_unprintable_ids_are_no_partition_keys() -> None:
    for review_id in ("R" * 257, "é" * 129, "R\x07", "R\ud83d", ""):
        assert partition_key(review_id, b"data") != review_id
    assert partition_key("R" * 256, b"data") == "R" * 256
