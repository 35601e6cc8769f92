"""Keys: review ids and categories, which are compared, counted by and shown."""

import re
import unicodedata
from typing import Literal

from udfs.core.characters import (
    CONTROLS,
    NOT_CHARACTERS,
    WHITE_SPACE,
    described,
    has_visible_character,
)

MAX_KEY_BYTES = 256
"""Longest review id or category, in bytes of UTF-8: both serve as Kinesis partition keys."""

_WHITE_SPACE = re.compile(f"[{WHITE_SPACE}]+")
# They only guide how text is laid out: soft hyphen, zero-width space, word joiner, byte order mark,
# and the marks of a direction.
_LAYOUT = re.compile("[\u00ad\u061c\u200b\u200e\u200f\u2060\ufeff]+")
_NOT_ALLOWED = re.compile(
    f"[{CONTROLS}{NOT_CHARACTERS}"
    "\u202a-\u202e\u2066-\u2069"  # embeddings, overrides and isolates of a direction
    "\ud800-\udfff]"  # halves of surrogate pairs
)
# Normalisation takes quadratic time for a long run of combining marks.
_MAX_RAW_CHARACTERS = 4 * MAX_KEY_BYTES


class InvalidKeyError(ValueError):
    """Text that is not a key: `reason` is the code of the parser, the message lacks the name."""

    def __init__(
        self, reason: Literal["missing_field", "key_too_long", "key_not_printable"], message: str
    ) -> None:
        super().__init__(message)
        self.reason = reason


def normalised_key(text: str) -> str:
    r"""Return a key in the one form in which equal keys are equal text.

    That is Unicode's form NFC. Characters that only guide the layout (soft hyphen, zero-width
    space, word joiner, byte order mark, marks of a direction) are removed. Then white space, of any
    kind and with tabs and line ends, becomes one space, and none at the ends. Anything else is
    kept: joiners, variation selectors, and characters that this Python's Unicode does not know yet.

    The result is 1 to 256 bytes of UTF-8 with a visible character, and its own normalised form.

    Raises
    ------
    InvalidKeyError
        The key is blank, too long, or has a control character, an embedding, override or isolate of
        a direction, half a surrogate pair or a code point that Unicode keeps for no character.

    Examples
    --------
    >>> normalised_key("\u3000Gift_Card\u00a0\n"), normalised_key("Cafe\u0301")
    ('Gift_Card', 'Café')
    """
    is_short_ascii = text.isascii() and text.isprintable() and 0 < len(text) <= MAX_KEY_BYTES
    if is_short_ascii and (" " not in text or text == " ".join(text.split())):
        return text
    if len(text) > _MAX_RAW_CHARACTERS:
        raise InvalidKeyError(
            "key_too_long", f"has {len(text)} characters, at most {MAX_KEY_BYTES} bytes are taken"
        )
    key = unicodedata.normalize("NFC", _LAYOUT.sub("", text))
    key = _WHITE_SPACE.sub(" ", key).strip(" ")
    if found := _NOT_ALLOWED.search(key):
        place = text.index(found[0]) + 1
        raise InvalidKeyError(
            "key_not_printable", f"has {described(found[0])} as character {place}"
        )
    if not has_visible_character(key):
        raise InvalidKeyError("missing_field", "is blank")
    if (key_bytes := len(key.encode())) > MAX_KEY_BYTES:
        raise InvalidKeyError(
            "key_too_long", f"has {key_bytes} bytes, at most {MAX_KEY_BYTES} are taken"
        )
    return key
