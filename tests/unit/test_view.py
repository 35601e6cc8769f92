import pytest
from rich.console import Console

from deploy.local.view import LatestReview, RateMeter, Snapshot, View
from udfs.core.parsing import ParseReason
from udfs.core.scoring import ScoreReason


def snapshot(**changes: object) -> Snapshot:
    values = {
        "phase": "sending",
        "seconds": 65.0,
        "counts": {"reviews (in)": 1_200, "scored-reviews (out)": 1_100},
        "under_way": 100,
        "latest": (LatestReview(4, "Gift_Card", "[bold]Nice\x1b[31m\nand red", "tfidf"),),
        "dead_letters": {("parse", "not_json"): 3},
        "addresses": {"Flink web UI": "http://127.0.0.1:8081"},
    }
    return Snapshot(**{**values, **changes})  # type: ignore[arg-type]


def shown(view: View, seen: Snapshot, width: int = 100) -> str:
    console = Console(width=width, record=True, file=None, force_terminal=False, color_system=None)
    with console.capture() as capture:
        console.print(view.render(seen))
    return capture.get()


def test_it_shows_counts_lag_reviews_reasons_and_addresses() -> None:
    text = shown(View(lambda: 0.0), snapshot())
    for expected in (
        "sending 01:05",
        "1,200",
        "lag: sent, not yet through",
        "100",
        "★★★★☆",
        "Gift_Card",
        "parse/not_json 3",
        "http://127.0.0.1:8081",
    ):
        assert expected in text


def test_a_review_can_neither_format_nor_steer_the_terminal() -> None:
    text = shown(View(lambda: 0.0), snapshot())
    assert "[bold]Nice [31m and red" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("width", [80, 200])
def test_every_reason_has_its_place_score_first(width: int) -> None:
    reasons = [("parse", reason.value) for reason in ParseReason]
    reasons += [("score", reason.value) for reason in ScoreReason]
    letters = dict.fromkeys(reasons, 1_234_567)
    text = shown(View(lambda: 0.0), snapshot(dead_letters=letters), width)
    for stage, reason in reasons:
        assert f"{stage}/{reason} 1,234,567" in text
    assert text.index("score/request_too_large") < text.index("parse/bad_event_time")
    few = shown(View(lambda: 0.0), snapshot(), width)
    assert len(text.splitlines()) == len(few.splitlines()), "a view that grows leaves traces"


def test_rates_are_those_of_the_last_seconds() -> None:
    meter = RateMeter()
    for second in range(100):
        meter.update(float(second), 10 * second)
    assert meter.update(100.0, 990 + 505) == (990 + 505 - 950) / 5


def test_one_line_for_logs() -> None:
    assert View(lambda: 0.0).line(snapshot()) == (
        "sending 01:05: reviews (in) 1200 (0/s), scored-reviews (out) 1100 (0/s); under way 100"
    )
