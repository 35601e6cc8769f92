"""The latest texts and what was made of them."""

import hashlib
from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")


class TextCache(Generic[T]):
    """Least recently used texts are forgotten first.

    Keys are 16-byte digests, so that memory grows with the number of texts (about 400 bytes each),
    not with their length.

    Parameters
    ----------
    size
        Texts that are kept, at least 1.

    Examples
    --------
    >>> cache = TextCache(1)
    >>> good, bad = cache.key("good", None), cache.key("bad", None)
    >>> cache.put(good, 5)
    >>> cache.put(bad, 1)
    >>> cache.get(good), cache.get(bad)
    (None, 1)
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: OrderedDict[bytes, T] = OrderedDict()

    @staticmethod
    def key(text: str, variant: str | None) -> bytes:
        """Return the key of a text that is asked of a variant; None: of any."""
        # A variant's name is never empty, and of ASCII characters without zero.
        data = f"{variant or ''}\0{text}".encode(errors="surrogatepass")
        return hashlib.blake2b(data, digest_size=16).digest()

    def get(self, key: bytes) -> T | None:
        """Return what is known, None if nothing."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def put(self, key: bytes, value: T) -> None:
        """Keep `value`, and forget what is over `size`."""
        self._values[key] = value
        self._values.move_to_end(key)
        if len(self._values) > self._size:
            self._values.popitem(last=False)
