"""Reads files as UTF-8: decompresses gzip, bzip2 and Zstandard, converts UTF-16 and UTF-32."""

from __future__ import annotations

import bz2
import codecs
import itertools
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import zstandard

CHUNK_BYTES = 64 * 1024
# Which can become 8 MiB: a block of 128 KiB takes four bytes.
_ZSTD_PIECE_BYTES = 256
_SAMPLE_BYTES = 4096

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    # Before UTF-16, whose mark it begins with.
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_UNREADABLE = (
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"\xfd7zXZ\x00", "xz data"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (0, b"PAR1", "a Parquet file"),
    (257, b"ustar", "a tar archive"),
)


class DamagedDataError(ValueError):
    """The rest of a file cannot be read; the message says why."""


class _Decoder(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def pieces(self, data: bytes) -> Iterator[bytes]: ...

    def rest(self) -> bytes: ...


class _Gzip:
    def __init__(self) -> None:
        self._state = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._state.eof

    @property
    def unused_data(self) -> bytes:
        return self._state.unused_data

    def pieces(self, data: bytes) -> Iterator[bytes]:
        while data:
            yield self._state.decompress(data, CHUNK_BYTES)
            data = self._state.unconsumed_tail

    def rest(self) -> bytes:
        return self._state.flush()


class _Bzip2:
    def __init__(self) -> None:
        self._state = bz2.BZ2Decompressor()

    @property
    def eof(self) -> bool:
        return self._state.eof

    @property
    def unused_data(self) -> bytes:
        return self._state.unused_data

    def pieces(self, data: bytes) -> Iterator[bytes]:
        yield self._state.decompress(data, CHUNK_BYTES)
        while not (self._state.eof or self._state.needs_input):
            yield self._state.decompress(b"", CHUNK_BYTES)

    def rest(self) -> bytes:
        return b""


class _Zstandard:
    def __init__(self) -> None:
        self._state = zstandard.ZstdDecompressor().decompressobj()
        self._after = b""

    @property
    def eof(self) -> bool:
        return self._state.eof

    @property
    def unused_data(self) -> bytes:
        return self._state.unused_data + self._after

    def pieces(self, data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), _ZSTD_PIECE_BYTES):
            if self._state.eof:
                self._after = data[start:]
                return
            yield self._state.decompress(data[start : start + _ZSTD_PIECE_BYTES])

    def rest(self) -> bytes:
        return b""


@dataclass(frozen=True)
class _Compression:
    name: str
    magic: re.Pattern[bytes]
    decoder: Callable[[], _Decoder]


_COMPRESSIONS = (
    _Compression("gzip", re.compile(rb"\x1f\x8b\x08"), _Gzip),
    _Compression("bzip2", re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"), _Bzip2),
    # The second are frames to be skipped.
    _Compression("Zstandard", re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"), _Zstandard),
)
_LONGEST_MAGIC = 10


class Content:
    """Content of a file, as chunks of UTF-8.

    The first bytes show the compression; a byte order mark shows the encoding, and zero bytes show
    UTF-16 without a mark. Any other content is left as it is.

    Attributes
    ----------
    size_bytes, read_bytes
        Size of the file, and the number of bytes read.
    trailing_bytes
        Number of ignored bytes after the end of compressed data; padding with zeros is not counted.
    kind
        Compression and, after the first chunk was read, encoding, for messages.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.size_bytes = path.stat().st_size
        self.read_bytes = 0
        self.trailing_bytes = 0
        with path.open("rb") as file:
            start = file.read(_LONGEST_MAGIC)
        self._compression = next((c for c in _COMPRESSIONS if c.magic.match(start)), None)
        self._name = self._compression.name if self._compression else "not compressed"
        self.kind = self._name

    def chunks(self) -> Iterator[bytes]:
        """Read the file from its beginning.

        Raises
        ------
        DamagedDataError
            The data are damaged or cut off; raised after all data before the damage. The file is
            an archive or Parquet; raised at once.
        """
        self.read_bytes = self.trailing_bytes = 0
        chunks: Iterator[bytes] = self._decompressed()
        first, damage = _head(chunks)
        for offset, magic, name in _UNREADABLE:
            if first.startswith(magic, offset):
                raise DamagedDataError(f"it is {name}, to be unpacked or converted first")
        mark, encoding = _encoding(first)
        self.kind = f"{self._name}, {encoding.upper()}"
        chunks = itertools.chain([first.removeprefix(mark)], chunks)
        yield from chunks if encoding == "utf-8" else _transcoded(chunks, encoding)
        if damage is not None:
            raise damage

    def _pieces_of_file(self) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            while piece := file.read(CHUNK_BYTES):
                self.read_bytes += len(piece)
                yield piece

    def _decompressed(self) -> Iterator[bytes]:
        if self._compression is None:
            yield from self._pieces_of_file()
            return
        try:
            yield from self._members(self._compression)
        except (zlib.error, OSError, zstandard.ZstdError) as error:
            # One with a number is the file system's.
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise DamagedDataError(f"the {self._name} data are damaged: {error}") from error

    def _members(self, compression: _Compression) -> Iterator[bytes]:
        """Decompress one piece after the other, as `cat a.gz b.gz` puts them together."""
        decoder: _Decoder | None = None
        pieces = self._pieces_of_file()
        data = b""
        while data or (data := next(pieces, b"")):
            if decoder is None:
                data = data.lstrip(b"\x00")
                if 0 < len(data) < _LONGEST_MAGIC:
                    data += next(pieces, b"")
                if not data:
                    continue
                if not compression.magic.match(data):
                    self.trailing_bytes = len(data) + sum(map(len, pieces))
                    return
                decoder = compression.decoder()
            yield from decoder.pieces(data)
            data, decoder = (decoder.unused_data, None) if decoder.eof else (b"", decoder)
        if decoder is not None:
            yield decoder.rest()
            raise DamagedDataError(f"the {self._name} data are damaged: they are cut off")


def _head(chunks: Iterator[bytes]) -> tuple[bytes, DamagedDataError | None]:
    """Return the first 4 KiB or more; of shorter content all, and the error that ended it."""
    head = b""
    try:
        while len(head) < _SAMPLE_BYTES and (chunk := next(chunks, None)) is not None:
            head += chunk
    except DamagedDataError as error:
        return head, error
    return head, None


def _encoding(first: bytes) -> tuple[bytes, str]:
    """Return the byte order mark and the encoding of content with these first bytes."""
    for mark, encoding in _BYTE_ORDER_MARKS:
        if first.startswith(mark):
            return mark, encoding
    zeros = [first[0::2].count(0), first[1::2].count(0)]
    for zero, other, encoding in ((1, 0, "utf-16-le"), (0, 1, "utf-16-be")):
        if zeros[zero] * 4 > len(first) and zeros[other] * 8 < zeros[zero]:
            return b"", encoding
    return b"", "utf-8"


def _transcoded(chunks: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    # Half a surrogate pair stays one: a fault that the parser names.
    decode = codecs.getincrementaldecoder(encoding)("surrogatepass").decode
    try:
        for chunk in chunks:
            yield decode(chunk).encode("utf-8", "surrogatepass")
        yield decode(b"", True).encode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise DamagedDataError(f"it is not {encoding.upper()}: {error.reason}") from error
