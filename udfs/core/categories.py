"""Effective categories: a bounded set of names, everything else counts as `Other`.

Every category costs metrics, windows and a detector. A producer that writes product ids into the
field would create them without end, so the set of names has a bound.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass

from udfs.core.keys import normalised_key

OTHER = "Other"
"""Effective category of all reviews beyond the bound; a producer's own `Other` is the same."""

_REPORT_INTERVAL_S = 60.0
_MAX_EXAMPLES = 3
_MAX_EXAMPLE_CHARACTERS = 64


@dataclass(frozen=True, slots=True)
class CategoryOptions:
    """Bound of the category names.

    Attributes
    ----------
    allowed
        The names to keep; empty: any name.
    max_categories
        Without `allowed`: how many names a subtask keeps, `Other` not among them.
    """

    allowed: frozenset[str] = frozenset()
    max_categories: int = 1_000


class Categories:
    """Maps the category of each review to its effective category.

    With `allowed` the result depends on the name alone: it is the same in every subtask and after
    every restart. Without, the first `max_categories` names that this object sees are kept; other
    subtasks, and this one after a restart, may keep other names (docs/decisions,
    0017-a-bound-for-categories.md).

    Memory: `max_categories` names of at most `MAX_KEY_BYTES`.

    Parameters
    ----------
    options
        See `CategoryOptions`.
    clock
        Seconds from any start, never going back.

    Attributes
    ----------
    replaced
        Number of reviews so far whose category became `Other`.

    Examples
    --------
    >>> categories = Categories(CategoryOptions(max_categories=2), clock=lambda: 0.0)
    >>> [categories.effective(name) for name in ("Books", "Toys", "B00A1", "Toys")]
    ['Books', 'Toys', 'Other', 'Toys']
    >>> categories.report()
    "reviews counted as category Other: 1 (beyond categories.max_categories = 2), such as 'B00A1'"
    """

    def __init__(self, options: CategoryOptions, clock: Callable[[], float]) -> None:
        self._names = {OTHER, *options.allowed}
        self._room = 0 if options.allowed else options.max_categories
        self._cause = (
            "not in categories.allowed"
            if options.allowed
            else f"beyond categories.max_categories = {options.max_categories}"
        )
        self._clock = clock
        self._next_report_s = clock()
        self._reported = 0
        self._examples: list[str] = []
        self.replaced = 0

    def effective(self, category: str) -> str:
        """Return `category` itself where it is kept, else `Other`."""
        if category in self._names:
            return category
        if self._room:
            self._room -= 1
            self._names.add(category)
            return category
        self.replaced += 1
        if len(self._examples) < _MAX_EXAMPLES and category not in self._examples:
            self._examples.append(category)
        return OTHER

    def report(self) -> str | None:
        """Return a log message about replaced categories, at most once a minute.

        Returns
        -------
        str or None
            How many reviews were replaced since the last message, why, and up to three names. None
            if there were none, or the last message is less than a minute old.
        """
        count = self.replaced - self._reported
        if not count or self._clock() < self._next_report_s:
            return None
        examples = ", ".join(repr(name[:_MAX_EXAMPLE_CHARACTERS]) for name in self._examples)
        self._next_report_s = self._clock() + _REPORT_INTERVAL_S
        self._reported = self.replaced
        self._examples.clear()
        # deploy/template.yaml has an alarm on the words before the colon.
        return f"reviews counted as category {OTHER}: {count} ({self._cause}), such as {examples}"


def parse_allowed(text: str) -> frozenset[str]:
    """Return the names of a list, normalised as the parser normalises categories.

    Parameters
    ----------
    text
        Names separated by commas, or a JSON list of strings, in which a name may have a comma.

    Raises
    ------
    ValueError
        Names everything that is wrong, in one line.

    Examples
    --------
    >>> sorted(parse_allowed("Gift_Card, Books"))
    ['Books', 'Gift_Card']
    >>> sorted(parse_allowed('["Home, Garden", "Books"]'))
    ['Books', 'Home, Garden']
    """
    names: list[object] = list(text.split(","))
    if text.lstrip().startswith("["):
        try:
            names = json.loads(text)
        except ValueError as error:
            raise ValueError(f"not a JSON list of names: {error}") from None
    allowed: set[str] = set()
    problems: list[str] = []
    for position, name in enumerate(names, start=1):
        if not isinstance(name, str):
            problems.append(f"name {position} is {name!r}, not a string")
            continue
        try:
            allowed.add(normalised_key(name))
        except ValueError as error:
            problems.append(f"name {position} {error}")
    if not names:
        problems.append("the list is empty; leave the property out to keep any name")
    if problems:
        raise ValueError("; ".join(problems))
    return frozenset(allowed)
