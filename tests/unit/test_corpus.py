"""Every record of the corpus through the parser and the splitter."""

import pytest

from tests.corpus import ARRIVAL_MS, RecordCase, record_cases
from udfs.core.parsing import Rejected, Review, parse
from udfs.core.splitting import split

CASES = record_cases()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_record_has_the_expected_outcome(case: RecordCase) -> None:
    parsed = parse(case.payload, ARRIVAL_MS, case.options)
    if "reason" in case.expected:
        assert isinstance(parsed, Rejected)
        assert parsed.reason == case.expected["reason"]
        assert case.expected["message"] in parsed.message
        assert len(parsed.message.encode()) <= 600
    else:
        assert isinstance(parsed, Review)
        assert {name: getattr(parsed, name) for name in case.expected} == case.expected


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_record_is_split_into_its_reviews(case: RecordCase) -> None:
    assert len(split(case.payload, case.options)) == case.parts


def test_names_are_unique() -> None:
    names = [case.name for case in CASES]
    assert not {name for name in names if names.count(name) > 1}
