"""Windows that were archived, merged over any range and grouping."""

import base64
import bisect
import gzip
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from udfs.core.sketches import DistinctSketch, LengthSketch, TermSketch
from udfs.core.summaries import Summary
from udfs.core.windows import WindowKind

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ALL = "All"
"""The category of the windows over all categories."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_GZIP = b"\x1f\x8b"
# Firehose's own prefix: the hour in which the first record of the object arrived, in UTC.
_HOUR = "%Y/%m/%d/%H/"
_BY_HOUR = re.compile(r"\d{4}/\d{2}/\d{2}/\d{2}/")
# Clocks of producers and of AWS are at most so far apart.
_CLOCKS = timedelta(hours=1)


class ArchiveError(ValueError):
    """The archive holds something that is no window, or nothing can be found there."""


@dataclass(frozen=True, slots=True)
class Span:
    """A range of time; the start is in it, the end is not."""

    start: datetime
    end: datetime

    def holds(self, other: "Span") -> bool:
        """Whether all of another one is in it."""
        return self.start <= other.start and other.end <= self.end


@dataclass(frozen=True, slots=True)
class ArchivedWindow:
    """A tumbling window of a category as it was archived."""

    span: Span
    category: str
    record: Mapping[str, Any]

    @property
    def reviews(self) -> int:
        """How many it holds."""
        return int(sum(self.record["rating_counts"]))

    def summary(self) -> Summary:
        """Return what is known of its reviews."""
        lengths, terms = (
            None if (text := self.record[name]) is None else base64.b64decode(text)
            for name in ("body_length_sketch", "terms_sketch")
        )
        return Summary(
            self.record["rating_counts"],
            DistinctSketch.from_bytes(base64.b64decode(self.record["sketch"])),
            None if lengths is None else LengthSketch.from_bytes(lengths),
            None if terms is None else TermSketch.from_bytes(terms),
        )


@dataclass(frozen=True, slots=True)
class Merged:
    """The windows of a group, merged.

    Attributes
    ----------
    span
        From the first window's start to the last one's end.
    category
        Theirs.
    windows
        How many were merged.
    summary
        Of all their reviews.
    """

    span: Span
    category: str
    windows: int
    summary: Summary


def read_s3(
    s3: "S3Client", bucket: str, prefix: str, since: datetime, on_object: Callable[[], None]
) -> Iterator[str]:
    """Return the lines of all objects below a prefix.

    Where Firehose's own order by hours follows the prefix, what was delivered before `since` is not
    read: a window is archived after its end.
    """
    since_hour = (since - _CLOCKS).strftime(_HOUR)
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    for page in pages:
        for entry in page.get("Contents", []):
            hour = _BY_HOUR.match(entry["Key"].removeprefix(prefix))
            if hour is not None and hour[0] < since_hour:
                continue
            on_object()
            yield from _lines(s3.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read())


def read_folder(path: Path, on_object: Callable[[], None]) -> Iterator[str]:
    """Return the lines of all files below a folder, for instance of `aws s3 sync`.

    Raises
    ------
    ArchiveError
        There is no such folder.
    """
    if not path.is_dir():
        raise ArchiveError(f"{path} is no folder")
    for file in sorted(path.rglob("*")):
        if file.is_file():
            on_object()
            yield from _lines(file.read_bytes())


def _lines(data: bytes) -> list[str]:
    plain = gzip.decompress(data) if data.startswith(_GZIP) else data
    return plain.decode().splitlines()


def windows_within(lines: Iterable[str], span: Span) -> Iterator[ArchivedWindow]:
    """Return the tumbling windows that lie in a range; one that was written again comes again.

    Others overlap, so that their counts would be counted twice.

    Raises
    ------
    ArchiveError
        A line is no window.
    """
    for line in lines:
        try:
            record = json.loads(line)
            edges = (datetime.fromisoformat(record[f"window_{edge}"]) for edge in ("start", "end"))
            window = ArchivedWindow(Span(*edges), record["product_category"], record)
            is_tumbling = record["window_kind"] == WindowKind.TUMBLING
        except (ValueError, KeyError, TypeError) as error:
            raise ArchiveError(f"not a window: {line[:200]!r} ({error})") from error
        if is_tumbling and span.holds(window.span):
            yield window


def merge(
    windows: Iterable[ArchivedWindow], *, by_category: bool = False, period: timedelta | None = None
) -> list[Merged]:
    """Merge windows into one row of each group.

    Every moment counts once: of windows that overlap, the longest is taken, so that a week is made
    of hours, and of seconds only at its ends. But a longer window that has fewer reviews than its
    parts that came before it is left out, and they are taken: a job that began without its state
    in the middle of an hour knows only the end of it. Memory: that of the windows that are not, or
    not yet, part of a longer one, about 20 KB each; where only short windows are archived, all of
    them.

    Parameters
    ----------
    windows
        Tumbling ones, in the order in which they were written, or nearly so; repeats count once.
    by_category
        A row for each category, `All` being one of them; else only `All`.
    period
        A row for each period of this length, from the epoch on; windows that do not fit into one
        are left out.

    Returns
    -------
    list of Merged
        By time, `All` first, then by category.
    """
    groups: dict[tuple[int, str], _Cover] = {}
    for window in windows:
        if not by_category and window.category != ALL:
            continue
        number = 0
        if period is not None:
            number = (window.span.start - _EPOCH) // period
            if window.span.end > _EPOCH + (number + 1) * period:
                continue
        groups.setdefault((number, window.category), _Cover()).add(window)
    order = sorted(groups, key=lambda group: (group[0], group[1] != ALL, group[1]))
    return [_merged(group[1], groups[group].longest()) for group in order]


class _Cover:
    """Windows of a group less those that are part of a longer one."""

    def __init__(self) -> None:
        self._by_length: dict[timedelta, dict[datetime, ArchivedWindow]] = {}

    def add(self, window: ArchivedWindow) -> None:
        start, end = window.span.start, window.span.end
        length = end - start
        parts: list[tuple[timedelta, datetime]] = []
        for other, found in self._by_length.items():
            # Windows are aligned to the epoch.
            if other > length and other % length == timedelta():
                if start - (start - _EPOCH) % other in found:
                    return
            elif other < length and length % other == timedelta():
                steps = (start + step * other for step in range(length // other))
                parts += [(other, step) for step in steps if step in found]
        if window.reviews < sum(self._by_length[part][step].reviews for part, step in parts):
            return
        for part, step in parts:
            del self._by_length[part][step]
        self._by_length.setdefault(length, {})[start] = window

    def longest(self) -> list[ArchivedWindow]:
        """Return windows that do not overlap, by start; where they do, the longest of them."""
        kept: list[ArchivedWindow] = []
        for length in sorted(self._by_length, reverse=True):
            for start, window in sorted(self._by_length[length].items()):
                place = _place(kept, start)
                is_free = (place == 0 or kept[place - 1].span.end <= start) and (
                    place == len(kept) or window.span.end <= kept[place].span.start
                )
                if is_free:
                    kept.insert(place, window)
        return kept


def _place(kept: list[ArchivedWindow], start: datetime) -> int:
    return bisect.bisect_left(kept, start, key=lambda window: window.span.start)


def _merged(category: str, windows: list[ArchivedWindow]) -> Merged:
    first, *others = windows
    summary = first.summary()
    for other in others:
        summary.merge(other.summary())
    return Merged(Span(first.span.start, windows[-1].span.end), category, len(windows), summary)
