"""Windows over event time: which there are, by a small grammar, and their pane.

All windows are aligned to the epoch and hold their start, not their end. *Tumbling* ones follow one
another, *hopping* ones overlap, *cumulative* ones grow step by step until their size is reached,
then begin anew.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

FAST = "5 s"
"""The windows that `AVGStarRating` and `DistinctReviews` come from."""

MAX_SIZE_S = 7 * 86_400
# A row of a hopping or cumulative window sets a timer for each of its windows.
MAX_STEPS = 144

_UNITS = {"s": 1, "min": 60, "h": 3_600, "d": 86_400}
_LENGTH = re.compile(r"(\d{1,6}) ?(s|min|h|d)")


class WindowKind(StrEnum):
    """How windows of one length lie to one another: see the module."""

    TUMBLING = "tumbling"
    HOPPING = "hopping"
    CUMULATIVE = "cumulative"


@dataclass(frozen=True, slots=True)
class WindowSpec:
    """Windows of one kind and length.

    Attributes
    ----------
    kind
        See `WindowKind`.
    size_s
        Length of a window; of a cumulative one, of the longest.
    slide_s
        From one window's end to the next one's: the size of tumbling windows, the slide of hopping,
        the step of cumulative ones.

    Examples
    --------
    >>> str(WindowSpec(WindowKind.HOPPING, 300, 60))
    '5 min every 1 min'
    """

    kind: WindowKind
    size_s: int
    slide_s: int

    def __str__(self) -> str:
        size, slide = _in_words(self.size_s), _in_words(self.slide_s)
        match self.kind:
            case WindowKind.TUMBLING:
                return size
            case WindowKind.HOPPING:
                return f"{size} every {slide}"
            case WindowKind.CUMULATIVE:
                return f"{size} by {slide}"

    @property
    def resolution_s(self) -> int:
        """Of its points in CloudWatch: 60, or 1 where they come more often or off the minute."""
        return 1 if self.slide_s % 60 else 60

    def point_ms(self, end_ms: int) -> int:
        """Return the time of a window's point, in milliseconds since the epoch.

        It is a slide before the end: the start of a tumbling window, and no other window's point
        where windows share a start.
        """
        return end_ms - self.slide_s * 1_000

    def metric(self, measure: str) -> str:
        """Return the name of a metric; the 5 s windows have the plain one.

        >>> parse_window("5 s").metric("AVGStarRating"), parse_window("1 h").metric("AVGStarRating")
        ('AVGStarRating', 'AVGStarRating 1 h')
        """
        return measure if str(self) == FAST else f"{measure} {self}"


def parse_window(text: str) -> WindowSpec:
    """Return the windows that a text names.

    `LENGTH` are tumbling, `LENGTH every LENGTH` hopping, `LENGTH by LENGTH` cumulative windows. A
    length is a whole number and `s`, `min`, `h` or `d`, at most 7 d.

    Raises
    ------
    ValueError
        Says what is wrong with it.

    Examples
    --------
    >>> parse_window("1 d by 1 h")
    WindowSpec(kind=<WindowKind.CUMULATIVE: 'cumulative'>, size_s=86400, slide_s=3600)
    """
    parts = re.split(r" (every|by) ", " ".join(text.split()))
    lengths_s = [_seconds(text, part) for part in parts[::2]]
    if len(lengths_s) == 1:
        return WindowSpec(WindowKind.TUMBLING, lengths_s[0], lengths_s[0])
    if len(lengths_s) != 2:
        raise ValueError(f"{text!r} has more than a size and a slide or step")
    size_s, slide_s = lengths_s
    kind = WindowKind.HOPPING if parts[1] == "every" else WindowKind.CUMULATIVE
    if slide_s >= size_s or size_s % slide_s:
        raise ValueError(f"{text!r}: {parts[0]} is not two or more times {parts[2]}")
    if size_s // slide_s > MAX_STEPS:
        raise ValueError(f"{text!r}: {parts[0]} is more than {MAX_STEPS} times {parts[2]}")
    return WindowSpec(kind, size_s, slide_s)


def parse_windows(text: str) -> tuple[WindowSpec, ...]:
    """Return the windows of a list, separated by commas, shortest slide first.

    Raises
    ------
    ValueError
        Names everything that is wrong, in one line.

    Examples
    --------
    >>> [str(spec) for spec in parse_windows("1 h, 60 s, 5 s, 5 min every 1 min")]
    ['5 s', '1 min', '5 min every 1 min', '1 h']
    """
    specs: list[WindowSpec] = []
    problems: list[str] = []
    for part in text.split(","):
        try:
            spec = parse_window(part.strip())
        except ValueError as error:
            problems.append(str(error))
            continue
        if spec in specs:
            problems.append(f"{str(spec)!r} stands twice")
        specs.append(spec)
    if problems:
        raise ValueError("; ".join(problems))
    return tuple(sorted(specs, key=lambda spec: (spec.slide_s, spec.size_s, spec.kind)))


def pane_of(specs: Iterable[WindowSpec]) -> WindowSpec:
    """Return the longest tumbling windows that divide all others; lateness is judged by them.

    >>> str(pane_of(parse_windows("10 s, 1 min every 15 s")))
    '5 s'
    """
    length_s = math.gcd(*(length_s for spec in specs for length_s in (spec.size_s, spec.slide_s)))
    return WindowSpec(WindowKind.TUMBLING, length_s, length_s)


def _seconds(text: str, part: str) -> int:
    match = _LENGTH.fullmatch(part)
    seconds = int(match[1]) * _UNITS[match[2]] if match else 0
    if not 1 <= seconds <= MAX_SIZE_S:
        raise ValueError(
            f"{text!r}: {part!r} is not a length from 1 s to 7 d, such as 5 s, 1 min, 1 h or 1 d"
        )
    return seconds


def _in_words(seconds: int) -> str:
    unit = next(unit for unit in ("d", "h", "min", "s") if seconds % _UNITS[unit] == 0)
    return f"{seconds // _UNITS[unit]} {unit}"
