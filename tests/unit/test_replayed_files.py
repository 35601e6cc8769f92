"""Whatever a file holds: each row is a review or a rejected record, in bounded memory.

`REPLAYED_FILES` sets the number of files per test; `make test-long` runs it with 100,000.
"""

import bz2
import contextlib
import csv
import gzip
import io
import json
import os
import random
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from deploy.local.files.layouts import FileOptions, parse_columns
from deploy.local.replay import DamagedFileError, ReviewFileError, replay
from udfs.core.parsing import ParsingOptions, Rejected, Review, ReviewFormat, parse

CASES = int(os.environ.get("REPLAYED_FILES", "400"))
MAX_GROWTH_KIB = 96 * 1024
pytestmark = pytest.mark.timeout(7_200)
LONG = settings(
    max_examples=CASES,
    deadline=None,
    # The long run looks for new cases, the test suite is to find the same each time.
    derandomize=CASES <= 400,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

COLUMNS = ["review_id", "product_category", "star_rating", "review_body"]
BODIES = (
    *("Nice.", "so, so", 'says "hi"', '"quoted"', '"begins', 'ends"', '""', "a\tb", "a;b|c"),
    *(
        "two\nlines",
        "two\r\nlines",
        "back\\slash",
        "\u00e9\u4e16\U0001f621",
        "{}",
        "[1]",
        "=1+1",
        "#",
    ),
)
JUNK = (
    b"\x00",
    b"\xff",
    b"\xef\xbb\xbf",
    b'"',
    b"\n",
    b"\r",
    b"\t",
    b",",
    b"{",
    b"}",
    b"[",
    b"\\",
    b"\x1f\x8b\x08",
)

Rows = list[dict[str, str]]


def make_rows(rng: random.Random, bodies: tuple[str, ...]) -> Rows:
    return [
        {
            "review_id": f"R{number}",
            "product_category": rng.choice(["Gift_Card", "B\u00fccher", "A B"]),
            "star_rating": str(rng.randint(1, 5)),
            "review_body": rng.choice(bodies),
        }
        for number in range(rng.randint(1, 6))
    ]


def as_csv(rng: random.Random, rows: Rows) -> str:
    text = io.StringIO()
    quoting = rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
    writer = csv.DictWriter(
        text,
        rng.sample(COLUMNS, 4),
        delimiter=rng.choice(",;|"),
        quoting=quoting,
        lineterminator=rng.choice(["\n", "\r\n"]),
    )
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_tsv(rng: random.Random, rows: Rows) -> str:
    lines = ["\t".join(row[name] for name in COLUMNS) for row in rows]
    return "".join(f"{line}\n" for line in ["\t".join(COLUMNS), *lines])


def as_json(rng: random.Random, rows: Rows) -> str:
    ascii_only, indent = rng.random() < 0.5, rng.choice([None, 1, 4])
    if rng.random() < 0.5:
        return json.dumps(rows, ensure_ascii=ascii_only, indent=indent)
    between = "\n" if indent is None else rng.choice(["", "\n", " "])
    return between.join(json.dumps(row, ensure_ascii=ascii_only, indent=indent) for row in rows)


def encoded(rng: random.Random, text: str) -> bytes:
    return text.encode(rng.choice(["utf-8", "utf-8", "utf-8-sig", "utf-16"]))


def compressed(rng: random.Random, data: bytes) -> bytes:
    compress = rng.choice(
        [bytes, gzip.compress, bz2.compress, zstandard.ZstdCompressor(level=1).compress]
    )
    cut = rng.randint(0, len(data)) if compress is not bytes and rng.random() < 0.3 else 0
    return b"".join(compress(part) for part in (data[:cut], data[cut:]) if part or not cut)


def spoilt(rng: random.Random, data: bytes) -> bytes:
    spoil = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        place = rng.randint(0, len(spoil))
        kind = rng.randrange(4)
        if kind == 0:
            del spoil[place:]
        elif kind == 1:
            del spoil[place : place + rng.randint(1, 30)]
        elif kind == 2:
            spoil[place:place] = rng.choice(JUNK) * rng.choice([1, 1, 1, 300])
        else:
            spoil += bytes(rng.choices(range(256), k=rng.randint(1, 40)))
    return bytes(spoil)


@pytest.fixture(scope="module", autouse=True)
def memory_stays_flat() -> Iterator[None]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MAX_GROWTH_KIB


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("replayed") / "reviews"


def read_through(path: Path, format: ReviewFormat, options: FileOptions) -> None:
    with contextlib.suppress(ReviewFileError, DamagedFileError):
        for record in replay(path, format, options):
            assert 1 <= len(record.partition_key) <= 256
            result = parse(record.data, 0, ParsingOptions(format))
            assert isinstance(result, Review | Rejected)


@LONG
@given(seed=st.integers(0, 2**48), shape=st.sampled_from([as_csv, as_tsv, as_json]))
def test_what_tools_write_is_read_as_it_was(
    file: Path, seed: int, shape: Callable[[random.Random, Rows], str]
) -> None:
    rng = random.Random(seed)
    # Text between tabs cannot hold these.
    held = [body for body in BODIES if shape is not as_tsv or not set(body) & set("\t\r\n")]
    rows = make_rows(rng, tuple(held))
    file.write_bytes(compressed(rng, encoded(rng, shape(rng, rows))))
    records = replay(file, "json")
    results = [(parse(record.data, 0, ParsingOptions()), record.star_rating) for record in records]
    assert [
        (review.review_id, review.product_category, review.review_body, rating)
        for review, rating in results
        if isinstance(review, Review)
    ] == [
        (r["review_id"], r["product_category"], r["review_body"], int(r["star_rating"]))
        for r in rows
    ]
    assert len(results) == len(rows)


@LONG
@given(seed=st.integers(0, 2**48), format=st.sampled_from(["json", "tsv"]))
def test_what_is_spoilt_is_a_review_or_has_a_reason(
    file: Path, seed: int, format: ReviewFormat
) -> None:
    rng = random.Random(seed)
    data = encoded(rng, rng.choice([as_csv, as_tsv, as_json])(rng, make_rows(rng, BODIES)))
    if rng.random() < 0.7:
        data = spoilt(rng, data)
    data = compressed(rng, data)
    file.write_bytes(spoilt(rng, data) if rng.random() < 0.4 else data)
    options = FileOptions()
    if rng.random() < 0.2:
        options = FileOptions(parse_columns("review_id=1,review_body=4"), "Books")
    read_through(file, format, options)


@LONG
@given(data=st.binary(max_size=400), header=st.booleans())
def test_any_bytes_are_reviews_or_have_a_reason(file: Path, data: bytes, header: bool) -> None:
    sound = b"\t".join([b"R1", b"Gift_Card", b"5", b"Nice."])
    file.write_bytes(sound + b"\n" + data if header else data)
    read_through(file, "json", FileOptions())
