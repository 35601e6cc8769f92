"""The terminal view of a run: what comes in, what goes out, what failed and why."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from udfs.core.parsing import ParseReason
from udfs.core.scoring import ScoreReason

RATE_WINDOW_S = 5.0
LATEST_ROWS = 6

# Two columns in a terminal of 80; wider ones take more.
_DEAD_LETTER_WIDTH = 36
_DEAD_LETTER_LINES = (len(ParseReason) + len(ScoreReason) + 1) // 2


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


@dataclass(frozen=True)
class Snapshot:
    """What the view shows at one moment.

    `counts` are records by stage, in the order in which they are shown; `under_way` is sent and
    not yet seen in any output. `dead_letters` counts by stage and reason.
    """

    phase: str
    seconds: float
    counts: Mapping[str, int]
    under_way: int
    latest: tuple[LatestReview, ...] = ()
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
        return Group(
            Panel(self._stages(snapshot), title=_title(snapshot), title_align="left"),
            Panel(
                _latest(snapshot),
                title="latest scored reviews",
                title_align="left",
                height=LATEST_ROWS + 2,
            ),
            _addresses(snapshot),
            Panel(
                _dead_letters(snapshot),
                title="dead letters by reason",
                title_align="left",
                height=_DEAD_LETTER_LINES + 2,
            ),
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
        stars = "★" * review.star_rating + "☆" * (5 - review.star_rating)
        # Text, not markup: a review may hold brackets. White space and control characters go.
        body = "".join(char if char.isprintable() else " " for char in review.review_body[:200])
        table.add_row(
            Text(stars), Text(review.product_category), Text(review.model_variant), Text(body)
        )
    return table


def _dead_letters(snapshot: Snapshot) -> RenderableType:
    if not snapshot.dead_letters:
        return Text("none", style="dim")
    # The latest stage first: its letters are few, and each is worth a look.
    letters = sorted(snapshot.dead_letters.items(), key=lambda item: item[0][1])
    letters.sort(key=lambda item: item[0][0], reverse=True)
    return Columns(
        [Text(f"{stage}/{reason} {count:,}") for (stage, reason), count in letters],
        width=_DEAD_LETTER_WIDTH,
    )


def _addresses(snapshot: Snapshot) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, address in snapshot.addresses.items():
        table.add_row(Text(name, style="dim"), Text(address))
    return table
