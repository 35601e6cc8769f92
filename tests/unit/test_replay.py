import bz2
import gzip
import itertools
import json
import tracemalloc
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.local.generator import COLUMNS, customer_reviews, write_tsv
from deploy.local.records import Outgoing
from deploy.local.replay import DamagedFileError, replay
from udfs.core.parsing import ParsingOptions, Review, ReviewFormat, parse

SAMPLES = Path(__file__).parents[3] / "shared" / "data"
FOUR = "review_id\tproduct_category\tstar_rating\treview_body"
ROWS = [
    ("R1", "Gift_Card", 5, "Lovely card."),
    ("R2", "Digital_Software", 1, 'It "crashed" \\ na\u00efve \U0001f621'),
    ("R3", "Gift_Card", 3, "ok"),
]
FORMATS: tuple[ReviewFormat, ...] = ("json", "tsv")


def write(path: Path, data: str | bytes) -> Path:
    raw = data.encode() if isinstance(data, str) else data
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def parsed(record: Outgoing, format: ReviewFormat = "json") -> tuple[str, str, str] | str:
    review = parse(record.data, 1_000, ParsingOptions(format))
    if not isinstance(review, Review):
        return review.reason.value
    assert review.event_time_ms == 1_000, "the arrival time counts"
    return review.review_id, review.product_category, review.review_body


def four_columns() -> list[str]:
    return ["\t".join(map(str, row)) for row in ROWS]


def fifteen_columns() -> list[str]:
    lines = []
    for review_id, category, rating, body in ROWS:
        row = dict.fromkeys(COLUMNS, "0") | {
            "review_id": review_id,
            "product_category": category,
            "star_rating": str(rating),
            "review_body": body,
        }
        lines.append("\t".join(row[name] for name in COLUMNS))
    return lines


def json_lines() -> list[str]:
    names = FOUR.split("\t")
    return [json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) for row in ROWS]


def shapes() -> dict[str, list[str]]:
    return {
        "four.tsv": [FOUR, *four_columns()],
        "four_headerless.tsv": four_columns(),
        "fifteen.tsv": ["\t".join(COLUMNS), *fifteen_columns()],
        "fifteen_headerless.tsv": fifteen_columns(),
        "no_extension": four_columns(),
        "lines.jsonl": json_lines(),
        "lines.txt": json_lines(),
        "other_order.tsv": [
            "review_body\tStar_Rating\treview_id\tnotes\tproduct_category",
            *(f"{body}\t{rating}\t{key}\t-\t{category}" for key, category, rating, body in ROWS),
        ],
    }


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("shape", list(shapes()))
def test_every_shape_gives_the_same_reviews(
    tmp_path: Path, shape: str, mark: str, suffix: str, end: str, format: ReviewFormat
) -> None:
    text = mark + end.join(shapes()[shape]) + end
    records = list(replay(write(tmp_path / (shape + suffix), text), format))
    assert [parsed(r, format) for r in records] == [(key, cat, body) for key, cat, _, body in ROWS]
    for record, (key, category, rating, _) in zip(records, ROWS, strict=True):
        assert (record.review_id, record.partition_key) == (key, key)
        assert (record.product_category, record.star_rating) == (category, rating)
        assert (record.fate, record.is_late, record.burst) == (None, False, None)
        assert b"star_rating" not in record.data


def test_gzip_is_detected_by_content(tmp_path: Path) -> None:
    data = gzip.compress("\n".join(four_columns()).encode())
    (tmp_path / "reviews.tsv").write_bytes(data)
    assert len(list(replay(tmp_path / "reviews.tsv", "json"))) == 3


def test_a_last_line_needs_no_end_and_empty_lines_are_no_rows(tmp_path: Path) -> None:
    first, second, third = four_columns()
    path = write(tmp_path / "r.tsv", f"\n{FOUR}\n\n{first}\r\n\r\n{second}\n\n{third}")
    assert [record.review_id for record in replay(path, "json")] == ["R1", "R2", "R3"]


@pytest.mark.parametrize("header", [FOUR + "\n", ""])
def test_a_row_that_cannot_be_a_review_is_sent_as_it_is(tmp_path: Path, header: str) -> None:
    broken = [
        b"one column",
        b"R8\tGift_Card\t5",
        b"R8\tGift_Card\t5\tbody\tand more",
        b"R9\tGift_Card\t5\tcaf\xe9",
        b"\xff\xfe",
        b"   ",
        b"\x00",
        b"R9\tGift_Card\t5\t" + b"x" * (1024 * 1024),
    ]
    rows = [line.encode() for line in four_columns()]
    wide = broken.pop()
    lines = [broken[0], rows[0], *broken[1:], rows[1], wide, rows[2]]
    path = write(tmp_path / "r.tsv", header.encode() + b"\n".join(lines))
    records = list(replay(path, "json"))
    assert len(records) == len(lines)
    for record, line in zip(records, lines, strict=True):
        if line in broken:
            assert record.data == line
            assert (record.fate, record.review_id, record.star_rating) == (None, None, None)
            assert 1 <= len(record.partition_key) <= 256
    assert parsed(records[-2]) == "oversize"
    assert [r.review_id for r in records if r.review_id] == ["R1", "R2", "R9", "R3"]


def test_a_fault_inside_a_field_is_kept(tmp_path: Path) -> None:
    rows = ["\tGift_Card\t5\tx", "R\x07\tGift_Card\t5\tx", "R3\tGift_Card\tfive\t \u00a0"]
    rows.append("R" * 300 + "\tGift_Card\t5.0\tx")
    lines = [FOUR, *rows, *four_columns()]
    records = list(replay(write(tmp_path / "r.tsv", "\n".join(lines)), "json"))[: len(rows)]
    assert [parsed(record) for record in records] == [
        "missing_field",
        "key_not_printable",
        "empty_body",
        "key_too_long",
    ]
    assert [record.star_rating for record in records] == [5, 5, None, 5]
    assert len({record.partition_key for record in records}) == 4


@pytest.mark.parametrize("rating", ["0", "6", "", "4.5", "-1", "\u0665", "nan"])
def test_a_rating_out_of_range_is_unknown(tmp_path: Path, rating: str) -> None:
    (record,) = replay(write(tmp_path / "r.tsv", f"R1\tGift_Card\t{rating}\tx"), "json")
    assert record.star_rating is None
    assert parsed(record) == ("R1", "Gift_Card", "x")


def test_json_rows_are_sent_as_they_are_but_for_the_truth(tmp_path: Path) -> None:
    kept = [
        b'{"review_id": "R1",  "product_category":"Gift_Card", "review_body": "\\u00e9", "x": 1}',
        b'{"review_id": "R2", "event_time": "2026-13-45T99:00:00Z"}',
        b"[1, 2]",
        b"{truncated",
        b'{"review_id": "R3", "star_rating": NaN}',
        b"\xff\xfe{}",
        b"[" * 100_000,
        b'{"review_id": 7, "product_category": null, "review_body": "\\ud83d"}',
    ]
    rated = {
        "review_id": "R4",
        "product_category": "Gift_Card",
        "review_body": "half \ud83d a pair",
        "star_rating": 4,
        "event_time": "2026-01-31T12:00:00Z",
        "overall": 4,
    }
    data = b"\n".join([*kept, json.dumps(rated).encode()])
    records = list(replay(write(tmp_path / "r.jsonl", data), "json"))
    assert [record.data for record in records[:-1]] == kept
    assert json.loads(records[-1].data) == {
        name: value for name, value in rated.items() if name not in ("star_rating", "overall")
    }
    assert records[-1].star_rating == 4


def test_json_rows_that_are_no_line_of_tsv_are_sent_as_they_are(tmp_path: Path) -> None:
    lines = [
        b'{"review_id": "R1", "product_category": "Gift_Card"}',
        b'{"review_id": "R1", "product_category": "Gift_Card", "review_body": "\\ud83d"}',
        b"nothing",
    ]
    sound = json_lines()[0].encode()
    records = list(replay(write(tmp_path / "r.jsonl", b"\n".join([*lines, sound])), "tsv"))
    assert [record.data for record in records[:-1]] == lines


def test_json_lines_are_detected_where_the_first_is_broken(tmp_path: Path) -> None:
    text = "\n".join(["broken", *json_lines()])
    records = list(replay(write(tmp_path / "r.jsonl.gz", text), "json"))
    assert [record.star_rating for record in records] == [None, 5, 1, 3]


def test_a_missing_file_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        replay(tmp_path / "absent.tsv", "json")
    with pytest.raises(FileNotFoundError, match="no file"):
        replay(tmp_path, "json")


@pytest.mark.parametrize("data", [b"", b"\n\r\n\n", FOUR.encode(), gzip.compress(b"")])
def test_a_file_without_a_row_is_an_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "r.tsv").write_bytes(data)
    with pytest.raises(ValueError, match="no review"):
        replay(tmp_path / "r.tsv", "json")


def test_a_header_without_a_needed_column_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "r.tsv", "review_id\tstars\ttext\nR1\t5\tx\n")
    with pytest.raises(ValueError, match="product_category, review_body"):
        replay(path, "json")


def test_damaged_gzip_is_an_error_with_the_files_name(tmp_path: Path) -> None:
    whole = tmp_path / "whole.tsv.gz"
    write_tsv(whole, 2_000, seed=1)
    path = tmp_path / "cut.tsv.gz"
    path.write_bytes(whole.read_bytes()[:-5_000])
    records = replay(path, "json")
    assert parsed(next(records)) != "not_json"
    with pytest.raises(
        DamagedFileError,
        match=r"cut\.tsv\.gz: the gzip data are damaged: they are cut off; 1,\d+ rows",
    ):
        list(records)


@pytest.mark.parametrize("name", ["reviews.tsv", "reviews.tsv.gz"])
def test_what_the_generator_writes_is_read_again(tmp_path: Path, name: str) -> None:
    write_tsv(tmp_path / name, 500, seed=4)
    records = list(replay(tmp_path / name, "json"))
    for record, review in zip(records, customer_reviews(4), strict=False):
        assert record.review_id == review.review_id
        assert record.star_rating == review.star_rating
        assert isinstance(parsed(record), tuple)
    assert len(records) == 500


@settings(max_examples=200, deadline=None)
@given(data=st.binary(min_size=1), format=st.sampled_from(FORMATS))
def test_no_line_is_lost_and_none_raises(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, format: ReviewFormat
) -> None:
    path = tmp_path_factory.mktemp("any") / "r.tsv"
    path.write_bytes(b"R1\tGift_Card\t5\tfirst\n" + data)
    lines = [line.removesuffix(b"\r") for line in data.split(b"\n")]
    assert len(list(replay(path, format))) == 1 + sum(map(bool, lines))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    ("name", "rows", "fives"),
    [("reviews_amazon_stars.tsv", 434, 115), ("reviews_digital_software.tsv", 1_440, 468)],
)
def test_the_samples_are_read_whole(name: str, rows: int, fives: int, format: ReviewFormat) -> None:
    path = SAMPLES / name
    if not path.is_file():
        pytest.skip(f"the sample ../shared/data/{name} is not beside the project")
    records = list(replay(path, format))
    assert len(records) == rows
    assert sum(record.star_rating == 5 for record in records) == fives
    assert all(isinstance(parsed(record, format), tuple) for record in records)


@pytest.mark.parametrize("shape", ["line", "quote", "bomb.gz", "bomb.bz2", "bomb.zst", "object"])
def test_memory_is_bounded_whatever_a_row_is_like(tmp_path: Path, shape: str) -> None:
    rows = "\n".join([FOUR.replace("\t", ","), "R1,Gift_Card,5,one", "R2,Gift_Card,5,two", ""])
    long = b"x" * (24 * 2**20)
    path = tmp_path / shape
    compress = {".gz": gzip.compress, ".bz2": bz2.compress, ".zst": zstandard.compress}
    data = {
        "line": rows.encode() + long + b"\nR3,Gift_Card,5,three\n",
        # Opened, and closed by nothing for longer than a row may be.
        "quote": rows.encode() + b'R9,Gift_Card,5,"' + long.replace(b"xxxxxxxx", b"xxxxxxx\n"),
        "object": b'{"review_id": "R1", "product_category": "C", "review_body": "x"}\n{"a": "'
        + long,
    }.get(shape, rows.encode() + long)
    path.write_bytes(compress.get(path.suffix, bytes)(data))
    del data, long
    records = replay(path, "json")
    first = next(records)
    tracemalloc.start()
    try:
        seen = sum(1 for _ in itertools.islice(records, 200))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert first.review_id == "R1"
    assert seen > 0
    assert peak < 48 * 2**20
    if shape != "quote":
        assert "were given up" in records.notes[0]
