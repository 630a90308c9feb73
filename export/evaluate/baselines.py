"""Training sessions -> what a recommender has to beat: popularity, session popularity, Markov, co-occurrence, VS-KNN.

Each gives scores to some items from the clicks of the present session; `best` makes a full ranking of them: equal
scores rank the lower index first, the higher training count, so every list goes on with the most popular items.
Rule: all of them see the same training sessions and the same clicks as the model, and are judged alike.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import numpy as np

from export.arrays import F64, I64
from export.dataset.sessions import SessionSets, Visits
from export.evaluate.vsknn import VsKnn, VsKnnSetting, choose
from export.measure.metrics import K
from stream.errors import ArtifactError

FILE = "baselines.npz"

SUCCESSORS = 128
"""Items kept per item by Markov and co-occurrence: a list of 20 without the 16 just seen needs 36."""
VALIDATION = 0.1
VALIDATED = 5_000
"""VS-KNN's setting is chosen on so many positions of the newest tenth of the training sessions."""


class Baseline(Protocol):
    """Scores items by the session so far."""

    def scores(self, session: I64) -> tuple[I64, F64]:
        """(items (m,) ascending, scores (m,)); the rest of the catalogue scores 0.

        session  (t,) int64 known items, t > 0, oldest click first
        """


def best(baseline: Baseline, session: I64, left_out: list[int], items: int, k: int = K) -> list[int]:
    """The k items of `items` that score highest, without those in `left_out`; ties to the lower index."""
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
    """The most clicked items, whatever the session holds."""

    def scores(self, session: I64) -> tuple[I64, F64]:
        return session[:0], np.empty(0)


class SessionPopularity:
    """The session's own items, the most clicked first; after them the most popular."""

    def scores(self, session: I64) -> tuple[I64, F64]:
        items, counts = np.unique(session, return_counts=True)
        return items, counts.astype(np.float64)


class Markov:
    """What most often came next after the item just clicked."""

    def __init__(self, visits: Visits) -> None:
        known = visits.item < visits.items
        inside = (np.diff(visits.session()) == 0) & known[:-1] & known[1:]
        pairs = visits.item[:-1][inside].astype(np.int64) * visits.items + visits.item[1:][inside]
        pairs, self._times = np.unique(pairs, return_counts=True)
        self._next = pairs % visits.items
        self._start = np.searchsorted(pairs // visits.items, np.arange(visits.items + 1))

    def scores(self, session: I64) -> tuple[I64, F64]:
        a, b = self._start[session[-1] : session[-1] + 2].tolist()
        return self._next[a:b], self._times[a:b].astype(np.float64)


class Cooccurrence:
    """Items that share sessions with the session's items: cosine of their session sets, the newest click weighs most.

    An item clicked `age` clicks ago weighs 1 - age / 10. Source: item-to-item KNN, Davidson et al. 2010.
    """

    def __init__(self, sets: SessionSets) -> None:
        self._sets = sets
        self._sessions = np.diff(sets.bound)
        self._beside: dict[int, tuple[I64, F64]] = {}

    def scores(self, session: I64) -> tuple[I64, F64]:
        newest = session[:-11:-1].tolist()
        lists = [self._neighbours(item) for item in newest]
        items, which = np.unique(np.concatenate([found for found, _ in lists]), return_inverse=True)
        weighted: F64 = np.concatenate([cosine * (1 - age / 10) for age, (_, cosine) in enumerate(lists)])
        return items, np.bincount(which, weighted, len(items)).astype(np.float64)

    def _neighbours(self, item: int) -> tuple[I64, F64]:
        """The SUCCESSORS items most alike, and their cosines; counted when first asked for."""
        made = self._beside.get(item)
        if made is None:
            made = self._beside[item] = self._count(item)
        return made

    def _count(self, item: int) -> tuple[I64, F64]:
        held, _ = self._sets.items_of(self._sets.sessions_with(item))
        beside, times = np.unique(held, return_counts=True)
        beside, times = beside[beside != item], times[beside != item]
        cosine = times / np.sqrt(self._sessions[beside] * float(self._sessions[item]))
        kept = np.sort(np.argsort(-cosine, kind="stable")[:SUCCESSORS])
        return beside[kept], cosine[kept]


NAMES = ("popularity", "session_popularity", "markov", "cooccurrence", "vsknn")
"""As in the figures."""


def rivals(visits: Visits, setting: VsKnnSetting) -> dict[str, Baseline]:
    """Every baseline by its name in the figures."""
    sets = SessionSets(visits)
    methods = (Popularity(), SessionPopularity(), Markov(visits), Cooccurrence(sets), VsKnn(sets, setting))
    return dict(zip(NAMES, methods, strict=True))


def choose_vsknn(visits: Visits, seed: int = 0) -> VsKnnSetting:
    """The setting with the highest recall@20 + MRR@20 on the newest tenth of the sessions, neighbours from the rest."""
    cut = int(len(visits) * (1 - VALIDATION))
    ordinal = np.arange(len(visits))
    head, tail = visits.where(ordinal < cut), visits.where(ordinal >= cut)
    positions = [(session, item) for session, item in tail.positions() if item < visits.items]
    if not cut or not positions:
        return VsKnnSetting()
    chosen = np.random.default_rng(seed).permutation(len(positions))[:VALIDATED]
    judged = [positions[i] for i in np.sort(chosen)]
    sets = SessionSets(head)

    def quality(setting: VsKnnSetting) -> float:
        method = VsKnn(sets, setting)
        total = 0.0
        for session, item in judged:
            listed = best(method, session, [], visits.items)
            total += 1 + 1 / (1 + listed.index(item)) if item in listed else 0.0
        return total

    return choose(quality)


def save_baselines(directory: Path, visits: Visits, setting: VsKnnSetting) -> None:
    """Write the training sessions and VS-KNN's setting."""
    np.savez_compressed(directory / FILE, vsknn=np.array(json.dumps(asdict(setting))), **vars(visits))


def load_baselines(directory: Path) -> tuple[Visits, VsKnnSetting]:
    """What `save_baselines` wrote. Raises ArtifactError if the model has none."""
    try:
        with np.load(directory / FILE, allow_pickle=False) as file:
            visits = Visits(file["item"], file["start"], file["end_ms"], file["counts"])
            return visits, VsKnnSetting(**json.loads(str(file["vsknn"])))
    except (OSError, KeyError, ValueError, TypeError) as exc:
        raise ArtifactError(
            f"model {directory}: no training sessions in {FILE}, which the baselines need; train it again with "
            "`eddy train`"
        ) from exc
