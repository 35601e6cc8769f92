"""Cuts the content of a file into rows, in memory bounded by the longest that is taken."""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from udfs.core.parsing import decode_json

MAX_ROW_BYTES = 4 * 1024 * 1024
"""A longer row is given up: its beginning, which no stream takes either, stands for it."""

_BYTE_ORDER_MARK = codecs.BOM_UTF8
# Between the objects of arrays, and of texts that follow each other (RFC 7464: after a \x1e).
_BETWEEN_OBJECTS = re.compile(r"[\s,\[\]\x1e\ufeff]*")
_NEXT_OBJECT = re.compile(r"(?<=\})\s*(?:,\s*)?(?=\{)|\n(?=\{)")


class Row(NamedTuple):
    """One row: its bytes and its value, None where it is not valid in the file's format."""

    raw: bytes
    values: object


def lines(chunks: Iterable[bytes], end: bytes) -> Iterator[bytes]:
    """Yield the lines that are not empty, without their ends and byte order marks.

    Of a line that is longer than `MAX_ROW_BYTES` a beginning is yielded that is longer too.
    """
    for line in _physical_lines(chunks, end):
        if line := line.removesuffix(b"\r"):
            yield line


def _physical_lines(chunks: Iterable[bytes], end: bytes) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        if end not in chunk:
            if len(rest) <= MAX_ROW_BYTES:
                rest += chunk
            continue
        text = rest + chunk
        # In the middle too: files are put one after the other.
        if _BYTE_ORDER_MARK in text:
            text = text.removeprefix(_BYTE_ORDER_MARK).replace(end + _BYTE_ORDER_MARK, end)
        *whole, rest = text.split(end)
        yield from whole
    if rest := rest.removeprefix(_BYTE_ORDER_MARK):
        yield rest


class JsonLines:
    """One JSON value a line."""

    name = "JSON lines"

    def __init__(self, end: bytes) -> None:
        self._end = end

    def rows(self, chunks: Iterable[bytes]) -> Iterator[Row]:
        """Yield the values of the lines."""
        for line in lines(chunks, self._end):
            yield Row(line, json_value(line))


class JsonObjects:
    """JSON objects one after the other, or in arrays, over any number of lines."""

    name = "JSON objects over several lines, or in an array"

    def rows(self, chunks: Iterable[bytes]) -> Iterator[Row]:
        """Yield the objects; other text between them is a row without values."""
        decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
        scan = json.JSONDecoder().raw_decode
        source = iter(chunks)
        text, start, is_all = "", 0, False
        while True:
            if between := _BETWEEN_OBJECTS.match(text, start):
                start = between.end()
            if start == len(text) and is_all:
                return
            try:
                _, end = scan(text, start)
            except (ValueError, RecursionError):
                # It may only be incomplete.
                if not is_all and len(text) - start <= MAX_ROW_BYTES:
                    chunk = next(source, None)
                    is_all = chunk is None
                    text, start = text[start:] + decode(chunk or b"", is_all), 0
                    continue
                following = _NEXT_OBJECT.search(text, start + 1)
                end = following.start() if following else len(text)
            raw = text[start:end].rstrip().encode("utf-8", "surrogateescape")
            start = end
            yield Row(raw, json_value(raw))


def json_value(raw: bytes) -> object:
    """Return what a row of JSON holds; None where it is too long or no JSON."""
    if len(raw) > MAX_ROW_BYTES:
        return None
    try:
        return decode_json(raw.decode())
    # A deeply nested line ends in a RecursionError.
    except (ValueError, RecursionError):
        return None


Quotes = Literal["none", "doubled", "escaped"]
"""Whether `"` encloses fields, and how one stands inside: doubled, or after a backslash."""


class Delimited:
    """Fields between delimiters: in lines, or read by the `csv` module where they are quoted."""

    def __init__(self, delimiter: str, quotes: Quotes, end: bytes) -> None:
        self.delimiter = delimiter
        self.quotes = quotes
        self._end = end

    @property
    def name(self) -> str:
        """Description for messages."""
        between = "tabs" if self.delimiter == "\t" else f"{self.delimiter!r}"
        quotes = {
            "none": "quotes are text",
            "doubled": "quotes enclose fields",
            "escaped": "quotes enclose fields, a backslash escapes them",
        }
        return f"fields between {between}, {quotes[self.quotes]}"

    def rows(self, chunks: Iterable[bytes]) -> Iterator[Row]:
        """Yield lists of fields; a row that is too long or not UTF-8 has none."""
        if self.quotes != "none":
            yield from self._quoted(_physical_lines(chunks, self._end))
            return
        delimiter = self.delimiter
        for line in lines(chunks, self._end):
            try:
                values = line.decode().split(delimiter) if len(line) <= MAX_ROW_BYTES else None
            except UnicodeDecodeError:
                values = None
            yield Row(line, values)

    def _quoted(self, physical: Iterator[bytes]) -> Iterator[Row]:
        # Of the process, and by default 131,072 characters.
        csv.field_size_limit(MAX_ROW_BYTES)
        feed = _Feed(physical, self._end)
        reader = csv.reader(
            feed,
            delimiter=self.delimiter,
            # Without it, strict mode accepts text after a closing quote.
            doublequote=True,
            escapechar="\\" if self.quotes == "escaped" else None,
            strict=True,
        )
        while True:
            try:
                values = next(reader)
            except StopIteration:
                return
            except csv.Error:
                # A quote that nothing closes would take in the rows after it: only its line is
                # given up.
                yield Row(feed.give_up(), None)
            else:
                is_utf8, raw = feed.take()
                if values:
                    yield Row(raw, values if is_utf8 else None)


class _Feed:
    """Hands lines to `csv.reader`, and keeps those of the row under way."""

    def __init__(self, physical: Iterator[bytes], end: bytes) -> None:
        self._physical = physical
        self._end = end
        self._again: deque[bytes] = deque()
        self._taken: list[bytes] = []
        self._bytes = 0
        self._is_utf8 = True

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._physical)
        self._taken.append(line)
        self._bytes += len(line)
        if self._bytes > MAX_ROW_BYTES:
            raise csv.Error("the row is too long")
        try:
            return (line + self._end).decode()
        except UnicodeDecodeError:
            self._is_utf8 = False
            return (line + self._end).decode(errors="surrogateescape")

    def take(self) -> tuple[bool, bytes]:
        """Return whether the row that has ended is UTF-8, and its bytes."""
        row = self._is_utf8, self._end.join(self._taken)
        self._taken, self._bytes, self._is_utf8 = [], 0, True
        return row

    def give_up(self) -> bytes:
        """Return the first line of the row under way; those after it are read again."""
        first, *others = self._taken
        self._again.extendleft(reversed(others))
        self.take()
        return first
