"""What a worker shows of itself to a person: its figures now and of the last minutes, its alerts and its model.

The figures are those of the meter. They are noted every NOTE_S seconds, when the worker looks for warnings. So a page
that is opened later has a history to show.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from stream.manifest import Manifest
from stream.meter import Histogram, Meter, Snapshot
from stream.web.alerts import Alerts
from stream.web.health import Health
from stream.web.hours import LastHours

POINTS = 300
"""Points of the history: ten minutes."""

WINDOW = 5
"""The figures now are those of so many intervals between two notes: ten seconds."""

REPORT = "report.html"

COUNTED = ("messages", "clicks", "repeats", "dead_letters", "dropped", "alerts", "system_alerts", "unusual_clicks")
TRAINED = ("from", "until", "clicks", "users", "held_out_clicks")
"""What the model's card has of the manifest's `training`."""

QUALITY = {"recall20": "recall@20", "mrr20": "MRR@20"}
"""Figure of the manifest's `quality` -> its name in the answer, which is that of the documents."""


class Noted(NamedTuple):
    """A snapshot of the meter, and when it was taken: seconds of a monotonic clock, and ms since the epoch."""

    clock_s: float
    time_ms: int
    figures: Snapshot


class Display:
    """What one worker shows. Any thread may call the methods.

    answers  whether the worker answers requests about users
    hours    what users did in the last hours; None if the worker does not count it
    card     describes the model; None until it is loaded
    report   the model's report; None if there is none
    """

    def __init__(self, meter: Meter, health: Health, answers: bool = False, hours: bool = False) -> None:
        self.meter, self.health, self.alerts, self.answers = meter, health, Alerts(), answers
        self.hours = LastHours() if hours else None
        self.card: dict[str, Any] | None = None
        self.report: Path | None = None
        self._lock = threading.Lock()
        self._latest: deque[Noted] = deque(maxlen=WINDOW + 1)
        self._points: deque[tuple[float | None, ...]] = deque(maxlen=POINTS)

    def model(self, manifest: Manifest, directory: Path) -> None:
        """Show this model from now on."""
        trained = {name: manifest.training.get(name) for name in TRAINED}
        self.card = {
            "label": manifest.label,
            "network": manifest.cell,
            "items": manifest.items,
            "event_types": list(manifest.event_types),
            "trained": trained,
            "held_out": {name: manifest.quality.get(figure) for figure, name in QUALITY.items()},
        }
        report = directory / REPORT
        self.report = report if report.is_file() else None

    def note(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        """Note the meter's figures. Call it at regular intervals."""
        now = Noted(clock_s(), time.time_ns() // 1_000_000, self.meter.snapshot())
        with self._lock:
            if self._latest:
                before = self._latest[-1]
                p50, p99 = _quantiles_ms(_added(before.figures, now.figures, "latency"))
                self._points.append((now.time_ms, _clicks_per_s(before, now), p50, p99, _lag(now.figures)))
            self._latest.append(now)

    def history(self) -> dict[str, Any]:
        """The last points, oldest first: one list for each figure, null where nothing was decided. And the hours."""
        with self._lock:
            points = [*self._points]
        names = ("time", "clicks_per_s", "latency_p50_ms", "latency_p99_ms", "lag")
        found: dict[str, Any] = {name: [point[at] for point in points] for at, name in enumerate(names)}
        return found | {"hours": self.hours and self.hours.shown()}

    def status(self) -> dict[str, Any]:
        """The figures of the last seconds, the worker's health and its model, as a JSON object."""
        with self._lock:
            before, now = (self._latest[0], self._latest[-1]) if self._latest else (None, None)
        total = self.meter.snapshot()
        ready = self.health.ready()
        info = next((dict(key.labels) for key in total.levels if key.name == "info"), None)
        judged = total.count("lists_judged")
        return {
            "time": time.time_ns() // 1_000_000,
            "ready": not ready.reason,
            "reason": ready.reason,
            **ready.facts,
            "worker": info,
            "answers": self.answers,
            "clicks_per_s": _clicks_per_s(before, now) if before and now else None,
            "latency": _latency(before and before.figures, now and now.figures),
            "stages": _stages(before and before.figures, now and now.figures),
            "lag": {of: int(n) for of, n in total.levels_by("partition_lag", "partition").items()},
            "users": int(total.level("users") or 0),
            "counts": {name: total.count(name) for name in COUNTED},
            "dead_letters": total.counts_by("dead_letters", "reason"),
            "hit_rate": round(total.count("list_hits") / judged, 4) if judged else None,
            "lists_judged": judged,
            "model": None if self.card is None else {**self.card, "report": self.answers and self.report is not None},
        }


def _clicks_per_s(before: Noted, now: Noted) -> float | None:
    seconds = now.clock_s - before.clock_s
    return round((now.figures.count("clicks") - before.figures.count("clicks")) / seconds, 1) if seconds > 0 else None


def _added(before: Snapshot, now: Snapshot, name: str) -> Histogram | None:
    seen = now.histogram(name)
    return None if seen is None else seen.since(before.histogram(name))


def _quantiles_ms(seen: Histogram | None) -> tuple[float | None, float | None]:
    """p50 and p99 in ms, with the relative error of a histogram; None without values."""
    p50, p99 = (None, None) if seen is None else map(seen.quantile, (0.5, 0.99))
    return tuple(None if s is None else round(s * 1000, 2) for s in (p50, p99))  # type: ignore[return-value]


def _latency(before: Snapshot | None, now: Snapshot | None) -> dict[str, float | None]:
    seen = None if before is None or now is None else _added(before, now, "latency")
    return dict(zip(("p50_ms", "p99_ms"), _quantiles_ms(seen), strict=True))


def _stages(before: Snapshot | None, now: Snapshot | None) -> dict[str, dict[str, float | None]]:
    """Stage -> p50 and p99 of its duration in a cycle."""
    if before is None or now is None:
        return {}
    found = {}
    for key, histogram in now.histograms.items():
        if key.name == "stage":
            quantiles = _quantiles_ms(histogram.since(before.histograms.get(key)))
            found[dict(key.labels)["stage"]] = dict(zip(("p50_ms", "p99_ms"), quantiles, strict=True))
    return found


def _lag(figures: Snapshot) -> int:
    return int(sum(figures.levels_by("partition_lag", "partition").values()))
