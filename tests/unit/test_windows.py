import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udfs.core.windows import (
    MAX_STEPS,
    WindowKind,
    WindowSpec,
    pane_of,
    parse_window,
    parse_windows,
)

DAY_S = 86_400


@pytest.mark.parametrize(
    ("text", "kind", "size_s", "slide_s"),
    [
        ("5 s", WindowKind.TUMBLING, 5, 5),
        ("1min", WindowKind.TUMBLING, 60, 60),
        (" 2  h ", WindowKind.TUMBLING, 7_200, 7_200),
        ("5 min every 1 min", WindowKind.HOPPING, 300, 60),
        ("1 d by 1 h", WindowKind.CUMULATIVE, DAY_S, 3_600),
    ],
)
def test_the_grammar(text: str, kind: WindowKind, size_s: int, slide_s: int) -> None:
    assert parse_window(text) == WindowSpec(kind, size_s, slide_s)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "'' is not a length"),
        ("5", "'5' is not a length from 1 s to 7 d"),
        ("0 s", "'0 s' is not a length"),
        ("8 d", "'8 d' is not a length"),
        ("1.5 h", "'1.5 h' is not a length"),
        ("5 min every", "is not a length"),
        ("1 h every 25 min", "1 h is not two or more times 25 min"),
        ("1 h by 1 h", "1 h is not two or more times 1 h"),
        ("1 h by 2 h", "1 h is not two or more times 2 h"),
        ("1 d by 1 h every 1 min", "more than a size and a slide"),
        ("1 h every 2 s", f"more than {MAX_STEPS} times"),
        ("5 s, 5 s", "'5 s' stands twice"),
        ("1 min, 60 s", "'1 min' stands twice"),
    ],
)
def test_what_is_wrong_is_named(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        parse_windows(text)


def test_everything_that_is_wrong_is_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"'5 sec' .*; '1 h every 7 min': "):
        parse_windows("5 sec, 1 h every 7 min, 5 s")


lengths = st.sampled_from([1, 5, 10, 60, 90, 300, 3_600, DAY_S])
specs = st.one_of(
    st.builds(lambda s: WindowSpec(WindowKind.TUMBLING, s, s), lengths),
    st.builds(
        lambda kind, slide, times: WindowSpec(kind, slide * times, slide),
        st.sampled_from([WindowKind.HOPPING, WindowKind.CUMULATIVE]),
        st.sampled_from([1, 5, 60, 90, 3_600]),
        st.integers(2, 24),
    ),
)


@given(specs)
def test_windows_are_named_as_they_are_read(spec: WindowSpec) -> None:
    assert parse_window(str(spec)) == spec


@given(st.lists(specs, min_size=1, max_size=4))
def test_panes_fit_into_every_window(chosen: list[WindowSpec]) -> None:
    pane = pane_of(chosen)
    assert pane.kind is WindowKind.TUMBLING
    for spec in chosen:
        assert spec.size_s % pane.size_s == spec.slide_s % pane.size_s == 0
    # No longer one does.
    assert any(
        length % (2 * pane.size_s) for spec in chosen for length in (spec.size_s, spec.slide_s)
    )


def test_points_of_windows_that_share_a_start_stand_apart() -> None:
    cumulative = parse_window("1 d by 1 h")
    ends_ms = [step * 3_600_000 for step in range(1, 25)]
    assert [cumulative.point_ms(end_ms) for end_ms in ends_ms] == [
        end_ms - 3_600_000 for end_ms in ends_ms
    ]
    assert parse_window("5 s").point_ms(15_000) == 10_000


@pytest.mark.parametrize(
    ("text", "name", "resolution_s"),
    [
        ("5 s", "AVGStarRating", 1),
        ("10 s", "AVGStarRating 10 s", 1),
        ("90 s", "AVGStarRating 90 s", 1),
        ("1 h", "AVGStarRating 1 h", 60),
        ("5 s by 1 s", "AVGStarRating 5 s by 1 s", 1),
        ("5 min every 1 min", "AVGStarRating 5 min every 1 min", 60),
    ],
)
def test_only_the_5_s_windows_have_the_plain_name(text: str, name: str, resolution_s: int) -> None:
    spec = parse_window(text)
    assert (spec.metric("AVGStarRating"), spec.resolution_s) == (name, resolution_s)
