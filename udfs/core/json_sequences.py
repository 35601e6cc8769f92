"""Find the objects of a text that holds several of them."""

import json
import re

_SEPARATORS = " \t\r\n\ufeff"
_SEPARATOR_RUN = re.compile(f"[{_SEPARATORS}]*")
_NEXT_OBJECT = re.compile(f"}}[{_SEPARATORS}]*{{")
_decode = json.JSONDecoder().raw_decode


MAX_OBJECTS = 5_000
"""The most objects or lines that a record is split into: more than 256 KiB of reviews can hold."""


class TooManyObjectsError(Exception):
    """The text holds more than `MAX_OBJECTS` objects."""


def object_slices(text: str) -> list[slice]:
    r"""Return where the JSON objects of a text are.

    The objects follow each other with nothing or white space (line ends, byte order marks of joined
    files) between them, or they are the elements of one array. One object alone is the whole text,
    and is found without decoding it.

    Returns
    -------
    list of slice
        In their order; empty if the text is anything else, or holds anything else besides.

    Raises
    ------
    TooManyObjectsError
        There are more than `MAX_OBJECTS`.

    Examples
    --------
    >>> text = '[{"a": 1}, {"a": 2}]\n'
    >>> [text[found] for found in object_slices(text)]
    ['{"a": 1}', '{"a": 2}']
    """
    start = _skip(text, 0)
    try:
        if text.startswith("[", start):
            return _in_array(text, start)
        if not text.startswith("{", start):
            return []
        found = _in_a_row(text, start) if _NEXT_OBJECT.search(text, start) else []
    except (ValueError, RecursionError):
        return []
    return found if len(found) > 1 else [slice(0, len(text))]


def _in_array(text: str, start: int) -> list[slice]:
    found: list[slice] = []
    while not found or text.startswith(",", start):
        start = _add_object(text, _skip(text, start + 1), found)
    if not text.startswith("]", start) or _skip(text, start + 1) < len(text):
        raise ValueError("the array does not end where the text does")
    return found


def _in_a_row(text: str, start: int) -> list[slice]:
    found: list[slice] = []
    while start < len(text):
        start = _add_object(text, start, found)
    return found


def _add_object(text: str, start: int, found: list[slice]) -> int:
    """Add the object that starts here; return where what follows it starts."""
    if not text.startswith("{", start):
        raise ValueError("not an object")
    if len(found) == MAX_OBJECTS:
        raise TooManyObjectsError
    end = _decode(text, start)[1]
    found.append(slice(start, end))
    return _skip(text, end)


def _skip(text: str, start: int) -> int:
    separators = _SEPARATOR_RUN.match(text, start)
    return separators.end() if separators else start
