"""Strategies for records that producers might send."""

import base64
import gzip
import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from tests.corpus import ORDINARY, record_cases

odd_characters = st.sampled_from(
    "\0\t\n\x1c\x7f\x85\xa0\xad\u0301\u034f\u061c\u200b\u200c\u200d\u200e\u2028\u202e\u2060\u2066"
    "\u2800\u3000\u3164\ud83d\udc4d\ufdd0\ufe0f\ufeff\uffff\U0001e4d0\U000e0041"
)
texts = st.text() | st.text(odd_characters | st.characters(), max_size=20)
numbers = st.integers() | st.floats() | st.integers(-(10**25), 10**25)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
times = st.from_regex(r"[0-9]{4}-?[0-9]{2}-?[0-9]{2}[Tt ][0-9:.,]{2,16}[Zz]?([+-][0-9:]{2,5})?")
reviews = st.fixed_dictionaries(
    {},
    optional={
        "review_id": texts | json_values,
        "product_category": texts | json_values,
        "review_body": texts | json_values,
        "event_time": times | numbers | json_values,
        "data": json_values,
    },
).map(lambda fields: {**ORDINARY, **fields})


def _as_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _cut(payload: bytes, start: int, length: int, junk: bytes) -> bytes:
    place = start % (len(payload) + 1)
    return payload[:place] + junk + payload[place + length :]


_WRAPPERS: tuple[Callable[[bytes], bytes], ...] = (
    lambda payload: payload + payload,
    lambda payload: b"[" + payload + b"," + payload + b"]\n",
    lambda payload: b'{"detail": ' + payload + b"}",
    lambda payload: json.dumps({"Records": [{"body": payload.decode(errors="replace")}]}).encode(),
    lambda payload: json.dumps({"data": base64.b64encode(payload).decode()}).encode(),
    lambda payload: json.dumps(payload.decode(errors="replace")).encode(),
    lambda payload: b"\xef\xbb\xbf" + payload,
    lambda payload: payload.decode(errors="replace").encode("utf-16"),
    lambda payload: payload.replace(b",", b"\t"),
    base64.b64encode,
    gzip.compress,
)

_sound = reviews.map(_as_json) | st.sampled_from([case.payload for case in record_cases()])
_mutated = st.builds(_cut, _sound, st.integers(0, 400), st.integers(0, 8), st.binary(max_size=8))
_lines = st.lists(texts, min_size=1, max_size=4).map(
    lambda cells: "\t".join(cells).encode("utf-8", "surrogatepass")
)
_plain = _sound | _mutated | _lines | json_values.map(_as_json) | st.binary()

records = _plain | st.builds(
    lambda payload, wrap, wrap_again: wrap_again(wrap(payload)),
    _plain,
    st.sampled_from(_WRAPPERS),
    st.sampled_from((*_WRAPPERS, bytes)),
)
"""Reviews, some of them sound, and what becomes of them on the way: bytes of a record."""
