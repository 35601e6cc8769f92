import csv
import io
import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udfs.core.codec import (
    CODECS,
    BadAnswerError,
    ContentType,
    decode_json_lines,
    encode_json_lines,
)

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"])))


def read_json_lines(body: bytes) -> list[str]:
    return [json.loads(line)["features"][0] for line in body.decode().split("\n") if line]


def read_csv(body: bytes) -> list[str]:
    rows = csv.reader(io.StringIO(body.decode(), newline=""), strict=True)
    return [text for (text,) in rows]


def read_json(body: bytes) -> list[str]:
    return [text for (text,) in json.loads(body)["instances"]]


def write_json_lines(labels: Sequence[int]) -> bytes:
    return "".join(json.dumps({"predicted_label": label}) + "\n" for label in labels).encode()


def write_csv(labels: Sequence[int]) -> bytes:
    return "".join(f"{label}\r\n" for label in labels).encode()


def write_json(labels: Sequence[int]) -> bytes:
    return json.dumps({"predictions": [{"predicted_label": label} for label in labels]}).encode()


READERS = {
    "application/jsonlines": read_json_lines,
    "text/csv": read_csv,
    "application/json": read_json,
}
WRITERS = {
    "application/jsonlines": write_json_lines,
    "text/csv": write_csv,
    "application/json": write_json,
}


@pytest.mark.parametrize("content_type", CODECS)
@given(texts=TEXTS)
def test_whatever_a_text_holds_it_is_one_row(content_type: ContentType, texts: list[str]) -> None:
    assert READERS[content_type](CODECS[content_type].encode(texts)) == texts


@pytest.mark.parametrize("content_type", CODECS)
@given(labels=st.lists(st.integers(1, 5)))
def test_labels_come_back_in_order(content_type: ContentType, labels: list[int]) -> None:
    assert CODECS[content_type].decode(WRITERS[content_type](labels)) == labels


@pytest.mark.parametrize("content_type", CODECS)
def test_no_row_takes_more_than_its_bound(content_type: ContentType) -> None:
    for text in ("", "\x00" * 50, '"' * 50, "😀" * 50, "\\" * 50, "\n" * 50):
        for rows in (1, 2, 20):
            assert len(CODECS[content_type].encode([text] * rows)) <= rows * (6 * len(text) + 64)


@pytest.mark.parametrize(
    ("content_type", "bodies"),
    [
        (
            "application/jsonlines",
            [b"{", b"[1]", b"1", b"{}", b"\xff", b"[" * 100_000, b'{"predicted_label": 1}\n{'],
        ),
        ("text/csv", [b"\xff"]),
        (
            "application/json",
            [b"", b"{", b"[1]", b"1", b"{}", b"\xff", b"[" * 100_000, b'{"predictions": [1]}'],
        ),
    ],
)
def test_a_body_of_another_form_is_no_answer(
    content_type: ContentType, bodies: list[bytes]
) -> None:
    for body in bodies:
        with pytest.raises(BadAnswerError):
            CODECS[content_type].decode(body)


@pytest.mark.parametrize(
    "body",
    [
        # One object over two lines, in several ways; each would make up for another's two.
        b'{"predicted_label": 1\n"a": 2}',
        b'{"predicted_label": 1, "a": "}\n{", "b": 2}',
        b'{"predicted_label": 1}, {"predicted_label": 2}\n{"predicted_label": 3\n"a": 1}',
        b'{"predicted_label": 1}, {"predicted_label": 2}\n{"predicted_label": 3, "a": "\n"}',
        b'{"predicted_label": 1, "a": {\n}}\n{"predicted_label": 2}',
    ],
)
def test_lines_are_neither_joined_nor_split(body: bytes) -> None:
    with pytest.raises(BadAnswerError):
        decode_json_lines(body)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
def test_other_fields_and_ends_of_lines_do_no_harm(end: str) -> None:
    body = end.join(['{"predicted_label": 1, "of": {"a": 1}}', '{"predicted_label": 5}', ""])
    assert decode_json_lines(body.encode()) == [1, 5]


@pytest.mark.parametrize("label", ["", "4.0", "-1", "44", "four", "٤", "²"])
def test_what_is_no_digit_stays_text(label: str) -> None:
    body = f"4\n{label}\n1".encode()
    assert CODECS["text/csv"].decode(body) == ([4, label, 1] if label else [4, 1])


def test_a_text_is_one_line_whatever_it_holds() -> None:
    texts = ["a\nb", "\u2028", "\r", '"', "é😀"]
    assert encode_json_lines(texts).count(b"\n") == len(texts) - 1
