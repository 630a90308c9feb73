"""A log through the serving engine -> how good the recommendations are, beside the baselines.

Each click's list is judged by the same user's next click in the same session. A target the model does not know is
a miss for every method, never left out. The engine runs the ONNX files on clicks in time order, users from a zero
state, so under the worker's `exclude_recent` these are the figures of the `recommendations` topic.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from export.baselines import Baselines
from export.data import Log
from stream.engine.engine import open_engine
from stream.errors import ConfigError
from stream.events import Click, Origin
from stream.model.runtime import load_model
from stream.settings import RECENT_ITEMS

K = 20
CYCLE = 1_000
"""Clicks per engine cycle: as large as a busy worker's; results do not depend on it."""

ALPHAS = (0.05, 0.01, 0.001)
"""The false-alarm rates whose observed share is reported."""


class Quality(NamedTuple):
    """recall20: share of judged clicks whose next item was among the first k; mrr20: mean of 1/rank, 0 for a miss."""

    judged: int
    recall20: float
    mrr20: float


class Judge:
    """Judges lists against what came next, click by click in time order."""

    def __init__(self, k: int = K) -> None:
        self._k = k
        self._open: dict[tuple[str, str], Sequence[str]] = {}
        self._judged = 0
        self._hits = 0
        self._reciprocal = 0.0

    def see(self, user: str, session: str, item: str, recommended: Sequence[str]) -> None:
        """One click, and the list that was made after it, best first."""
        listed = self._open.get((user, session))
        if listed is not None:
            self._judged += 1
            for rank, candidate in enumerate(listed[: self._k], 1):
                if candidate == item:
                    self._hits += 1
                    self._reciprocal += 1 / rank
                    break
        self._open[user, session] = recommended

    def quality(self) -> Quality:
        judged = max(1, self._judged)
        return Quality(self._judged, self._hits / judged, self._reciprocal / judged)


def judge(clicks: Iterable[tuple[str, str, str, Sequence[str]]], k: int = K) -> Quality:
    """The quality of (user, session, item, recommended) in time order: each list against the session's next item."""
    one = Judge(k)
    for user, session, item, recommended in clicks:
        one.see(user, session, item, recommended)
    return one.quality()


def log_clicks(log: Log) -> Iterable[tuple[Click, str]]:
    """The log's clicks in time order, as a producer would send them, each with its session."""
    columns = (log.user, log.item, log.event_type, log.session, log.time_ms)
    for row in log.in_time_order():
        user, item, event_type, session, time_ms = (int(column[row]) for column in columns)
        click = Click(
            user_id=log.users[user],
            item_id=log.items[item],
            timestamp=time_ms,
            event_type=log.event_types[event_type],
            session_id=log.sessions[session] if log.sessions else None,
        )
        yield click, str(session)


class Rivals:
    """The baselines on the same clicks, under the same exclusion of what the user has just clicked."""

    def __init__(self, directory: Path, items: list[str], index: dict[str, int], exclude_recent: int) -> None:
        baselines = Baselines.load(directory)
        self._methods = {"popularity": baselines.popularity, "markov": baselines.markov}
        self._judges = {name: Judge() for name in self._methods}
        self._items, self._index, self._exclude = items, index, exclude_recent
        self._recent: dict[str, deque[int]] = {}
        self._made: dict[tuple[str, int], list[str]] = {}

    def see(self, click: Click, session: str) -> None:
        item = self._index.get(click.item_id, len(self._items))
        recent = self._recent.setdefault(click.user_id, deque(maxlen=self._exclude))
        recent.append(item)
        for name, judged in self._judges.items():
            judged.see(click.user_id, session, click.item_id, self._list(name, item, list(recent)))

    def _list(self, name: str, item: int, recent: list[int]) -> list[str]:
        alone = recent in ([], [item])
        made = self._made.get((name, item)) if alone else None
        if made is None:
            made = [self._items[i] for i in self._methods[name](item, recent, K)]
            if alone:
                self._made[name, item] = made
        return made

    def quality(self) -> dict[str, Quality]:
        return {name: judged.quality() for name, judged in self._judges.items()}


def evaluate(
    directory: Path,
    log: Log,
    exclude_recent: int,
    device: str = "cpu",
    seen: Callable[[int], None] = lambda count: None,
) -> dict[str, Any]:
    """recall@20 and MRR@20 of the model on the log beside popularity and Markov, as the JSON object of `eddy evaluate`.

    exclude_recent  leave out the items of the user's last N clicks, for every method; 0 = full ranking
    seen            is told the clicks of each cycle
    Raises ArtifactError on a model that cannot be served, ConfigError on a wrong setting.
    """
    if not 0 <= exclude_recent <= RECENT_ITEMS:
        raise ConfigError(f"exclude_recent is {exclude_recent}; it must be between 0 and {RECENT_ITEMS}")
    model = load_model(directory, device)
    engine = open_engine(model, directory, k=K, exclude_recent=exclude_recent, alpha=min(ALPHAS))
    rivals = Rivals(directory, model.items, model.index, exclude_recent)
    ours, p_values = Judge(), []
    pairs = list(log_clicks(log))
    for start in range(0, len(pairs), CYCLE):
        part = pairs[start : start + CYCLE]
        cycle = engine.process([click for click, _ in part], [Origin("log", 0, start + i) for i in range(len(part))])
        engine.commit(cycle)
        for (click, session), decision in zip(part, cycle.recommendations, strict=True):
            ours.see(click.user_id, session, click.item_id, decision.items)
            rivals.see(click, session)
            p_values.append(decision.p_value)
        seen(len(part))
    share = np.asarray(p_values)
    quality = ours.quality()
    if not quality.judged:
        raise ConfigError("nothing to judge: no session of the log has two clicks")
    figures = {"eddy": quality, **rivals.quality()}
    return {
        "model": model.manifest.label,
        "clicks": len(pairs),
        "judged": quality.judged,
        "exclude_recent": exclude_recent,
        **{name: {"recall20": q.recall20, "mrr20": q.mrr20} for name, q in figures.items()},
        "calibration": {f"p<={alpha:g}": float((share <= alpha).mean()) for alpha in ALPHAS},
    }
