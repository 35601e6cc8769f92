"""Every file of the corpus through the replayer: see tests/corpus/cases.toml."""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import pytest

from deploy.local.file_options import file_options
from deploy.local.files.layouts import LayoutError
from deploy.local.records import Outgoing
from deploy.local.replay import DamagedFileError, ReviewFileError, replay
from tests.corpus.files import FOLDER, FileCase, file_cases
from udfs.core.parsing import ParsingOptions, Review, ReviewFormat, parse

CASES = file_cases()


def parsed(record: Outgoing, format: ReviewFormat) -> Review | None:
    anytime = ParsingOptions(format, max_event_age_s=math.inf, max_event_lead_s=math.inf)
    result = parse(record.data, 0, anytime)
    return result if isinstance(result, Review) else None


def fields(record: Outgoing, review: Review, format: ReviewFormat) -> Mapping[str, Any]:
    sent = json.loads(record.data) if format == "json" else {}
    return {
        "review_id": review.review_id,
        "product_category": review.product_category,
        "review_body": review.review_body,
        "star_rating": record.star_rating,
        "event_time": sent.get("event_time"),
    }


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])
def test_a_file_becomes_what_the_table_says(case: FileCase) -> None:
    def read() -> None:
        options = file_options(case.columns, case.category)
        records = replay(case.path, case.format, options)
        for record in records:
            review = parsed(record, case.format)
            if review is None:
                rejected.append(record)
                assert 1 <= len(record.partition_key) <= 256
            else:
                reviews.append(fields(record, review, case.format))
                assert b"star_rating" not in record.data
        notes.extend(records.notes)

    reviews: list[Mapping[str, Any]] = []
    rejected: list[Outgoing] = []
    notes: list[str] = []
    if case.error:
        with pytest.raises((ReviewFileError, LayoutError), match=re.escape(case.error)):
            read()
    elif case.damaged:
        with pytest.raises(DamagedFileError, match=re.escape(case.damaged)):
            read()
    else:
        read()
    assert (len(reviews), len(rejected)) == (case.reviews, case.rejected)
    assert {name: reviews[0][name] for name in case.first} == case.first
    assert len(notes) == bool(case.note)
    assert case.note in "".join(notes)


def test_every_file_is_in_the_table_and_names_are_its_own() -> None:
    in_table = {case.file for case in CASES}
    assert in_table == {str(path.relative_to(FOLDER)) for path in (FOLDER / "files").iterdir()}
    assert len({case.name for case in CASES}) == len(CASES)
