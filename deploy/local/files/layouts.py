"""Layouts of files: the columns, or keys of JSON objects, that hold the fields of a review.

A review id may be made of several columns: the public sets have none, so theirs is a digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.local.generator import COLUMNS

FOUR_COLUMNS = ("review_id", "product_category", "star_rating", "review_body")
STREAM_COLUMNS = ("review_id", "product_category", "review_body")
"""Those of a line of the stream itself."""
HEADERLESS = {len(columns): columns for columns in (COLUMNS, FOUR_COLUMNS, STREAM_COLUMNS)}
"""Columns of files without a header line, by their number."""

FIELDS = ("review_id", "product_category", "review_body", "star_rating", "event_time")
REQUIRED = FIELDS[:3]
Columns = Mapping[str, tuple[str, ...]]
"""Fields of a review to the columns that they are made of."""


@dataclass(frozen=True)
class _PublicSet:
    """Columns of a public set; of the alternatives of `items`, the first that a file has counts."""

    name: str
    user: str
    items: tuple[str, ...]
    time: str
    body: str
    rating: str

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.user, *self.items, self.time, self.body, self.rating)

    def fields(self, spelt: Collection[str]) -> Columns | None:
        """Return the columns of a review's fields; None where the file has another layout."""
        item = next((name for name in self.items if normal(name) in spelt), None)
        if item is None or _missing({"": (self.body, self.rating)}, spelt):
            return None
        key = tuple(name for name in (self.user, item, self.time) if normal(name) in spelt)
        return {
            # User, item and time identify a review; with fewer, its text has to.
            "review_id": key if len(key) == 3 else (*key, self.body),
            "review_body": (self.body,),
            "star_rating": (self.rating,),
        }


_PUBLIC = (
    _PublicSet(
        name="the Amazon reviews of 2018",
        user="reviewerID",
        items=("asin",),
        time="unixReviewTime",
        body="reviewText",
        rating="overall",
    ),
    _PublicSet(
        name="the Amazon reviews of 2023",
        user="user_id",
        items=("asin", "parent_asin"),
        time="timestamp",
        body="text",
        rating="rating",
    ),
)
_ID_DIGITS = 32
_SUFFIXES = {".gz", ".bz2", ".zst", ".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".txt"}


@dataclass(frozen=True)
class FileOptions:
    """Options that describe a file where its content does not.

    Attributes
    ----------
    columns
        See `parse_columns`; None: a known layout.
    category
        Category of the reviews of a file without a column for it; None: in the public sets, which
        have one file per category, the name of the file.
    """

    columns: Columns | None = None
    category: str | None = None


NO_OPTIONS = FileOptions()


class LayoutError(ValueError):
    """Columns that no review can be made of; the message says what is wrong with them."""


def parse_columns(text: str) -> Columns:
    """Return which columns make up which field, from `FIELD=COLUMN,FIELD=COLUMN+COLUMN`.

    Raises
    ------
    LayoutError
        Names everything that is wrong with it.

    Examples
    --------
    >>> parse_columns("review_id=user+time, review_body=text")
    {'review_id': ('user', 'time'), 'review_body': ('text',)}
    """
    columns: dict[str, tuple[str, ...]] = {}
    problems = []
    for pair in text.split(","):
        field, equals, names = (part.strip() for part in pair.partition("="))
        parts = tuple(name.strip() for name in names.split("+"))
        if not equals or not all(parts):
            problems.append(f"{pair.strip()!r} is not FIELD=COLUMN")
        elif field not in FIELDS:
            problems.append(f"there is no field {field!r}, but {', '.join(FIELDS)}")
        elif field in columns:
            problems.append(f"{field} is given twice")
        elif len(parts) > 1 and field != "review_id":
            problems.append(f"{field} is one column, only review_id may be made of several")
        else:
            columns[field] = parts
    named = {pair.partition("=")[0].strip() for pair in text.split(",")}
    problems += [f"{name} is missing" for name in ("review_id", "review_body") if name not in named]
    if problems:
        raise LayoutError("--columns: " + "; ".join(problems))
    return columns


_DECORATION = str.maketrans("", "", " \t\u00a0_-\"'\ufeff")


def normal(name: str) -> str:
    """Return a column's name without case, spaces, `_`, `-` and quotes.

    >>> normal(" Review ID"), normal('"review-id"'), normal("reviewId")
    ('reviewid', 'reviewid', 'reviewid')
    """
    return name.translate(_DECORATION).lower()


KNOWN_NAMES = frozenset(
    normal(name)
    for names in (COLUMNS, FIELDS, *(known.columns for known in _PUBLIC))
    for name in names
)
"""Names of the columns of all known layouts, as `normal` returns them."""


@dataclass(frozen=True)
class Layout:
    """Where the fields of a review are in a file.

    Attributes
    ----------
    name
        Description of the layout.
    columns
        Of each field, as the file spells them.
    category
        Category of all reviews of a file without a column for it.
    """

    name: str
    columns: Columns
    category: str | None = None

    @property
    def is_own(self) -> bool:
        """Whether rows hold the fields of the stream, under their names."""
        return self.category is None and all(
            names == (field,) for field, names in self.columns.items()
        )


def find_layout(names: Sequence[str], path: Path, options: FileOptions) -> Layout:
    """Return the layout of a file with these columns.

    Raises
    ------
    LayoutError
        There is none.
    """
    # The first of several that are spelt in other ways, but before all the one that is asked for.
    spelt = {normal(name): name for name in reversed(names)} | {name: name for name in names}
    if options.columns is not None:
        return _layout("the columns given", options.columns, spelt, options.category)
    there: Columns = {field: (field,) for field in FIELDS if normal(field) in spelt}
    for known in _PUBLIC:
        if "review_body" not in there and (columns := known.fields(spelt)):
            # Rows may hold other fields of the stream beside their own.
            columns = {**columns, **there}
            named_after = None if "product_category" in there else category_of(path)
            return _layout(known.name, columns, spelt, options.category or named_after)
    own = {**{field: (field,) for field in REQUIRED}, **there}
    if options.category and "productcategory" not in spelt:
        del own["product_category"]
    return _layout("the fields of the stream", own, spelt, options.category)


def _layout(name: str, columns: Columns, spelt: Mapping[str, str], category: str | None) -> Layout:
    problems = []
    if missing := _missing(columns, spelt):
        problems.append(f"lacks {', '.join(missing)}")
    if "product_category" in columns and category:
        problems.append(f"has the column {columns['product_category'][0]}: leave out --category")
    if "product_category" not in columns and not category:
        problems.append("has no category: name its column in --columns, or give --category")
    if problems:
        raise LayoutError("; ".join(problems))
    as_spelt = {
        field: tuple(spelt.get(part) or spelt[normal(part)] for part in parts)
        for field, parts in columns.items()
    }
    return Layout(name, as_spelt, category)


def _missing(columns: Columns, spelt: Collection[str]) -> list[str]:
    return [name for names in columns.values() for name in names if normal(name) not in spelt]


def category_of(path: Path) -> str:
    """Return the category that a file of a public set is named after.

    >>> category_of(Path("All_Beauty.jsonl.gz")), category_of(Path("reviews_Books_5.json.gz"))
    ('All_Beauty', 'Books')
    """
    name = path.name
    while Path(name).suffix.lower() in _SUFFIXES:
        name = Path(name).stem
    # Of the reviewers and products with five reviews or more.
    return name.removesuffix("_5").removeprefix("reviews_")


def digest(parts: Sequence[str]) -> str:
    """Return the id of a review that has none: 32 hexadecimal digits of a hash of `parts`.

    >>> digest(["A1", "B0009X", "1588687728923"])
    '9d7167df86be870fa49ebd3ad4303f57'
    """
    return hashlib.sha256("\t".join(parts).encode(errors="replace")).hexdigest()[:_ID_DIGITS]
