import pytest
from rich.console import Console

from deploy.local.view import (
    LatestAnomaly,
    LatestReview,
    LatestWindow,
    RateMeter,
    Snapshot,
    View,
)
from udfs.core.parsing import ParseReason
from udfs.core.predictions import ScoreReason
from udfs.core.publishing import PublishReason

STAGES = ("reviews", "scored-reviews", "dead-letters", "review-metrics", "rating-anomalies")
WINDOWS = tuple(
    LatestWindow("5 s", "2026-01-31T12:00:05Z", category, 1_234, 3.456, 1_219.4)
    for category in ("All", "Digital_Ebook_Purchase", "Gift_Card", "Mobile_Apps", "Video", "Toys")
)
ALERT = LatestAnomaly(
    "2026-01-31T12:00:07.123Z", "Gift_Card", 0.999_999_9, "Gift_Card-1", "Ratings [fell]\x1b[31m"
)
ANOMALY = LatestAnomaly("2026-01-31T12:00:09Z", "Gift_Card", 0.99999, "Gift_Card-1")


def snapshot(**changes: object) -> Snapshot:
    values = {
        "phase": "sending",
        "seconds": 65.0,
        "counts": {"reviews (in)": 1_200, "scored-reviews (out)": 1_100},
        "under_way": 100,
        "latest": (LatestReview(4, "Gift_Card", "[bold]Nice\x1b[31m\nand red", "tfidf"),),
        "windows": WINDOWS,
        "anomalies": (ALERT, ANOMALY),
        "dead_letters": {("parse", "not_json"): 3},
        "addresses": {"Flink web UI": "http://127.0.0.1:8081"},
    }
    return Snapshot(**{**values, **changes})  # type: ignore[arg-type]


def shown(seen: Snapshot, width: int = 80) -> str:
    view = View(lambda: 0.0)
    console = Console(width=width, record=True, file=None, force_terminal=False, color_system=None)
    with console.capture() as capture:
        console.print(view.render(seen))
    return capture.get()


@pytest.mark.parametrize("width", [80, 200])
def test_it_shows_what_there_is(width: int) -> None:
    text = shown(snapshot(), width)
    for expected in (
        "sending 01:05",
        "1,200",
        "lag: sent, not yet through",
        "100",
        "★★★★☆",
        "Gift_Card",
        "12:00:05",
        "5 s",
        "★★★☆☆ 3.46",
        "1,234",
        "1,219",
        "12:00:07",
        "1.00000",
        "ALERT Ratings [fell]",
        "0.99999",
        "of event Gift_Card-1",
        "parse/not_json 3",
        "http://127.0.0.1:8081",
    ):
        assert expected in text


def test_neither_a_review_nor_an_alert_can_format_or_steer_the_terminal() -> None:
    text = shown(snapshot())
    assert "[bold]Nice [31m and red" in text
    assert "\x1b" not in text


def test_what_no_job_makes_has_no_panel() -> None:
    text = shown(snapshot(windows=None, anomalies=None))
    assert "last windows" not in text
    assert "anomalies" not in text


REASONS = [
    *(("parse", reason.value) for reason in ParseReason),
    *(("score", reason.value) for reason in ScoreReason),
    ("late", "late"),
    *(("publish", reason.value) for reason in PublishReason),
    ("join", "of a later release"),
]


@pytest.mark.parametrize("width", [80, 200])
def test_every_reason_of_a_format_has_its_place_beside_late_ones_and_some_more(width: int) -> None:
    reasons = [reason for reason in REASONS if reason[1] != "wrong_columns"][:16]
    reasons += [("late", "late"), ("publish", "throttled")]
    text = shown(snapshot(dead_letters=dict.fromkeys(reasons, 1_234_567)), width)
    for stage, reason in reasons:
        assert f"{stage}/{reason} 1,234,567" in text
    order = [text.index(f" {stage}/") for stage in ("publish", "late", "score", "parse")]
    assert order == sorted(order)


def test_reasons_without_a_place_are_counted() -> None:
    text = shown(snapshot(dead_letters=dict.fromkeys(REASONS, 10)))
    rest = len(REASONS) - 17
    assert f"{rest} more reasons {10 * rest}" in text
    assert "join/of a later release 10" in text


def test_it_always_takes_as_many_lines_and_they_fit_a_terminal() -> None:
    addresses = {str(number): "http://127.0.0.1" for number in range(4)}
    counts = {f"{stage} (out)": 1 for stage in (*STAGES, "S3 raw/", "S3 scored/")}
    few = snapshot(
        counts=counts,
        latest=(),
        windows=(),
        anomalies=(),
        dead_letters={},
        addresses=addresses,
    )
    many = snapshot(
        counts=dict.fromkeys(counts, 10_000_000),
        latest=tuple(LatestReview(5, "Ünïcode" * 9, "long " * 99, "v" * 30) for _ in range(9)),
        windows=WINDOWS * 3,
        anomalies=(ALERT, ANOMALY) * 9,
        dead_letters=dict.fromkeys(REASONS, 1_000_000),
        addresses=addresses,
    )
    few_lines, many_lines = (shown(seen).splitlines() for seen in (few, many))
    assert len(few_lines) == len(many_lines) <= 46, "a view that grows leaves traces"
    assert all(len(line) <= 80 for line in many_lines)


def test_rates_are_those_of_the_last_seconds() -> None:
    meter = RateMeter()
    for second in range(100):
        meter.update(float(second), 10 * second)
    assert meter.update(100.0, 990 + 505) == (990 + 505 - 950) / 5


def test_one_line_for_logs() -> None:
    assert View(lambda: 0.0).line(snapshot()) == (
        "sending 01:05: reviews (in) 1200 (0/s), scored-reviews (out) 1100 (0/s); under way 100"
    )
