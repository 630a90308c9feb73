"""Shows the tally: a live page in a terminal, else one line every few seconds.

The page needs 100 columns and 30 rows; in 80 columns the lists are cut, in fewer rows they have fewer entries. It shows
only a few clicks per second, so that a person can read them.
"""

import sys
from collections import deque
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Protocol

from rich.console import Console, Group
from rich.layout import Layout
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from stream.demo.simulate import DAY_MS, HOUR_MS, MINUTE_MS
from stream.demo.tally import Judged, Tally, percentiles

LIST_ROWS = 4
"""Rows of users, and of alerts, in a terminal that is high enough."""

HEAD, FIGURES, NEXT, LISTS = 1, 9, 7, 5
"""Rows of the parts of the page; of the two lists without their entries."""

LATEST = 2_000
"""The page shows the latency of this many latest decisions."""
LINE_EVERY_S = 5.0
TRUTHS = {
    "": ("false alarm", "yellow"),
    "scraper": ("true: scraper", "green"),
    "repeater": ("true: click bot", "green"),
    "takeover": ("true: stolen account", "green"),
}


@dataclass(frozen=True)
class Scene:
    """The facts of a demo that do not change: model, list length k and clicks per second."""

    model: str
    k: int
    rate: float


class Shown(Protocol):
    """What a view has of the worker: its execution provider, "" until it is known, and the address of its page."""

    page: str

    @property
    def provider(self) -> str: ...


class View(Protocol):
    """A display of the demo; `show` is called a few times per second."""

    def __enter__(self) -> object: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def show(self, tally: Tally, seconds: float, worker: Shown) -> None: ...


def choose_view(scene: Scene, as_json: bool) -> View:
    """The live page if stdout is a terminal and JSON is not wanted; else lines on stderr."""
    return LineView(scene) if as_json or not sys.stdout.isatty() else LiveView(scene, Console())


def device_in_words(provider: str) -> str:
    """The device of an execution provider: "CPUExecutionProvider" -> "on the CPU"; a GPU with the provider's name."""
    if not provider:
        return "the worker is starting"
    name = provider.removesuffix("ExecutionProvider")
    return "on the CPU" if name == "CPU" else f"on the GPU ({name})"


class LineView:
    """Prints one line on stderr every LINE_EVERY_S seconds."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._next_s = 0.0

    def __enter__(self) -> "LineView":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def show(self, tally: Tally, seconds: float, worker: Shown) -> None:
        provider = worker.provider
        if not provider or seconds < self._next_s:
            return
        if not self._next_s:
            print(f"the worker's page: {worker.page}", file=sys.stderr, flush=True)
        self._next_s = seconds + LINE_EVERY_S
        print(
            f"{seconds:5.0f} s  {tally.clicks} clicks, {tally.decisions} decisions {device_in_words(provider)}, "
            f"hit rate {_percent(tally.hits, tally.judged)} (popularity {_percent(tally.popular_hits, tally.judged)}), "
            f"next action {_percent(tally.following.right, tally.following.judged)}, "
            f"{tally.alerts} alerts, {sum(tally.carts.by_rule.values())} triggers, "
            f"{sum(tally.dead_letters.values())} dead letters",
            file=sys.stderr,
            flush=True,
        )


class LiveView:
    """The live page, drawn on `console`."""

    def __init__(self, scene: Scene, console: Console) -> None:
        self._scene = scene
        self._live = Live(console=console, screen=console.is_terminal, auto_refresh=False)
        self._judged: deque[Judged] = deque(maxlen=LIST_ROWS)
        self._start_ms = 0
        self._speed: deque[tuple[float, int]] = deque(maxlen=12)

    def __enter__(self) -> "LiveView":
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def show(self, tally: Tally, seconds: float, worker: Shown) -> None:
        """Draw the page again."""
        last = tally.last_judged
        if last is not None and (not self._judged or self._judged[0] is not last):
            self._judged.appendleft(last)
        self._speed.append((seconds, tally.decisions))
        self._start_ms = self._start_ms or tally.simulated_ms
        with_next, users, alerts = fitted(self._live.console.height)
        page = Layout()
        page.split_column(
            Layout(self._head(tally, worker), size=HEAD),
            Layout(name="figures", size=FIGURES),
            Layout(_next(tally), size=NEXT, visible=with_next),
            Layout(self._clicks(users), size=users + 3),
            Layout(self._alerts(tally, alerts), size=alerts + 2),
        )
        page["figures"].split_row(Layout(self._traffic(tally), ratio=1), Layout(self._quality(tally), ratio=1))
        self._live.update(page, refresh=True)

    def _head(self, tally: Tally, worker: Shown) -> Text:
        text = Text(" Eddy ", style="bold reverse cyan")
        text.append(f"  {self._scene.model} {device_in_words(worker.provider)}", style="bold")
        if tally.simulated_ms:
            past = tally.simulated_ms - self._start_ms
            clock = f"day {past // DAY_MS + 1}, {past % DAY_MS // HOUR_MS:02d}:{past % HOUR_MS // MINUTE_MS:02d}"
            text.append(f"  simulated {clock}", style="dim")
        text.append("  Ctrl-C ends", style="dim")
        return text.append(f"  {worker.page}", style=f"link {worker.page}")

    def _traffic(self, tally: Tally) -> Panel:
        p50, p99 = percentiles(list(tally.latencies_ms)[-LATEST:], (0.5, 0.99))
        (first_s, first), (last_s, last) = self._speed[0], self._speed[-1]
        speed = (last - first) / (last_s - first_s) if last_s > first_s else 0.0
        letters = "\n".join(f"{reason} {n}" for reason, n in tally.dead_letters.most_common(3))
        rows = Table.grid(padding=(0, 1))
        rows.add_row("clicks in", f"[bold]{tally.clicks:,}[/]  [dim]from {len(tally.users):,} users[/]")
        rows.add_row("decisions out", f"[bold]{tally.decisions:,}[/]  [dim]{speed:,.0f} per second[/]")
        rows.add_row("latency", f"p50 [bold]{p50:.0f}[/] ms, p99 [bold]{p99:.0f}[/] ms")
        rows.add_row("dead letters", f"[bold]{sum(tally.dead_letters.values()):,}[/]  [dim]broken messages:[/]")
        rows.add_row("", f"[dim]{letters}[/]")
        return Panel(rows, title="Kafka in, Kafka out", title_align="left", border_style="cyan")

    def _quality(self, tally: Tally) -> Panel:
        judged = max(1, tally.judged)
        rows = Table.grid(padding=(0, 1))
        for name, hits, style in (("Eddy", tally.hits, "green"), ("popularity", tally.popular_hits, "yellow")):
            bar = ProgressBar(total=judged, completed=hits, width=20, complete_style=style, finished_style=style)
            rows.add_row(name, bar, Text(_percent(hits, tally.judged), style=f"bold {style}"))
        k = self._scene.k
        note = Text(f"hit: next click among the {k} items\n", style="dim")
        note.append(f"popularity: {k} most clicked items\n\n", style="dim")
        share = f"{tally.true_alerts:,} of {tally.alerts:,}"
        note.append(share, style="not dim bold green").append(" alerts were true\n", style="not dim")
        share = f"{len(tally.found):,} of {len(tally.unusual):,}"
        note.append(share, style="not dim bold green").append(" bots and thieves found so far", style="not dim")
        return Panel(Group(rows, note), title="Hit rate and alerts", title_align="left", border_style="cyan")

    def _clicks(self, most: int) -> Panel:
        table = Table(expand=True, box=None, header_style="dim", pad_edge=False)
        for name, ratio in (("user", 3), ("clicked", 3), ("recommended", 8), ("next click", 3)):
            table.add_column(name, ratio=ratio, no_wrap=True, overflow="ellipsis")
        table.add_column("", width=len("hit no. 20"), no_wrap=True)
        for row in islice(self._judged, most):
            items = Text("  ").join(
                Text(item, style="bold green" if item == row.next_item else "") for item in row.items[:4]
            )
            hit = Text(f"hit no. {row.rank}", style="bold green") if row.rank else Text("miss", style="dim")
            table.add_row(row.user_id, row.item_id, items, row.next_item, hit)
        return Panel(table, title="Users", title_align="left", border_style="cyan")

    def _alerts(self, tally: Tally, most: int) -> Panel:
        table = Table.grid(expand=True, padding=(0, 1))
        for ratio in (3, 6, 8, 3):
            table.add_column(ratio=ratio, no_wrap=True, overflow="ellipsis")
        table.add_column(no_wrap=True, justify="right")
        for anomaly, truth in list(tally.last_alerts.values())[: -most - 1 : -1]:
            words, style = TRUTHS[truth]
            expected = Text("not " + " ".join(likely.item_id for likely in anomaly.expected), style="dim")
            what = f"{anomaly.event_type} of {anomaly.item_id}"
            table.add_row(anomaly.user_id, what, expected, f"p {anomaly.p_value:.0e}", Text(words, style=style))
        return Panel(table, title="Alerts", title_align="left", border_style="cyan")


def fitted(height: int) -> tuple[bool, int, int]:
    """What fits into a terminal of `height` rows: whether NEXT does, and the entries of users and of alerts.

    From 17 rows on, no part of the page is cut. NEXT is left out where it would cut the lists.
    """
    spare = height - HEAD - FIGURES - LISTS
    with_next = spare >= NEXT + 2
    entries = min(2 * LIST_ROWS, max(2, spare - NEXT * with_next))
    return with_next, (entries + 1) // 2, entries // 2


def as_lines(counts: dict[str, object]) -> str:
    """The counts as text, one line per count."""
    lines = []
    for name, value in counts.items():
        shown = ", ".join(f"{key} {n}" for key, n in value.items()) if isinstance(value, dict) else str(value)
        lines.append(f"{name.replace('_', ' '):<24}{shown}")
    return "\n".join(lines)


def _next(tally: Tally) -> Panel:
    """What was said of users, and what they did."""
    following, intent, carts = tally.following, tally.intents.counts(), tally.carts
    rows = Table.grid(padding=(0, 1))
    if following.judged:
        said = f"said right [bold green]{_percent(following.right, following.judged)}[/]"
        usual = _percent(following.most_common, following.judged)
        rows.add_row("next action", f"{said} (most common: {usual}), log loss {following.log_loss:.2f}")
    if intent["sessions"]:
        share, usual = _percent(intent["top_bought"], 1), _percent(intent["bought"], intent["sessions"])
        top = f"top tenth, from {intent['top_from']:.2f} on: [bold green]{share}[/] bought"
        rows.add_row("intent", f"{top} (all: {usual}), lift {intent['top_lift']:.1f}")
        missed, none = intent["bought"] - intent["said"], intent["said_not_bought"]
        said = f"[bold green]{intent['said']:,} of {intent['bought']:,}[/] said before"
        rows.add_row("purchases", f"{said}, {missed:,} missed; {none:,} said, not bought")
    fired = ", ".join(f"{rule} {count:,}" for rule, count in sorted(carts.by_rule.items()))
    rows.add_row("triggers", fired or "-")
    found = f"[bold green]{carts.found:,} of {carts.found + carts.missed:,}[/] found"
    rows.add_row("lost carts", f"{found}, {carts.missed:,} missed; {carts.wrong:,} triggers for a cart that was bought")
    return Panel(rows, title="What users do next", title_align="left", border_style="cyan")


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"
