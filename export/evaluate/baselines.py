"""The baselines: popularity, session popularity, Markov, co-occurrence and VS-KNN.

Each baseline scores some items from the clicks of the current session. `best` makes a full ranking: with equal scores
the lower index ranks first, which is the item with more training clicks, so every list continues with the most popular
items. All baselines have the same training sessions and the same clicks as the model, and are judged in the same way.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import numpy as np

from export.arrays import F64, I64
from export.dataset.sessions import Sessions, SessionSets
from export.evaluate.vsknn import VsKnn, VsKnnSetting, choose
from export.measure.metrics import K
from stream.errors import ArtifactError

FILE = "baselines.npz"

SUCCESSORS = 128
"""Neighbours per item in the co-occurrence baseline. A list of 20 without the 16 recent items needs 36."""
VALIDATION = 0.1
VALIDATED = 5_000
"""The setting of VS-KNN is chosen on at most this many positions of the newest VALIDATION of the training sessions."""


class Baseline(Protocol):
    """Scores items from the session so far."""

    def scores(self, session: I64) -> tuple[I64, F64]:
        """(items (m,) ascending, scores (m,)); every item that is not returned has the score 0.

        session  (t,) int64 known items, t > 0, oldest click first
        """


def best(baseline: Baseline, session: I64, left_out: list[int], items: int, k: int = K) -> list[int]:
    """The k items with the highest scores, best first, without those in `left_out`; ties to the lower index.

    session  (t,) item indices, oldest click first; those of unknown items, at least `items`, are ignored
    items    V, the number of known items
    """
    listed: list[int] = []
    session = session[session < items]
    if len(session):
        found, score = baseline.scores(session)
        wanted = k + len(left_out)
        if len(found) > 4 * wanted:
            kept = score >= np.partition(score, -wanted)[-wanted]
            found, score = found[kept], score[kept]
        ranked = found[np.argsort(-score, kind="stable")][: int((score > 0).sum())].tolist()
        listed = [i for i in ranked if i not in left_out][:k]
    if len(listed) < k:
        taken = {*listed, *left_out}
        popular = range(min(items, k + len(taken)))
        listed += [i for i in popular if i not in taken][: k - len(listed)]
    return listed


class Popularity:
    """Recommends the items with the most training clicks. It ignores the session."""

    def scores(self, session: I64) -> tuple[I64, F64]:
        return session[:0], np.empty(0)


class SessionPopularity:
    """Recommends the items of the session, most clicked first, then the most popular items."""

    def scores(self, session: I64) -> tuple[I64, F64]:
        items, counts = np.unique(session, return_counts=True)
        return items, counts.astype(np.float64)


class Markov:
    """Recommends the items that most often followed the last clicked item."""

    def __init__(self, sessions: Sessions) -> None:
        known = sessions.item < sessions.items
        inside = (np.diff(sessions.session()) == 0) & known[:-1] & known[1:]
        pairs = sessions.item[:-1][inside].astype(np.int64) * sessions.items + sessions.item[1:][inside]
        pairs, self._times = np.unique(pairs, return_counts=True)
        self._next = pairs % sessions.items
        self._start = np.searchsorted(pairs // sessions.items, np.arange(sessions.items + 1))

    def scores(self, session: I64) -> tuple[I64, F64]:
        a, b = self._start[session[-1] : session[-1] + 2].tolist()
        return self._next[a:b], self._times[a:b].astype(np.float64)


class Cooccurrence:
    """Recommends items that occur in sessions with the items of this session: the cosine of their sets of sessions.

    An item that was clicked `age` clicks ago has the weight 1 - age / 10. Source: item-to-item KNN, Davidson et al.
    2010.
    """

    def __init__(self, sets: SessionSets) -> None:
        self._sets = sets
        self._sessions = np.diff(sets.bound)
        self._cached: dict[int, tuple[I64, F64]] = {}

    def scores(self, session: I64) -> tuple[I64, F64]:
        newest = session[:-11:-1].tolist()
        lists = [self._neighbours(item) for item in newest]
        items, which = np.unique(np.concatenate([found for found, _ in lists]), return_inverse=True)
        weighted: F64 = np.concatenate([cosine * (1 - age / 10) for age, (_, cosine) in enumerate(lists)])
        return items, np.bincount(which, weighted, len(items)).astype(np.float64)

    def _neighbours(self, item: int) -> tuple[I64, F64]:
        """The SUCCESSORS most similar items and their cosines, computed at the first call for an item."""
        found = self._cached.get(item)
        if found is None:
            found = self._cached[item] = self._count(item)
        return found

    def _count(self, item: int) -> tuple[I64, F64]:
        held, _ = self._sets.items_of(self._sets.sessions_with(item))
        others, times = np.unique(held, return_counts=True)
        others, times = others[others != item], times[others != item]
        cosine = times / np.sqrt(self._sessions[others] * float(self._sessions[item]))
        kept = np.sort(np.argsort(-cosine, kind="stable")[:SUCCESSORS])
        return others[kept], cosine[kept]


NAMES = ("popularity", "session_popularity", "markov", "cooccurrence", "vsknn")
"""Names of the baselines in the results."""


def rivals(sessions: Sessions, setting: VsKnnSetting) -> dict[str, Baseline]:
    """Make every baseline: name in the results -> baseline."""
    sets = SessionSets(sessions)
    methods = (Popularity(), SessionPopularity(), Markov(sessions), Cooccurrence(sets), VsKnn(sets, setting))
    return dict(zip(NAMES, methods, strict=True))


def choose_vsknn(sessions: Sessions, seed: int = 0) -> VsKnnSetting:
    """The setting with the highest recall@20 + MRR@20 on the newest tenth of the sessions.

    The neighbours are from the earlier sessions. With too few sessions it is the default setting.
    """
    cut = int(len(sessions) * (1 - VALIDATION))
    ordinal = np.arange(len(sessions))
    head, tail = sessions.where(ordinal < cut), sessions.where(ordinal >= cut)
    positions = [(session, item) for session, item in tail.positions() if item < sessions.items]
    if not cut or not positions:
        return VsKnnSetting()
    chosen = np.random.default_rng(seed).permutation(len(positions))[:VALIDATED]
    judged = [positions[i] for i in np.sort(chosen)]
    sets = SessionSets(head)

    def quality(setting: VsKnnSetting) -> float:
        method = VsKnn(sets, setting)
        total = 0.0
        for session, item in judged:
            listed = best(method, session, [], sessions.items)
            total += 1 + 1 / (1 + listed.index(item)) if item in listed else 0.0
        return total

    return choose(quality)


def save_baselines(directory: Path, sessions: Sessions, setting: VsKnnSetting) -> None:
    """Write the training sessions and the setting of VS-KNN."""
    np.savez_compressed(directory / FILE, vsknn=np.array(json.dumps(asdict(setting))), **vars(sessions))


def load_baselines(directory: Path) -> tuple[Sessions, VsKnnSetting]:
    """Read what `save_baselines` wrote. Raises ArtifactError if the model directory has no such file."""
    try:
        with np.load(directory / FILE, allow_pickle=False) as file:
            sessions = Sessions(file["item"], file["start"], file["end_ms"], file["counts"])
            return sessions, VsKnnSetting(**json.loads(str(file["vsknn"])))
    except (OSError, KeyError, ValueError, TypeError) as exc:
        raise ArtifactError(
            f"model {directory}: {FILE} has no training sessions, which the baselines need; train it again with "
            "`eddy train`"
        ) from exc
