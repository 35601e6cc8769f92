"""Windows that were archived, merged over any range and grouping."""

import base64
import bisect
import gzip
import re
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from udfs.core.sketches import DistinctSketch, LengthSketch, TermSketch
from udfs.core.summaries import ALL, Summary
from udfs.core.validation import problems_of
from udfs.core.windows import WindowKind

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_GZIP = b"\x1f\x8b"
# Firehose's own prefix: the hour in which the first record of the object arrived, in UTC.
_HOUR = "%Y/%m/%d/%H/"
_BY_HOUR = re.compile(r"\d{4}/\d{2}/\d{2}/\d{2}/")
# Clocks of producers and of AWS are at most so far apart.
_CLOCKS = timedelta(hours=1)


# Periods are counted from the epoch, and a period may end days after its windows.
_LAST = datetime(9999, 1, 1, tzinfo=UTC)

_Count = Annotated[int, Field(ge=0, lt=2**63)]


class ArchiveError(ValueError):
    """The archive holds something that is not a window, or nothing can be found there."""


class _Record(BaseModel):
    model_config = ConfigDict(strict=True)

    window_kind: str
    window_start: AwareDatetime
    window_end: AwareDatetime
    product_category: str
    rating_counts: Annotated[tuple[_Count, ...], Field(min_length=5, max_length=5)]
    sketch: str
    body_length_sketch: str | None
    terms_sketch: str | None


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
    record: _Record

    @property
    def reviews(self) -> int:
        """How many it holds."""
        return sum(self.record.rating_counts)

    def summary(self) -> Summary:
        """Return what is known of its reviews.

        Raises
        ------
        ArchiveError
            A sketch cannot be read.
        """
        record = self.record
        lengths, terms = record.body_length_sketch, record.terms_sketch
        try:
            return Summary(
                record.rating_counts,
                DistinctSketch.from_bytes(base64.b64decode(record.sketch)),
                None if lengths is None else LengthSketch.from_bytes(base64.b64decode(lengths)),
                None if terms is None else TermSketch.from_bytes(base64.b64decode(terms)),
            )
        except ValueError as error:
            raise ArchiveError(
                f"not a window: {self.category!r} from {self.span.start.isoformat()} ({error})"
            ) from error


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
    try:
        plain = gzip.decompress(data) if data.startswith(_GZIP) else data
        # Not `splitlines`: JSON may hold separators of lines that are none here.
        return [line for line in plain.decode().split("\n") if line]
    except (UnicodeDecodeError, EOFError, OSError, zlib.error) as error:
        raise ArchiveError(f"not a window: {error}") from error


def windows_within(lines: Iterable[str], span: Span) -> Iterator[ArchivedWindow]:
    """Return the tumbling windows that lie in a range; one that was written again comes again.

    Others overlap, so that their counts would be counted twice.

    Raises
    ------
    ArchiveError
        A line is not a window.
    """
    for line in lines:
        try:
            record = _Record.model_validate_json(line)
        except ValidationError as error:
            raise ArchiveError(f"not a window: {line[:200]!r} ({problems_of(error)[0]})") from error
        window = ArchivedWindow(
            Span(record.window_start, record.window_end), record.product_category, record
        )
        if not _EPOCH <= window.span.start < window.span.end < _LAST:
            raise ArchiveError(f"not a window: {line[:200]!r} (its times)")
        is_tumbling = record.window_kind == WindowKind.TUMBLING
        if is_tumbling and span.holds(window.span):
            yield window


def merge(
    windows: Callable[[], Iterable[ArchivedWindow]],
    *,
    by_category: bool = False,
    period: timedelta | None = None,
) -> list[Merged]:
    """Merge windows into one row of each group.

    Every moment counts once: of windows that overlap, those are taken that hold the most reviews
    together, and of these the fewest. So a week is made of hours, and of seconds only at its ends,
    or where an hour is not whole because the job was drained or began without its state within it.
    Of a window that was written several times, the version with the most reviews is taken.

    The windows are read twice. Memory: some hundred bytes a window, and a summary a group.

    Parameters
    ----------
    windows
        Returns tumbling ones, in whatever order, each time the same.
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

    def grouped() -> Iterator[tuple[tuple[int, str], ArchivedWindow]]:
        for window in windows():
            if not by_category and window.category != ALL:
                continue
            number = 0
            if period is not None:
                number = (window.span.start - _EPOCH) // period
                if window.span.end > _EPOCH + (number + 1) * period:
                    continue
            yield (number, window.category), window

    reviews: dict[tuple[int, str], dict[Span, int]] = defaultdict(dict)
    for group, window in grouped():
        found = reviews[group]
        found[window.span] = max(window.reviews, found.get(window.span, 0))
    wanted = {
        group: {span: found[span] for span in _cover(found)} for group, found in reviews.items()
    }
    chosen = {group: sorted(spans, key=lambda span: span.start) for group, spans in wanted.items()}
    summaries: dict[tuple[int, str], Summary] = {}
    for group, window in grouped():
        if wanted[group].get(window.span) == window.reviews:
            del wanted[group][window.span]
            summary = window.summary()
            if group in summaries:
                summaries[group].merge(summary)
            else:
                summaries[group] = summary
    order = sorted(chosen, key=lambda group: (group[0], group[1] != ALL, group[1]))
    return [
        Merged(
            Span(chosen[group][0].start, chosen[group][-1].end),
            group[1],
            len(chosen[group]),
            summaries[group],
        )
        for group in order
    ]


def _cover(reviews: Mapping[Span, int]) -> Iterator[Span]:
    """Return spans that do not overlap, with the most reviews together, and of these the fewest.

    Weighted interval scheduling, by dynamic programming over their ends (Kleinberg and Tardos,
    Algorithm Design, 6.1).
    """
    spans = sorted(reviews, key=lambda span: (span.end, span.start))
    ends = [span.end for span in spans]
    # Of the first so many spans: reviews, and less one for each span that is taken.
    best = [(0, 0)]
    for place, span in enumerate(spans):
        total, taken = best[bisect.bisect_right(ends, span.start, hi=place)]
        best.append(max(best[-1], (total + reviews[span], taken - 1)))
    place = len(spans)
    while place:
        if best[place] == best[place - 1]:
            place -= 1
        else:
            span = spans[place - 1]
            yield span
            place = bisect.bisect_right(ends, span.start, hi=place - 1)
