"""The baselines against slow versions of their definitions."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.arrays import I64
from export.dataset.sessions import Sessions, SessionSets, sessions_of
from export.evaluate.baselines import (
    Baseline,
    Cooccurrence,
    Markov,
    Popularity,
    SessionPopularity,
    best,
    choose_vsknn,
    load_baselines,
    save_baselines,
)
from export.evaluate.vsknn import VsKnn, VsKnnSetting
from export.log.log import Log
from stream.errors import ArtifactError

ITEMS = 12
SESSIONS = st.lists(st.lists(st.integers(0, ITEMS), min_size=1, max_size=6), min_size=1, max_size=25)
SESSION = st.lists(st.integers(0, ITEMS), min_size=1, max_size=14)


def as_sessions(sessions: list[list[int]]) -> Sessions:
    start = np.append(0, np.cumsum([len(one) for one in sessions]))
    item = np.array([item for one in sessions for item in one], np.int32)
    return Sessions(item, start, np.arange(len(sessions)), np.arange(ITEMS, 0, -1))


def listed(baseline: Baseline, session: list[int], left_out: tuple[int, ...] = (), k: int = ITEMS) -> list[int]:
    return best(baseline, np.array(session, np.int64), list(left_out), ITEMS, k)


def scored(baseline: Baseline, session: I64) -> dict[int, float]:
    items, scores = baseline.scores(session)
    return dict(zip(items.tolist(), scores.tolist(), strict=True))


def test_lists_by_hand() -> None:
    """Followers by count, ties by the more popular item, then popularity; an unknown item gets popularity alone."""
    markov = Markov(as_sessions([[0, 3], [0, 3], [0, 4], [0, 4], [0, 2], [1, 0]]))
    assert listed(markov, [0], k=6) == [3, 4, 2, 0, 1, 5]
    assert listed(markov, [0], (0, 3), 3) == [4, 2, 1]
    assert listed(markov, [ITEMS], k=3) == [0, 1, 2]
    assert listed(Popularity(), [5], (1,), 3) == [0, 2, 3]
    assert listed(SessionPopularity(), [7, 5, 5, 2], k=5) == [5, 2, 7, 0, 1]


@given(sessions=SESSIONS, session=SESSION, left_out=st.lists(st.integers(0, ITEMS), max_size=4), k=st.integers(1, 14))
def test_markov_is_a_full_ranking(sessions: list[list[int]], session: list[int], left_out: list[int], k: int) -> None:
    """The list equals sorting the whole catalogue by count, then index, without what is left out."""
    pairs = [pair for one in sessions for pair in pairwise(one)]
    known = [i for i in session if i < ITEMS]
    ranked = sorted(range(ITEMS), key=lambda i: (-pairs.count((known[-1], i)) if known else 0, i))
    expected = [i for i in ranked if i not in left_out][:k]
    assert listed(Markov(as_sessions(sessions)), session, tuple(left_out), k) == expected


@given(sessions=SESSIONS, session=SESSION)
def test_cooccurrence_is_the_decayed_cosine(sessions: list[list[int]], session: list[int]) -> None:
    """Scores equal the definition: cosine of the items' session sets, 1 - age / 10 for each of the session's clicks."""
    holds = {i: {s for s, one in enumerate(sessions) if i in one} for i in range(ITEMS)}
    known = [i for i in session if i < ITEMS]
    expected = dict.fromkeys(range(ITEMS), 0.0)
    for age, i in enumerate(known[::-1][:10]):
        for j in range(ITEMS):
            if i != j and holds[i] & holds[j]:
                cosine = len(holds[i] & holds[j]) / (len(holds[i]) * len(holds[j])) ** 0.5
                expected[j] += (1 - age / 10) * cosine
    if known:
        found = scored(Cooccurrence(SessionSets(as_sessions(sessions))), np.array(known))
        assert found == pytest.approx({j: expected[j] for j in found})
        assert all(j in found for j, score in expected.items() if score > 0)


@given(
    sessions=SESSIONS,
    session=st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=14),
    setting=st.builds(
        VsKnnSetting,
        k=st.integers(1, 8),
        sample=st.integers(1, 12),
        weight=st.sampled_from(["linear", "div", "same"]),
        decay=st.sampled_from(["linear", "div", "same"]),
        idf=st.sampled_from([0.0, 1.0, 10.0]),
        repeats=st.booleans(),
    ),
)
def test_vsknn_is_its_definition(sessions: list[list[int]], session: list[int], setting: VsKnnSetting) -> None:
    """Candidates, likeness, neighbours and scores as in the header of vsknn.py, with sets and loops."""
    n = len(session)
    age = {item: session[::-1].index(item) for item in session}
    weight = {
        item: {"linear": max(0.0, 1 - a / 10), "div": (n - a) / n, "same": 1.0}[setting.weight]
        for item, a in age.items()
    }
    candidates = [s for s, one in enumerate(sessions) if set(one) & set(session)][-setting.sample :]
    likeness = {s: round(sum(weight[i] for i in {*session} & {*sessions[s]}), 9) for s in candidates}
    nearest = sorted(candidates, key=lambda s: (-likeness[s], -s))[: setting.k]  # of equals, the newest
    expected: dict[int, float] = {}
    for s in nearest:
        a = min(age[i] for i in {*session} & {*sessions[s]})
        decay = {"linear": max(0.0, 1 - a / 10), "div": 1 / (1 + a), "same": 1.0}[setting.decay]
        for item in {*sessions[s]} - {ITEMS}:
            idf = np.log(len(sessions) / sum(item in one for one in sessions))
            gone = item == session[-1] and not setting.repeats
            expected[item] = expected.get(item, 0.0) + (not gone) * likeness[s] * decay * (1 + setting.idf * idf)
    found = scored(VsKnn(SessionSets(as_sessions(sessions)), setting), np.array(session))
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_the_newest_candidates_count() -> None:
    """Of more sessions than the sample, only the newest are neighbours."""
    old, new = [[0, 1]] * 5, [[0, 2]] * 3
    method = VsKnn(SessionSets(as_sessions(old + new)), VsKnnSetting(sample=3))
    assert listed(method, [0], (0,), 2) == [2, 1]
    assert scored(method, np.array([0])).keys() == {0, 2}


def test_the_setting_is_chosen_where_it_helps() -> None:
    """In sessions that never repeat an item, VS-KNN learns on its own slice not to repeat the last one."""
    rng = np.random.default_rng(0)
    sessions = [[int(a), (int(a) + 3) % ITEMS, (int(a) + 6) % ITEMS] for a in rng.integers(0, ITEMS, 400)]
    assert not choose_vsknn(as_sessions(sessions)).repeats
    assert choose_vsknn(as_sessions([[int(a)] * 4 for a in rng.integers(0, ITEMS, 400)])).repeats


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    """The model directory keeps sessions and setting; one without them is refused in one line."""
    one = as_sessions([[0, 1, 2], [2, 3], [ITEMS, 1]] * 10)
    setting = VsKnnSetting(k=7, idf=1.0, repeats=False)
    save_baselines(tmp_path, one, setting)
    loaded, chosen = load_baselines(tmp_path)
    assert chosen == setting
    for name, value in vars(one).items():
        np.testing.assert_array_equal(getattr(loaded, name), value)
    np.savez(tmp_path / "baselines.npz", start=np.arange(3))
    with pytest.raises(ArtifactError, match="train it again"):
        load_baselines(tmp_path)


def test_sessions_are_kept_by_their_end_and_only_the_newest() -> None:
    """Sessions stand in the order in which they ended, clicks in theirs; a cut keeps whole sessions."""
    log = Log(
        user=np.array([0, 0, 0, 1, 1]),
        item=np.array([0, 1, 0, 2, 1]),
        event_type=np.zeros(5, np.int64),
        session=np.array([0, 0, 1, 2, 2]),
        time_ms=np.array([10, 50, 90, 20, 30]),
        users=["ann", "bob"],
        items=["a", "b", "c"],
        event_types=["view"],
        sessions=[],
    )
    found = sessions_of(log, ["a", "b"])
    assert found.item.tolist() == [2, 1, 0, 1, 0]
    assert found.start.tolist() == [0, 2, 4, 5]
    assert found.end_ms.tolist() == [30, 50, 90]
    assert found.counts.tolist() == [2, 2]
    newest = sessions_of(log, ["a", "b"], newest=4)
    assert newest.item.tolist() == [0, 1, 0]
    assert newest.start.tolist() == [0, 2, 3]
    assert newest.end_ms.tolist() == [50, 90]
    assert newest.counts.tolist() == [2, 2]
