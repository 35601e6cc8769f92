"""Content types of an endpoint: texts to a request's body, an answer's body to labels.

The forms are those of SageMaker's inference containers: a feature list a line (JSON Lines), a
column without header (CSV, RFC 4180), or `instances` and `predictions` (JSON).
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

ContentType = Literal["application/jsonlines", "text/csv", "application/json"]

# Made once: `json.dumps` with options of its own makes an encoder for every call.
_quoted = json.JSONEncoder(ensure_ascii=False).encode


class BadAnswerError(ValueError):
    """A body that is no answer of its content type."""


@dataclass(frozen=True, slots=True)
class Codec:
    """One content type.

    Attributes
    ----------
    content_type
        Media type of request and answer.
    encode
        Texts to a body, one row each, in order. A row takes at most six bytes a character and 64
        more, the frame of the whole included.
    decode
        A body to labels as they stand there, in order; raises `BadAnswerError` and nothing else.
    """

    content_type: ContentType
    encode: Callable[[Sequence[str]], bytes]
    decode: Callable[[bytes], list[object]]


def encode_json_lines(texts: Sequence[str]) -> bytes:
    r"""Write a line `{"features": [text]}` for each text.

    >>> encode_json_lines(["good", "bad"])
    b'{"features": ["good"]}\n{"features": ["bad"]}'
    """
    return "\n".join([f'{{"features": [{_quoted(text)}]}}' for text in texts]).encode()


def decode_json_lines(body: bytes) -> list[object]:
    r"""Read a line `{"predicted_label": n}` for each row.

    >>> decode_json_lines(b'{"predicted_label": 4}\n{"predicted_label": 1}\n')
    [4, 1]
    """
    try:
        return _labels(_flat_objects(body) or [json.loads(line) for line in _lines(body)])
    except _MALFORMED as error:
        raise _bad(error, "one JSON object with predicted_label a line") from error


def encode_csv(texts: Sequence[str]) -> bytes:
    r"""Write a quoted field for each text.

    >>> encode_csv(["good", 'a "good" one'])
    b'"good"\r\n"a ""good"" one"\r\n'
    """
    return "".join(['"' + text.replace('"', '""') + '"\r\n' for text in texts]).encode()


def decode_csv(body: bytes) -> list[object]:
    r"""Read a label from each line: a number where it is a digit, else text.

    >>> decode_csv(b"4\r\n1\nfive")
    [4, 1, 'five']
    """
    try:
        lines = [line.decode().strip() for line in _lines(body)]
    except _MALFORMED as error:
        raise _bad(error, "a label a line") from error
    # No label has more than a digit: more of them stay text.
    return [int(line) if len(line) == 1 and line in "0123456789" else line for line in lines]


def encode_json(texts: Sequence[str]) -> bytes:
    """Write one object with an instance for each text.

    >>> encode_json(["good", "bad"])
    b'{"instances": [["good"], ["bad"]]}'
    """
    instances = ", ".join([f"[{_quoted(text)}]" for text in texts])
    return f'{{"instances": [{instances}]}}'.encode()


def decode_json(body: bytes) -> list[object]:
    """Read one object with a prediction for each row.

    >>> decode_json(b'{"predictions": [{"predicted_label": 4}, {"predicted_label": 1}]}')
    [4, 1]
    """
    try:
        return _labels(json.loads(body)["predictions"])
    except _MALFORMED as error:
        raise _bad(error, "an object with predictions, each with predicted_label") from error


CODECS: dict[ContentType, Codec] = {
    codec.content_type: codec
    for codec in (
        Codec("application/jsonlines", encode_json_lines, decode_json_lines),
        Codec("text/csv", encode_csv, decode_csv),
        Codec("application/json", encode_json, decode_json),
    )
}

_MALFORMED = (ValueError, KeyError, TypeError, RecursionError)


def _labels(records: list[dict[str, object]]) -> list[object]:
    return [record["predicted_label"] for record in records]


def _lines(body: bytes) -> list[bytes]:
    return [line for line in body.split(b"\n") if line.strip()]


def _flat_objects(body: bytes) -> list[dict[str, object]] | None:
    """Read all lines in one go, five times as fast, where each can only be one flat object.

    Each line begins and ends with a brace, and there are no others: whatever was to join or to
    split lines would leave fewer objects than lines. None where it is not so simple.
    """
    body = body.strip()
    rows = body.count(b"}\n{") + 1
    if not rows == body.count(b"\n") + 1 == body.count(b"{") == body.count(b"}"):
        return None
    objects: list[dict[str, object]] = json.loads(b"[" + body.replace(b"}\n{", b"},{") + b"]")
    return objects if len(objects) == rows else None


def _bad(error: Exception, form: str) -> BadAnswerError:
    return BadAnswerError(f"the answer is not {form}: {error!r}"[:300])
