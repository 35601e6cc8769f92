"""Rows of a file to records of the `reviews` stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from deploy.local.files.layouts import (
    FIELDS,
    KNOWN_NAMES,
    REQUIRED,
    FileOptions,
    Layout,
    LayoutError,
    digest,
    find_layout,
    normal,
)
from deploy.local.files.rows import Row
from deploy.local.records import Outgoing, encode, partition_key, to_json
from udfs.core.parsing import ReviewFormat

_RECORD_FIELDS = (*REQUIRED, "event_time")

_Take = Callable[[Callable[[Any], object]], dict[str, object]]
"""Reads the fields of a review out of a row, given what reads one of its columns."""


def of_objects(rows: Iterable[Row], layout: Layout, format: ReviewFormat) -> Iterator[Outgoing]:
    """Yield a record for each row of JSON.

    A row that holds the fields of the stream is sent as it is, its own event time included, when
    `format` is `json`: only one with a `star_rating` is written anew, because records must not hold
    the truth.
    """
    # Any row may have what the first ones lack.
    take = _taker({field: (field,) for field in FIELDS} if layout.is_own else layout.columns)
    for row in rows:
        values = row.values
        if not isinstance(values, dict):
            yield as_it_is(row.raw)
        elif layout.is_own and format == "json" and "star_rating" not in values:
            yield _outgoing(row.raw, values.get("review_id"), values.get("product_category"), None)
        else:
            yield _written(row.raw, take(values.get), layout, format)


def of_lines(
    rows: Iterable[Row],
    names: Sequence[str],
    layout: Layout,
    format: ReviewFormat,
    path: Path,
    options: FileOptions,
) -> Iterator[Outgoing]:
    """Yield a record for each row except headers; each header renames the columns.

    Parameters
    ----------
    rows
        From the first one on, the header included.
    names, layout
        Columns by position, and where the fields are among them.
    format, path, options
        As of `replay`.
    """
    firsts = KNOWN_NAMES | {normal(names[0])}
    header = [normal(name) for name in names]
    take = _by_position(layout, names)
    for row in rows:
        values = row.values
        if not isinstance(values, list):
            yield as_it_is(row.raw)
            continue
        if normal(values[0]) in firsts:
            if [normal(value) for value in values] == header:
                continue
            if options.columns is None and (other := _header_layout(values, path, options)):
                layout, header = other, [normal(value) for value in values]
                take = _by_position(layout, values)
                continue
        if len(values) != len(header):
            yield as_it_is(row.raw)
        else:
            yield _written(row.raw, take(values.__getitem__), layout, format)


def _header_layout(values: Sequence[str], path: Path, options: FileOptions) -> Layout | None:
    try:
        return find_layout(values, path, options)
    except LayoutError:
        return None


def as_it_is(raw: bytes) -> Outgoing:
    """Return a row that cannot be a review as a record, to be dead-lettered."""
    return _outgoing(raw, None, None, None)


def _by_position(layout: Layout, names: Sequence[str]) -> _Take:
    return _taker(
        {
            field: tuple(list(names).index(part) for part in parts)
            for field, parts in layout.columns.items()
        }
    )


def _taker(columns: Mapping[str, tuple[Any, ...]]) -> _Take:
    items = list(columns.items())

    def take(get: Callable[[Any], object]) -> dict[str, object]:
        return {
            field: get(parts[0]) if len(parts) == 1 else _digest([get(part) for part in parts])
            for field, parts in items
        }

    return take


def _digest(parts: Sequence[object]) -> str | None:
    return None if None in parts or "" in parts else digest([str(part) for part in parts])


def _written(
    raw: bytes, fields: Mapping[str, object], layout: Layout, format: ReviewFormat
) -> Outgoing:
    review_id = fields["review_id"]
    category = layout.category or fields.get("product_category")
    body = fields["review_body"]
    event_time = fields.get("event_time") or None
    if not layout.is_own:
        review_id, category = _key(review_id), _key(category)
    if (
        isinstance(review_id, str)
        and isinstance(category, str)
        and isinstance(body, str)
        and (event_time is None or format == "tsv")
    ):
        try:
            data = encode(review_id, category, body, None, format)
        except UnicodeEncodeError:  # half a surrogate pair, which a line cannot hold
            return as_it_is(raw)
    elif format == "json":
        record = dict(zip(_RECORD_FIELDS, (review_id, category, body, event_time), strict=True))
        data = to_json({name: value for name, value in record.items() if value is not None})
    else:
        data = raw
    return _outgoing(data, review_id, category, fields.get("star_rating"))


def _key(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _outgoing(data: bytes, review_id: object, category: object, rating: object) -> Outgoing:
    return Outgoing(
        data=data,
        partition_key=partition_key(review_id if isinstance(review_id, str) else None, data),
        fate=None,
        review_id=review_id if isinstance(review_id, str) else None,
        product_category=category if isinstance(category, str) else None,
        star_rating=_rating(rating),
    )


def _rating(value: object) -> int | None:
    # Tools that read ratings as floats write 5.0.
    text = str(value).strip().removesuffix(".0")
    return int(text) if text in ("1", "2", "3", "4", "5") else None
