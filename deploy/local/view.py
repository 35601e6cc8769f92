"""The terminal view of a run: what comes in, what goes out, what failed and why."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

RATE_WINDOW_S = 5.0
LATEST_ROWS = 4
WINDOW_ROWS = 5

# Two columns in a terminal of 80; wider ones take more.
_DEAD_LETTER_WIDTH = 36
# Room for every reason of one format's parser and some of the later stages.
_DEAD_LETTER_LINES = 9
_STAGE_ORDER = {"late": 1, "score": 2, "parse": 3}


class RateMeter:
    """Records a second over the last seconds.

    >>> meter = RateMeter()
    >>> meter.update(now_s=0.0, count=0)
    0.0
    >>> meter.update(now_s=2.0, count=300)
    150.0
    """

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def update(self, now_s: float, count: int) -> float:
        """Add a sample of the counter and return the rate."""
        self._samples.append((now_s, count))
        while len(self._samples) > 2 and now_s - self._samples[1][0] >= RATE_WINDOW_S:
            self._samples.popleft()
        start_s, start_count = self._samples[0]
        return (count - start_count) / (now_s - start_s) if now_s > start_s else 0.0


@dataclass(frozen=True, slots=True)
class LatestReview:
    """A scored review as the view shows it."""

    star_rating: int
    product_category: str
    review_body: str
    model_variant: str


@dataclass(frozen=True, slots=True)
class LatestWindow:
    """A window as the view shows it; `window` is its length, `window_end` in ISO 8601."""

    window: str
    window_end: str
    product_category: str
    reviews: int
    avg_star_rating: float
    distinct_reviews: float


@dataclass(frozen=True, slots=True)
class LatestAnomaly:
    """An anomaly as the view shows it, or the alert that an event began with.

    `event_time` in ISO 8601; `event_id` empty where there is none; `alert` its sentence, empty for
    what is no alert.
    """

    event_time: str
    product_category: str
    anomaly_score: float
    event_id: str
    alert: str = ""


@dataclass(frozen=True)
class Snapshot:
    """What the view shows at one moment.

    `counts` are records by stage, in the order in which they are shown; `under_way` is sent and
    not yet seen in every output where it belongs. `windows` and `anomalies` come in the order in
    which they are shown, None where no job makes any. `dead_letters` counts by stage and reason.
    """

    phase: str
    seconds: float
    counts: Mapping[str, int]
    under_way: int
    latest: tuple[LatestReview, ...] = ()
    windows: tuple[LatestWindow, ...] | None = None
    anomalies: tuple[LatestAnomaly, ...] | None = None
    dead_letters: Mapping[tuple[str, str], int] = field(default_factory=dict)
    addresses: Mapping[str, str] = field(default_factory=dict)


class View:
    """Renders snapshots; keeps only what the rates need."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._meters: dict[str, RateMeter] = {}

    def render(self, snapshot: Snapshot) -> RenderableType:
        """Return the whole view."""
        # What matters most comes first: a low terminal shows the top.
        # Fixed heights: a view that grows leaves traces of itself when the terminal scrolls.
        panels = [
            Panel(self._stages(snapshot), title=_title(snapshot), title_align="left"),
            _panel("latest scored reviews", _latest(snapshot), LATEST_ROWS),
        ]
        if snapshot.windows is not None:
            panels.append(_panel("last windows", _windows(snapshot.windows), WINDOW_ROWS + 1))
        if snapshot.anomalies is not None:
            anomalies = _anomalies(snapshot.anomalies)
            panels.append(_panel("latest alerts and anomalies", anomalies, LATEST_ROWS))
        dead_letters = _dead_letters(snapshot)
        return Group(
            *panels,
            _addresses(snapshot),
            _panel("dead letters by reason", dead_letters, _DEAD_LETTER_LINES),
        )

    def line(self, snapshot: Snapshot) -> str:
        """Return the view in one line, for logs."""
        rates = self._rates(snapshot)
        stages = ", ".join(
            f"{stage} {count} ({rates[stage]:.0f}/s)" for stage, count in snapshot.counts.items()
        )
        return f"{_title(snapshot)}: {stages}; under way {snapshot.under_way}"

    def _rates(self, snapshot: Snapshot) -> dict[str, float]:
        now_s = self._clock()
        return {
            stage: self._meters.setdefault(stage, RateMeter()).update(now_s, count)
            for stage, count in snapshot.counts.items()
        }

    def _stages(self, snapshot: Snapshot) -> Table:
        table = Table(box=None, pad_edge=False)
        table.add_column("stage")
        table.add_column("records", justify="right")
        table.add_column("per second", justify="right")
        rates = self._rates(snapshot)
        for stage, count in snapshot.counts.items():
            table.add_row(stage, f"{count:,}", f"{rates[stage]:,.0f}")
        table.add_row("lag: sent, not yet through", f"{snapshot.under_way:,}", "", style="bold")
        return table


def _panel(title: str, content: RenderableType, lines: int) -> Panel:
    return Panel(content, title=title, title_align="left", height=lines + 2)


def _title(snapshot: Snapshot) -> str:
    minutes, seconds = divmod(int(snapshot.seconds), 60)
    return f"{snapshot.phase} {minutes:02d}:{seconds:02d}"


def _latest(snapshot: Snapshot) -> RenderableType:
    if not snapshot.latest:
        return Text("none yet", style="dim")
    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(no_wrap=True, width=5, style="yellow")
    table.add_column(no_wrap=True, width=20, overflow="ellipsis", style="cyan")
    table.add_column(no_wrap=True, width=14, overflow="ellipsis", style="dim")
    table.add_column(no_wrap=True, ratio=1, overflow="ellipsis")
    for review in snapshot.latest:
        # Text, not markup: a review may hold brackets.
        table.add_row(
            Text(_stars(review.star_rating)),
            Text(review.product_category),
            Text(review.model_variant),
            Text(_printable(review.review_body)),
        )
    return table


def _windows(windows: tuple[LatestWindow, ...]) -> RenderableType:
    if not windows:
        return Text("none yet: a window closes when the watermark passes its end", style="dim")
    table = Table(box=None, pad_edge=False)
    table.add_column("until", no_wrap=True)
    table.add_column("window", no_wrap=True, max_width=12, overflow="ellipsis")
    table.add_column("category", no_wrap=True, width=20, overflow="ellipsis", style="cyan")
    table.add_column("reviews", no_wrap=True, justify="right")
    table.add_column("average rating", no_wrap=True)
    table.add_column("distinct", no_wrap=True, justify="right")
    for window in windows[:WINDOW_ROWS]:
        average = window.avg_star_rating
        table.add_row(
            _clock_time(window.window_end),
            window.window,
            Text(window.product_category),
            f"{window.reviews:,}",
            Text.assemble((_stars(round(average)), "yellow"), f" {average:.2f}"),
            f"{window.distinct_reviews:,.0f}",
        )
    return table


def _anomalies(anomalies: tuple[LatestAnomaly, ...]) -> RenderableType:
    if not anomalies:
        return Text("none yet", style="dim")
    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(no_wrap=True, width=8)
    table.add_column(no_wrap=True, width=20, overflow="ellipsis", style="cyan")
    table.add_column(no_wrap=True, width=7)
    table.add_column(no_wrap=True, ratio=1, overflow="ellipsis")
    for anomaly in anomalies[:LATEST_ROWS]:
        event = anomaly.event_id and f"of event {anomaly.event_id}"
        table.add_row(
            _clock_time(anomaly.event_time),
            Text(anomaly.product_category),
            f"{anomaly.anomaly_score:.5f}",
            Text(_printable(f"ALERT {anomaly.alert}" if anomaly.alert else event)),
            style="bold red" if anomaly.alert else None,
        )
    return table


def _dead_letters(snapshot: Snapshot) -> RenderableType:
    if not snapshot.dead_letters:
        return Text("none", style="dim")
    # The latest stage first: its letters are few, and each is worth a look.
    letters = sorted(
        snapshot.dead_letters.items(), key=lambda item: (_STAGE_ORDER.get(item[0][0], 0), item[0])
    )
    texts = [f"{stage}/{reason} {count:,}" for (stage, reason), count in letters]
    room = 2 * _DEAD_LETTER_LINES
    if len(texts) > room:
        rest = sum(count for _, count in letters[room - 1 :])
        texts[room - 1 :] = [f"{len(texts) - room + 1} more reasons {rest:,}"]
    return Columns([Text(text) for text in texts], width=_DEAD_LETTER_WIDTH)


def _addresses(snapshot: Snapshot) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, address in snapshot.addresses.items():
        table.add_row(Text(name, style="dim"), Text(address))
    return table


def _stars(rating: int) -> str:
    return "★" * rating + "☆" * (5 - rating)


def _clock_time(moment: str) -> str:
    """Return the time of day of an ISO 8601 time.

    >>> _clock_time("2026-01-31T12:00:05.250Z")
    '12:00:05'
    """
    return moment[11:19]


def _printable(text: str) -> str:
    """Return a text without what could steer the terminal, cut to what a line may show."""
    return "".join(char if char.isprintable() else " " for char in text[:200])
