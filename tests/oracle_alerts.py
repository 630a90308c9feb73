"""The expected p-values and alerts of one user, click after click, in plain Python that shares no code with the worker.

Read it beside docs/anomalies.md: the statistics of the last ten clicks, their p-values, the score made of them, and the
episodes. Only the file calibration.npz is shared.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.oracle_sessions import Session

LAST = 10
HALF_AN_HOUR_MS = 1_800_000
NAMES = ["clicks", "event types", "regular gaps", "rate", "one item", "twins", "category run", "steady pace"]
OF_SESSIONS = ["twins", "steady pace"]
CLASSES = {1: "1 click", 2: "2 clicks", 3: "3 clicks", 4: "4 or 5 clicks", 5: "4 or 5 clicks", 6: "6 or 7 clicks"}
CLASSES |= {7: "6 or 7 clicks", 8: "8 or 9 clicks", 9: "8 or 9 clicks", 10: "10 clicks or more"}
ORDER = list(dict.fromkeys(CLASSES.values()))


class HeldOut(NamedTuple):
    """Held-out scores of one kind: (score, -log p), ascending, the scale of the tail, and how many there are in all."""

    scores: list[tuple[float, float]]
    scale: float
    size: int

    def median(self) -> float:
        """The highest score that half of those that are not -inf reach."""
        reach = [(score, (1 + self.size) / math.exp(nats) - 1) for score, nats in self.scores]
        return max(score for score, count in reach if count >= reach[0][1] / 2 - 1e-6)

    def nats(self, score: float) -> float:
        """-log of the p-value of a score."""
        if score == -math.inf:
            return 0.0
        if not self.scores:
            return float(np.log(1.0 + self.size))
        found = self.scores[0][1]
        for (low, start), (high, end) in pairwise(self.scores):
            if score > low:
                found = (end - start) / (high - low) * (score - low) + start
        if score > self.scores[-1][0]:
            last, beyond = self.scores[-1][1], (score - self.scores[-1][0]) / self.scale
            finite = round((1 + self.size) / math.exp(self.scores[0][1])) - 1
            highest = max(1, min(100, finite // 10))  # so many scores gave the scale
            further = highest * float(np.log1p(beyond / highest))
            found = last + (float(np.log(1.0 + self.size)) - last) * min(beyond, 1.0) + further
        return min(found, 100.0)


@dataclass
class Behaviour:
    """What the detector keeps of a user. The lists are newest first."""

    item_nats: list[int] = field(default_factory=list)
    event_nats: list[int] = field(default_factory=list)
    gap_ms: list[int] = field(default_factory=list)
    items: list[int] = field(default_factory=list)
    session: int = 0
    run: int = 0
    twins: int = 0
    id: str = ""
    twin: bool = False
    gap_logs: list[int] = field(default_factory=list)
    excess: int = 0
    passed: int = 0
    episode: int = 0
    unusual_ms: int = 0
    alerted: float = 0.0
    quiet_until_s: int = 0
    quiet: list[str] = field(default_factory=list)


class Found(NamedTuple):
    """The result for a click. episode is None without an alert."""

    p_value: float
    pool: str
    pool_size: int
    episode: int | None
    statistics: dict[str, float]
    sentence: str


class Alerts:
    """Judges clicks. threshold: the p-value that raises an alert."""

    def __init__(self, model: Path, manifest: dict[str, Any], alpha: float) -> None:
        with np.load(model / "calibration.npz") as file:
            scores, nats = file["scores"].tolist(), file["nats"].tolist()
            ends = file["sizes"].cumsum().tolist()
            pairs = [list(zip(scores, nats, strict=True))[a:b] for a, b in zip([0, *ends], ends, strict=False)]
            self._category = file["category"].tolist()
            tails = [HeldOut(*one) for one in zip(pairs, file["scales"].tolist(), file["totals"].tolist(), strict=True)]
            self.scores_ends = "end_vectors" in file
            if self.scores_ends:
                self._vectors = set(file["end_vectors"].tolist())
                self._counts = list(zip(file["end_clicks"].tolist(), file["end_ends"].tolist(), strict=True))
                pairs_of_end = list(zip(file["end_scores"].tolist(), file["end_nats"].tolist(), strict=True))
                self._ends = HeldOut(pairs_of_end, float(file["end_scales"][0]), int(file["end_totals"][0]))
        self.held_out = tails[-1].size
        names = manifest["calibration"]
        self._pools = dict(zip(names, tails, strict=False))
        rest = tails[len(names) :]
        self._persistent, self._combined, tails = rest[-2], rest[-1], iter(rest)
        self._parts = [[next(tails) for _ in ORDER[: 1 if name in OF_SESSIONS else None]] for name in NAMES]
        self._event_types, self._unknown, self._alpha = manifest["event_types"], manifest["items"], alpha

    def judge(
        self,
        kept: Behaviour,
        surprise: float,
        event_surprise: float,
        event_type: str,
        item: int,
        gap_ms: int,
        history: int,
        click: dict[str, Any],
        offset: int,
        correct: Callable[[bool, float], float],
    ) -> Found:
        """Judge one click of a user, and change what is kept. gap_ms is -1 for a user's first click, -2 for a late one.

        correct  whether the click starts a session, and -log of its p-value by the calibration -> the corrected one
        """
        item_nats = self._pool(event_type, history).nats(float(surprise))
        for values, new in (
            (kept.item_nats, round(min(item_nats, 100.0) * 256)),
            (kept.event_nats, round(min(event_surprise, 100.0) * 256)),
            (kept.gap_ms, min(gap_ms, 2**31 - 1)),
            (kept.items, item),
        ):
            values.insert(0, new)
            del values[LAST:]
        starts = gap_ms == -1 or gap_ms >= HALF_AN_HOUR_MS
        kept.session = 1 if starts else kept.session + 1
        kept.run = kept.run + 1 if self._runs_on(kept.items) and not starts else 1
        if starts:
            kept.twins, kept.gap_logs, kept.excess = 0, [], 0
        kept.twin = 0 <= gap_ms <= 1000 and click["item_id"] == kept.id
        if not starts and gap_ms >= 0:
            kept.gap_logs.append(self._log(gap_ms))
            kept.twins += kept.twin
        kept.id = click["item_id"]
        filled = min(kept.session, LAST)
        values = [float(np.float32(value)) for value in self._statistics(kept, filled)]
        name = CLASSES[filled]
        of_class = [part[ORDER.index(name) if len(part) > 1 else 0] for part in self._parts]
        each = [tail.nats(value) for tail, value in zip(of_class, values, strict=True)]
        more = round(max(self._together(each) - math.log(100), 0) * 256)
        kept.excess += more
        lasting = self._persistent.nats(float(np.float32(math.sqrt(kept.excess / 256)))) if more else 0.0
        nats = correct(starts, self._combined.nats(float(np.float32(self._together([*each, lasting])))))
        strongest = sorted(range(len(NAMES)), key=lambda i: -each[i])
        statistics = {NAMES[i]: float(np.exp(-each[i])) for i in strongest if float(np.exp(-each[i])) <= 0.01}
        said = self._sentence(NAMES[strongest[0]], values[strongest[0]], kept, filled)
        said += self._usually(NAMES[strongest[0]], of_class[strongest[0]], filled - 1)
        if math.exp(-lasting) <= 0.01:
            statistics["persistence"] = float(np.exp(-lasting))
            said += "; much of the session was unusual" if lasting > max(each) else ""
        if history == 0:
            kept.quiet_until_s, kept.quiet = 0, []
        quiet = click["timestamp"] < kept.quiet_until_s * 1000 and NAMES[strongest[0]] in (kept.quiet or NAMES)
        episode = None if quiet else self._follow(kept, nats, click, offset)
        return Found(float(np.exp(-nats)), name, self._combined.size, episode, statistics, said)

    @staticmethod
    def _together(each: list[float]) -> float:
        """The largest -log p, and half of what the others are beyond -log .001."""
        others = sum(max(one - float(-np.log(0.001)), 0) for one in sorted(each)[:-1])
        return max(each) + 0.5 * others

    def _follow(self, kept: Behaviour, nats: float, click: dict[str, Any], offset: int) -> int | None:
        if nats < -math.log(self._alpha):
            return None
        time_ms = click["timestamp"]
        opens = kept.unusual_ms == 0 or time_ms - kept.unusual_ms >= HALF_AN_HOUR_MS
        kept.unusual_ms = max(kept.unusual_ms, time_ms)
        if opens:
            kept.episode = offset
        elif nats < kept.alerted * 1.5:
            return None
        kept.alerted = float(np.float32(nats))
        return kept.episode

    def end(
        self,
        kept: Behaviour,
        session: Session,
        click: dict[str, Any],
        items: list[str],
        correct: Callable[[float], float],
    ) -> None:
        """Score the end of the session after a click that was judged, and set what it would raise.

        correct  -log of a p-value by the calibration -> the corrected one
        """
        prior = sum(ends for _, ends in self._counts) / sum(clicks for clicks, _ in self._counts)
        clicks, ends = [*self._counts, (0, 0)][session.item]
        surprise = -float(np.log((ends + prior) / (clicks + 1)))
        nats, part = 0.0, 0.0
        if session.vector not in self._vectors:
            part = self._ends.nats(float(np.float32(max(surprise, session.peak))))
            nats = self._combined.nats(float(np.float32(part)))
        session.nats, session.episode = float(np.float32(correct(nats))), 0
        quiet = click["timestamp"] < kept.quiet_until_s * 1000 and (not kept.quiet or "end" in kept.quiet)
        if session.nats < -math.log(self._alpha) or quiet:
            return
        is_open = kept.unusual_ms != 0 and click["timestamp"] - kept.unusual_ms < HALF_AN_HOUR_MS
        if is_open and session.nats < kept.alerted * 1.5:
            return
        session.episode = kept.episode + 1 if is_open else -1
        name = [*items, ""][session.item]
        said = f"the session ended after {name}, after which {ends:,} of {clicks:,} clicks end one; "
        if not name:
            said = "the session ended after an item that the model does not know; "
        said += "no training session had the same items"
        if session.peak > surprise:
            said = "the session has ended, and no training session had the same items; a click in it had a probability "
            said += f"of {np.exp(-np.float64(session.peak)):.2g}"
        session.alert = {
            "item_id": name,
            "reason": f"{said} (p-value {math.exp(-session.nats):.2g})",
            "surprise": round(surprise, 5),
            "score": round(session.nats / math.log(10), 4),
            "threshold": self._alpha,
            "statistics": {"end": float(np.exp(-part))},
            "pool": "whole sessions",
            "pool_size": self._combined.size,
            "expected": [],
        }

    def _pool(self, event_type: str, history: int) -> HeldOut:
        length = "first" if history == 0 else "short" if history < 5 else "long"
        names = [f"{event_type}/{length}", event_type] if event_type in self._event_types else []
        return next(
            (self._pools[n] for n in names if n in self._pools and self._pools[n].size >= 1000), self._pools["all"]
        )

    def _runs_on(self, items: list[int]) -> bool:
        """Whether the last click is on an item of the category of the click before, but none of the items before."""
        if len(items) < 2 or items[0] in items[1:] or self._unknown in items[:2]:
            return False
        return bool(self._category[items[0]] == self._category[items[1]] >= 0)

    def _statistics(self, kept: Behaviour, filled: int) -> list[float]:
        between, items = kept.gap_ms[: filled - 1], kept.items[:filled]
        gaps = [gap for gap in between if gap >= 0]
        logs = [self._log(gap) for gap in gaps]
        known = [item for item in items if item != self._unknown]
        rate = -math.inf
        total = (
            sum(min(nats, 768) for nats in kept.item_nats[:filled]) / 256
        )  # of an Erlang distribution, if the p-values were independent
        if gaps:
            rate = -len(gaps) * float(np.log((sum(gaps) / len(gaps) + 20) / 30_000))
        return [
            total - float(np.log(sum(total**k / math.factorial(k) for k in range(filled)))),
            sum(kept.event_nats[:filled]) / 256,
            self._regularity(logs),
            rate,
            max((known.count(item) for item in known), default=0),
            kept.twins,
            kept.run,
            self._regularity(kept.gap_logs),
        ]

    @staticmethod
    def _log(gap_ms: int) -> int:
        return round(math.log(gap_ms + 20) * 256)

    @staticmethod
    def _regularity(logs: list[int]) -> float:
        if len(logs) < 4:
            return -math.inf
        variance = (len(logs) * sum(one * one for one in logs) - sum(logs) ** 2) / (len(logs) * 256) ** 2
        noise = 500 / math.exp(sum(logs) / len(logs) / 256)
        return (1 - len(logs)) * math.log(math.sqrt(variance + noise**2) + 1e-3)

    @staticmethod
    def _usually(name: str, held_out: HeldOut, gaps: int) -> str:
        if name not in ("rate", "one item", "category run") or not held_out.scores:
            return ""
        median = held_out.median()
        if name != "rate":
            return f"; usual are {median:.0f}"
        return f"; usual are {max(0, 30_000 / math.exp(median / gaps) - 20) / 1000:.3g} s"

    @staticmethod
    def _sentence(name: str, value: float, kept: Behaviour, filled: int) -> str:
        gaps = [gap for gap in kept.gap_ms[: filled - 1] if gap >= 0]
        mean_s = sum(gaps) / max(1, len(gaps)) / 1000
        last = f"the last {filled} clicks"
        usual_s = math.exp(sum(kept.gap_logs) / max(1, len(kept.gap_logs)) / 256) / 1000
        return {
            "clicks": f"the items of {last} were not expected",
            "event types": f"the event types of {last} were not expected",
            "regular gaps": f"{last} came at almost equal intervals of about {mean_s:.3g} s",
            "rate": f"{last} came every {mean_s:.3g} s",
            "one item": f"{value:.0f} of {last} were on one item",
            "twins": f"clicks of the session that repeat the click before within 1 s: {kept.twins}",
            "category run": f"{value:.0f} clicks in a row were on different items of one category",
            "steady pace": f"{len(kept.gap_logs)} intervals between the clicks of the session were nearly equal, about "
            f"{usual_s:.3g} s",
        }[name]
