"""What `make anomaly-bench` injects and how it measures, on made-up logs and scores."""

import itertools
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest

from bench.anomaly import logs as sources
from bench.anomaly.__main__ import main
from bench.anomaly.clicks import FIELDS, Clicks, Episode, World, apply
from bench.anomaly.contenders import (
    FEW,
    LAST,
    CountVector,
    MarkovMean,
    NeverSeen,
    Rate,
    Regularity,
    score_world,
)
from bench.anomaly.controls import CONTROLS, control
from bench.anomaly.eddy import EddyPValue
from bench.anomaly.injections import BOTS, KINDS, inject, left_out
from bench.anomaly.logs import Log, columns
from bench.anomaly.measures import average_precision, found, realised, session_maxima, threshold
from bench.anomaly.ranges import PARAMETERS, REPORTING, SETS, STRENGTHS, TUNING

START_MS, HOUR_MS, DAY_MS = 1_735_689_600_000, 3_600_000, 86_400_000
HALF_HOUR_MS = 1_800_000


def shop(users: int = 400, days: int = 4, with_all: bool = True) -> Log:
    """A made-up log: 60 items in 12 categories, users with a session on most days; the last two days are the slice."""
    rng = np.random.default_rng(5)
    rows = []
    for day in range(days):
        for user in rng.permutation(users)[: users * 3 // 4].tolist():
            at = START_MS + day * DAY_MS + int(rng.integers(20 * HOUR_MS))
            for _ in range(int(rng.integers(2, 7))):
                item = int(60 * rng.random() ** 2)
                kind = ("view", "view", "view", "cart", "buy")[int(rng.integers(5))]
                rows.append((f"u{user}", f"i{item}", f"c{item % 12}", kind, at))
                at += int(rng.integers(5_000, 120_000))
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "category", "event_type", "timestamp"], orient="row")
    frame = frame.sort("timestamp", maintain_order=True)
    if not with_all:
        frame = frame.drop("category", "event_type")
    cut = START_MS + (days - 2) * DAY_MS
    train, test = frame.filter(pl.col("timestamp") < cut), frame.filter(pl.col("timestamp") >= cut)
    return columns("shop", "a made-up shop", train, test, DAY_MS)


LOG = shop()


def tuples(clicks: Clicks) -> list[tuple[int, ...]]:
    return list(zip(*(getattr(clicks, name).tolist() for name in FIELDS), strict=True))


def of_episodes(world: World) -> list[list[tuple[int, ...]]]:
    """The clicks of each episode, in the order of arrival."""
    found: list[list[tuple[int, ...]]] = [[] for _ in world.episodes]
    for click, episode in zip(tuples(world.clicks), world.episode.tolist(), strict=True):
        if episode >= 0:
            found[episode].append(click)
    return found


# -- injections -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*KINDS, *CONTROLS])
def test_clean_clicks_stay_and_episodes_are_what_they_say(kind: str) -> None:
    """Every click without an episode is a clean click in its old order; users and times of an episode are its own."""
    made = inject(LOG, "reporting", kind, "medium", 0) if kind in KINDS else control(LOG, "reporting", kind, 0)
    before = tuples(LOG.later)
    world = apply(LOG.later, made)
    assert tuples(LOG.later) == before
    assert len(world.episodes) > 0
    rows = [row for row in world.row.tolist() if row >= 0]
    assert rows == list(range(len(before)))
    for click, episode, row in zip(tuples(world.clicks), world.episode.tolist(), world.row.tolist(), strict=True):
        assert episode >= 0 or click == before[row]
    for episode, clicks in zip(world.episodes, of_episodes(world), strict=True):
        times = [click[-1] for click in clicks]
        assert (episode.kind, set(episode.users)) == (kind, {click[0] for click in clicks})
        assert (episode.start_ms, episode.end_ms) == (min(times), max(times))
        assert episode.start_ms >= LOG.start_ms


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_clicks(kind: str) -> None:
    """The seed, the set and the strength decide; another seed and another set give other clicks."""
    first, again = (apply(LOG.later, inject(LOG, "tuning", kind, "strong", 3)) for _ in range(2))
    assert tuples(first.clicks) == tuples(again.clicks)
    assert first.episodes == again.episodes
    for which, seed in (("tuning", 4), ("reporting", 3)):
        assert tuples(apply(LOG.later, inject(LOG, which, kind, "strong", seed)).clicks) != tuples(first.clicks)


def test_a_metronome_has_the_stated_spread() -> None:
    """Standard deviation / mean of its gaps is near the range of its strength; its clicks and its gap are in range."""
    for which in SETS:
        for column, strength in enumerate(STRENGTHS):
            ranges = {name: each[column] for name, each in PARAMETERS[which]["metronome"].items()}
            for clicks in of_episodes(apply(LOG.later, inject(LOG, which, "metronome", strength, 1))):
                times = [click[-1] for click in clicks]
                gaps = [(b - a) / 1000 for a, b in itertools.pairwise(times)]
                mean = sum(gaps) / len(gaps)
                spread = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5 / mean
                assert ranges["clicks"][0] <= len(clicks) <= ranges["clicks"][1] + 0.5
                assert ranges["spread"][0] / 2 < spread < ranges["spread"][1] * 2
                assert ranges["gap_s"][0] * 0.7 < mean < ranges["gap_s"][1] * 1.3


def test_bots_and_thieves_do_what_their_kind_says() -> None:
    """Items, event types and categories of each kind, checked click by click."""
    names = {kind: of_episodes(apply(LOG.later, inject(LOG, "reporting", kind, "strong", 2))) for kind in KINDS}
    cart, buy = LOG.event_types.index("cart"), LOG.event_types.index("buy")
    for clicks in names["scraper"]:
        assert len({click[1] for click in clicks}) == len(clicks)
    for clicks in names["category walk"]:
        walked = [click[3] for click in clicks]
        assert sum(a != b for a, b in itertools.pairwise(walked)) == len(set(walked)) - 1
    for clicks in names["click fraud"]:
        most = max(sum(other[1] == click[1] for other in clicks) for click in clicks)
        assert most >= 0.79 * len(clicks)
    for clicks in names["cart hoarding"]:
        assert {click[2] for click in clicks} == {cart}
        assert len({click[1] for click in clicks}) == len(clicks)
    for clicks in names["carding"]:
        assert {click[2] for click in clicks} == {buy}
        assert len({click[1] for click in clicks}) <= 3
    for clicks in names["credential stuffing"]:
        gaps = [b[-1] - a[-1] for a, b in itertools.pairwise(clicks)]
        assert len(set(gaps)) == 1
        assert 200 <= gaps[0] <= 280
    starts = [clicks[0][-1] for clicks in names["credential stuffing"]]
    assert max(starts) - min(starts) < 300_000
    for clicks in names["event type lost"]:
        assert {click[2] for click in clicks} == {len(LOG.event_types)}
    for clicks in names["wrong ids"]:
        assert min(click[1] for click in clicks) >= len(LOG.items)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - set(BOTS)))
def test_a_takeover_comes_after_the_history_of_its_user(kind: str) -> None:
    """Similar taste shares a category with the history, different taste and cash-out share none or no item."""
    own: dict[int, list[tuple[int, ...]]] = defaultdict(list)
    for click in tuples(LOG.later):
        own[click[0]].append(click)
    for clicks in of_episodes(apply(LOG.later, inject(LOG, "reporting", kind, "medium", 0))):
        history = own[clicks[0][0]]
        assert history
        if kind.startswith(("takeover", "cash")):
            assert clicks[0][-1] > history[-1][-1]
        if kind == "takeover, different taste":
            assert not {click[3] for click in clicks} & {click[3] for click in history}
        if kind == "takeover, similar taste":
            assert {click[3] for click in clicks} & {click[3] for click in history}
        if kind == "cash-out":
            assert not {click[1] for click in clicks} & {click[1] for click in history}


def test_a_replayed_batch_arrives_after_its_end() -> None:
    """Its clicks have old times, and no clean click of these times arrives after them."""
    world = apply(LOG.later, control(LOG, "reporting", "replayed batch", 0))
    added = [at for at, row in enumerate(world.row.tolist()) if row < 0]
    before = [
        click[-1] for click, row in zip(tuples(world.clicks)[: added[0]], world.row[: added[0]].tolist(), strict=True)
    ]
    assert max(world.clicks.time_ms[at] for at in added) <= max(before) <= world.clicks.time_ms[added[-1] + 1]


def test_the_sets_have_no_parameter_in_common() -> None:
    """The ranges of tuning and reporting do not overlap, for any kind, parameter and strength."""
    assert set(TUNING) == set(REPORTING) == set(KINDS)
    for kind, ranges in TUNING.items():
        assert set(ranges) == set(REPORTING[kind])
        for name, each in ranges.items():
            for (low, high), (other_low, other_high) in zip(each, REPORTING[kind][name], strict=True):
                assert high < other_low or other_high < low, (kind, name)


def test_a_kind_that_a_log_cannot_have_is_left_out_and_said() -> None:
    """Without categories and event types five kinds are left out, each with a reason; a short log has no takeover."""
    plain = shop(with_all=False)
    without = {kind for kind in KINDS if left_out(plain, kind)}
    assert without == {"category walk", "cart hoarding", "carding", "cash-out", "event type lost"}
    assert not any(left_out(LOG, kind) for kind in KINDS)


# -- measures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "per_10_000", "expected"), [(20_000, 1, 2), (20_000, 10, 20), (9_999, 1, 0)])
def test_the_threshold_gives_exactly_the_stated_number_of_false_sessions(
    count: int, per_10_000: int, expected: int
) -> None:
    """As many sessions exceed it as allowed; with fewer than 10,000 sessions none does."""
    maxima = np.random.default_rng(1).permutation(np.arange(count, dtype=float))
    at = threshold(maxima, per_10_000)
    assert (at.allowed, at.false, sum(value > at.value for value in maxima.tolist())) == (expected, expected, expected)


def test_equal_scores_give_fewer_false_sessions_never_more() -> None:
    """If the highest scores are equal, no session exceeds the threshold, and the number says so."""
    at = threshold(np.array([1.0] * 50 + [0.0] * 19_950), 10)
    assert (at.value, at.allowed, at.false) == (1.0, 20, 0)


def test_recall_and_delay_of_a_hand_made_case() -> None:
    """An episode is found at its first click above the threshold; equal is not above; clean clicks do not count."""
    episode = np.array([0, -1, 0, 1, 0, 1, -1, 2])
    score = np.array([1.0, 9.0, 3.0, 2.0, 5.0, 2.0, 9.0, 2.5])
    none = np.zeros(8, np.int32)
    clicks = Clicks(none, none, none, none, np.arange(8))
    world = World(clicks, episode, np.arange(8), [Episode("scraper", "weak", (n,), 0, 0) for n in range(3)])
    hits = found(world, score, 2.0)
    assert (hits.episodes, hits.found, hits.delays) == (3, 2, [1, 2])


def test_average_precision_of_a_hand_made_case() -> None:
    """The mean of the precisions at each positive; equal scores are taken together."""
    assert average_precision(np.array([5.0, 2.0]), np.array([4.0, 3.0, 1.0])) == pytest.approx((1 + 2 / 4) / 2)
    assert average_precision(np.array([1.0]), np.array([1.0, 1.0, 1.0])) == pytest.approx(1 / 4)


def test_session_maxima_leave_the_warm_up_out() -> None:
    assert session_maxima(np.array([9.0, 1.0, 3.0, 2.0]), np.array([-1, 0, 0, 1])).tolist() == [3.0, 2.0]


def test_realised_rates_and_their_worst_hour() -> None:
    """Two hours of 100 sessions; the second has two with an alert at .01."""
    p_value = np.ones(200)
    p_value[[150, 160]] = 0.01
    times = np.concatenate([np.arange(100), HOUR_MS + np.arange(100)])
    assert realised(-np.log10(p_value), times)["0.01"] == {"rate": 0.01, "worst_hour": 0.02}


# -- contenders -------------------------------------------------------------------------------------------------------


class Plain(NamedTuple):
    """A rule's scores by a loop over the clicks, with the clicks of each user and session so far in lists."""

    rate: list[float]
    regularity: list[float]
    never_seen: list[float]
    markov: list[float]
    counts: list[tuple[int, ...]]


def plain(log: Log, clicks: Clicks) -> Plain:
    """The rules, click by click."""
    known = set(log.train.item.tolist())
    after: dict[int, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    last: dict[int, tuple[int, int]] = {}
    popular: dict[int, int] = defaultdict(int)
    for user, item, _, _, at in tuples(log.train):
        if user in last and at - last[user][1] < HALF_HOUR_MS:
            after[last[user][0]][item] += 1
        last[user] = item, at
        popular[item] += 1
    size = len(log.items) + 1
    out = Plain([], [], [], [], [])
    times: dict[int, list[int]] = defaultdict(list)
    session: dict[int, list[tuple[int, ...]]] = defaultdict(list)
    surprises: dict[int, list[float]] = defaultdict(list)
    for click in tuples(clicks):
        user, item, _, _, at = click
        if times[user] and at - times[user][-1] >= HALF_HOUR_MS:
            session[user], surprises[user] = [], []
        times[user].append(at)
        session[user].append(click)
        mine = session[user]
        out.rate.append(sum(at - 60_000 < earlier for earlier in times[user]))
        gaps = [b[-1] - a[-1] for a, b in itertools.pairwise(mine)][-LAST:]
        mean = sum(gaps) / max(1, len(gaps))
        deviation = (sum((gap - mean) ** 2 for gap in gaps) / max(1, len(gaps))) ** 0.5
        out.regularity.append(-deviation / max(mean, 1000) if len(gaps) == LAST else -np.inf)
        out.never_seen.append(sum(one[1] not in known for one in mine[-LAST:]) / LAST)
        share = (popular[item] + 1) / (len(log.train) + size)
        following = after[mine[-2][1]] if len(mine) > 1 else {}
        surprises[user].append(-np.log((following.get(item, 0) + 10 * share) / (sum(following.values()) + 10)))
        enough = surprises[user][-LAST:]
        out.markov.append(sum(enough) / len(enough) if len(enough) >= FEW else -np.inf)
        kinds = [sum(one[2] == kind for one in mine) for kind in range(len(log.event_types) + 1)]
        out.counts.append((*kinds, len({one[1] for one in mine}), len({one[3] for one in mine})))
    return out


@pytest.mark.parametrize("kind", ["scraper", "metronome", "clicks sent several times"])
def test_the_rules_equal_a_loop_over_the_clicks(kind: str) -> None:
    """Every score of every rule, on clicks with an injection."""
    clicks = apply(LOG.later, inject(LOG, "reporting", kind, "strong", 0)).clicks
    expected = plain(LOG, clicks)
    assert Rate().score(clicks).tolist() == expected.rate
    assert Regularity().score(clicks) == pytest.approx(expected.regularity, abs=1e-6)
    assert NeverSeen(LOG).score(clicks) == pytest.approx(expected.never_seen)
    assert MarkovMean(LOG).score(clicks) == pytest.approx(expected.markov)
    seen: dict[tuple[int, ...], int] = defaultdict(int)
    capped = [tuple(min(31, n) for n in counts) for counts in expected.counts]
    for counts in plain(LOG, LOG.train).counts:
        seen[tuple(min(31, n) for n in counts)] += 1
    total = len(LOG.train) + 1
    assert CountVector(LOG).score(clicks) == pytest.approx([-np.log((seen[one] + 1) / total) for one in capped])


@pytest.mark.parametrize("kind", ["scraper", "wrong ids", "takeover, similar taste"])
def test_users_without_an_episode_keep_their_clean_scores(kind: str) -> None:
    """The scores of a world are those of all its clicks scored together."""
    world = apply(LOG.later, inject(LOG, "tuning", kind, "medium", 0))
    for rule in (Rate(), Regularity(), NeverSeen(LOG), MarkovMean(LOG), CountVector(LOG)):
        assert score_world(rule, rule.score(LOG.later), world).tolist() == rule.score(world.clicks).tolist()


@pytest.mark.parametrize("kind", ["scraper", "replayed batch"])
def test_the_p_values_of_a_world_are_those_of_the_engine(kind: str, model_dir: Path) -> None:
    """Though only the users of an episode pass through it again; also where clicks come late."""
    eddy = EddyPValue(model_dir, LOG)
    made = control(LOG, "tuning", kind, 0) if kind in CONTROLS else inject(LOG, "tuning", kind, "medium", 0)
    world = apply(LOG.later, made)
    expected = np.concatenate([cycle.decisions.p_value for _, cycle in eddy.cycles(world.clicks, 0.5)])
    found = score_world(eddy, eddy.score(LOG.later), world)
    assert 10.0**-found == pytest.approx(expected, rel=1e-12)
    assert (expected < 0.01).any()


# -- the command ------------------------------------------------------------------------------------------------------


def test_a_missing_log_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a log the benchmark ends with exit code 2."""
    monkeypatch.setattr(sources, "DATA_DIRECTORY", tmp_path)
    monkeypatch.setattr("sys.argv", ["bench.anomaly", "--logs", "taobao"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
