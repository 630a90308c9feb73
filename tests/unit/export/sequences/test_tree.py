"""The tree of paths: counts are those of a plain loop, and only what a first-order chain does not explain is found."""

from collections.abc import Callable
from itertools import pairwise
from math import erfc, sqrt
from pathlib import Path
from random import Random

import numpy as np
import pytest

from export.arrays import I64
from export.log.log import read_log
from export.sequences import steps as steps_module
from export.sequences.chain import Chain
from export.sequences.flow import flow
from export.sequences.intervals import adjusted
from export.sequences.steps import OTHER, Part, parts, steps_of
from export.sequences.tree import FEWEST, Prefixes, Tree
from tests.oracle_paths import path_of, prefixes, random_rows, sessions_of, transitions, write

KINDS = 4
WEIGHTS = [[0 if a == b else 4 - b for b in range(KINDS)] for a in range(KINDS)]
"""Weight of each next step after each step; a step does not follow itself."""

Walk = Callable[[Random], list[int]]
"""A generator -> the steps of a session."""


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize(("by", "top"), [("event_type", 30), ("item", 3), ("category", 30)])
def test_paths_and_chain_are_those_of_a_plain_loop(
    by: str, top: int, own: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sessions, users, expected sessions and shares of every path; rare items are one step."""
    monkeypatch.setattr(steps_module, "PART", 70)
    rows = random_rows(3, users=60, clicks=3000)
    log = read_log(write(rows, tmp_path / "log.csv", own))
    steps = steps_of(log, by, top)
    chain, collected = Chain(len(steps)), Prefixes(len(steps), 4)
    for part in parts(log, steps):
        chain.add(part)
        collected.add(part)
    tree = Tree(collected.user(), collected.step(), chain, steps.other)
    names = [*steps.names, "(end)"]
    found = {tuple(names[kind] for kind in tree.steps(n)): tree.path(n) for n in range(len(tree.last))}

    sessions = sessions_of(rows, own)
    values = [
        [{"event_type": r.event, "item": r.item, "category": r.category or "(none)"}[by] for r in s.rows]
        for s in sessions
    ]
    shown = {name for name in names if name != OTHER}
    paths = [path_of([value if value in shown else OTHER for value in one]) for one in values]
    wanted = prefixes(paths, 4, FEWEST)
    follows = transitions(paths)
    leaves = {a: sum(n for (b, _), n in follows.items() if a == b) for a, _ in follows}
    assert set(found) == set(wanted)
    for path, numbers in wanted.items():
        one = found[path]
        assert one.sessions == len(numbers)
        assert one.users == len({sessions[n].user for n in numbers})
        assert one.before == (len(wanted[path[:-1]]) if path[:-1] else len(sessions))
        pairs = list(zip(("(begin)", *path), path, strict=False))
        shares = [follows[pair] / leaves[pair[0]] for pair in pairs]
        assert one.chain == pytest.approx(shares[-1])
        assert one.expected == pytest.approx(len(sessions) * np.prod(shares))
        assert one.q is None or OTHER not in path[-2:-1]
    assert tree.tested > 0


def test_the_p_value_is_that_of_two_shares_with_design_effects(tmp_path: Path) -> None:
    """For each tested path: the same number from a plain sum over users."""
    rows = random_rows(8, users=40, clicks=4000)
    log = read_log(write(rows, tmp_path / "log.csv", sessions=False))
    steps = steps_of(log, "event_type", 30)
    [part] = parts(log, steps)
    tree, names = tree_of([part], len(steps)), [*steps.names, "(end)"]
    sessions = sessions_of(rows, own=False)
    whole = [[*path_of([row.event for row in s.rows]), "(end)"] for s in sessions]
    tested = 0
    for number in range(len(tree.last)):
        one = tree.path(number)
        if one.p is None:
            continue
        path = [names[kind] for kind in one.steps]
        x, y, tested = path[-2], path[-1], tested + 1
        begins: dict[str, list[int]] = {}
        places: dict[str, list[int]] = {}
        for session, steps_here in zip(sessions, whole, strict=True):
            if steps_here[: len(path) - 1] == path[:-1]:
                begins.setdefault(session.user, []).append(int(steps_here[len(path) - 1] == y))
            for a, b in pairwise(steps_here):
                if a == x:
                    places.setdefault(session.user, []).append(int(b == y))
        n, m = sum(map(len, begins.values())), sum(map(len, places.values()))
        hits, all_hits = sum(map(sum, begins.values())), sum(map(sum, places.values()))
        p = all_hits / m
        effects = [
            max(1.0, sum((sum(of) - p * len(of)) ** 2 for of in group.values()) / (p * (1 - p) * count))
            for group, count in ((begins, n), (places, m))
        ]
        error = sqrt(p * (1 - p) * (effects[0] / n + effects[1] / (m - n)))
        z = (hits / n - (all_hits - hits) / (m - n)) / error
        assert one.p == pytest.approx(erfc(abs(z) / sqrt(2)))
    assert tested > 20


def part_of(sessions: list[tuple[int, list[int]]]) -> Part:
    """The part of a log with these sessions of users, sorted by user, whose clicks are all steps."""
    user = np.array([who for who, _ in sessions])
    length = np.array([len(steps) for _, steps in sessions])
    begin, step = np.append(0, np.cumsum(length)), np.array([s for _, steps in sessions for s in steps])
    none = np.zeros(len(step), np.int32)
    first = np.append(np.flatnonzero(np.append(True, user[1:] != user[:-1])), len(user))
    return Part(
        user, begin, begin, step, np.arange(len(step)), none, none, None, none.astype(np.int64), begin[first], none
    )


def tree_of(found: list[Part], kinds: int, depth: int = 5) -> Tree:
    chain, collected = Chain(kinds), Prefixes(kinds, depth)
    for part in found:
        chain.add(part)
        collected.add(part)
    return Tree(collected.user(), collected.step(), chain, None)


def simulated(seed: int, users: int, walk: Walk) -> Part:
    """One to twenty sessions of each user: a few users have many."""
    rng = Random(seed)
    sessions = np.minimum(np.random.default_rng(seed).geometric(0.25, users), 20).tolist()
    return part_of([(user, walk(rng)) for user, count in enumerate(sessions) for _ in range(count)])


def chain_walk(rng: Random, planted: float = 0.0) -> list[int]:
    """Steps of a first-order chain. With this probability, 2 follows after 0, 1 whatever the chain says."""
    steps = [rng.randrange(2)]
    while rng.random() < 0.75:
        after = (
            2 if steps[-2:] == [0, 1] and rng.random() < planted else rng.choices(range(KINDS), WEIGHTS[steps[-1]])[0]
        )
        steps.append(after)
    return steps


def test_a_chain_explains_its_own_paths() -> None:
    """In 100 logs of a first-order chain, at most the nominal 5% have a finding; more than 12 would be 1 in 600."""
    logs = [tree_of([simulated(seed, 150, chain_walk)], KINDS) for seed in range(100)]
    assert min(tree.tested for tree in logs) > 10
    assert sum(len(tree.found()) > 0 for tree in logs) <= 12


def test_a_planted_second_order_path_is_found() -> None:
    """After 0, 1 comes 2 more often than after 1 elsewhere: that is found, and almost no step after 0, 2 or 3 is."""
    findings = elsewhere = 0
    for seed in range(5):
        tree = tree_of([simulated(seed, 1000, lambda rng: chain_walk(rng, planted=0.4))], KINDS)
        found = [tree.path(number) for number in tree.found().tolist()]
        [planted] = [path for path in found if path.steps == (0, 1, 2)]
        assert planted.found == "more"
        assert planted.excess > 0
        findings, elsewhere = findings + len(found), elsewhere + sum(path.steps[-2] != 1 for path in found)
    assert elsewhere <= 0.1 * findings


def test_a_path_of_one_busy_user_is_no_finding() -> None:
    """One user with 300 equal sessions is one user; the same sessions of 300 users are a finding."""
    rng = Random(0)
    rest = [(user, chain_walk(rng)) for user in range(1, 600)]
    odd = [1, 3, 1, 3]
    one = tree_of([part_of([*[(0, odd)] * 300, *rest])], KINDS)
    assert len(one.found()) == 0
    many = tree_of([part_of([*rest, *[(600 + n, odd) for n in range(300)]])], KINDS)
    assert (1, 3, 1) in [many.steps(number) for number in many.found().tolist()]


def test_adjusted_p_values_are_those_of_benjamini_and_hochberg() -> None:
    """The example of their paper of 1995: 15 p-values, of which four are found at 0.05."""
    p = np.array([
        0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719, 0.6528,
        0.7590, 1.0,
    ])  # fmt: skip
    assert (adjusted(p) <= 0.05).sum() == 4
    assert (adjusted(p[::-1])[::-1] == adjusted(p)).all()


def test_the_picture_has_every_session_once_in_each_column() -> None:
    """The sessions that come into a column are those that leave the column before it and have not ended."""
    rng = np.random.default_rng(1)
    part = part_of([(n, [int(k) for k in rng.integers(12, size=rng.integers(1, 9))]) for n in range(500)])
    collected = Prefixes(12, 6)
    collected.add(part)
    drawn = flow(collected.step(), [f"s{n}" for n in range(12)])
    assert sum(node["sessions"] for node in drawn["columns"][0]) == 500
    for number, column in enumerate(drawn["columns"][1:]):
        before = {node["step"]: node["sessions"] for node in drawn["columns"][number]}
        links = [link for link in drawn["links"] if link["column"] == number]
        for side, nodes in (("from", before), ("to", {node["step"]: node["sessions"] for node in column})):
            sums: dict[str, int] = {}
            for link in links:
                sums[link[side]] = sums.get(link[side], 0) + link["sessions"]
            assert sums == {name: count for name, count in nodes.items() if side == "to" or name != "(end)"}


def test_users_are_numbered_without_gaps_or_with() -> None:
    """A log that is cut by time has users without sessions."""
    part = part_of([(7, [0, 1]), (7, [1, 0]), (9_000_000, [0, 1])])
    users: I64 = part.user
    assert users.max() == 9_000_000
    tree = tree_of([part], 2)
    assert tree.path(int(tree.most_used(1)[0])).sessions == 2
