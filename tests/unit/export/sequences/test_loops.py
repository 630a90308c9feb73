"""Loops, returns, entries and exits are those of a plain loop over sessions."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from export.log.log import read_log
from export.sequences import steps as steps_module
from export.sequences.chain import Chain
from export.sequences.loops import Ends, Loops, returns_of
from export.sequences.steps import parts, steps_of
from tests.oracle_paths import path_of, random_rows, sessions_of, transitions, write


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("by", ["event_type", "item", "category"])
def test_counts_are_those_of_a_plain_loop(by: str, own: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions with each loop and how often it occurs, returns to items and categories, first and last steps."""
    monkeypatch.setattr(steps_module, "PART", 90)
    rows = random_rows(11, users=30, clicks=1500)
    log = read_log(write(rows, tmp_path / "log.csv", own))
    steps = steps_of(log, by, 30)
    chain, ends, loops, returns = Chain(len(steps)), Ends(steps), Loops(steps), returns_of(log)
    for part in parts(log, steps):
        for counter in (chain, ends, loops):
            counter.add(part)
        returns["item"].add(part, part.item)
        assert part.category is not None
        returns["category"].add(part, part.category)

    sessions = sessions_of(rows, own)
    values = [[{"event_type": r.event, "item": r.item, "category": r.category or "(none)"}[by] for r in s.rows]
              for s in sessions]  # fmt: skip
    paths = [path_of(one) for one in values]
    shown = ends.figures(100)
    for name, at in (("entry", 0), ("exit", -1)):
        assert {one["step"]: one["sessions"] for one in shown[name]} == Counter(path[at] for path in paths)

    times, with_loop = Counter[tuple[str, ...]](), Counter[tuple[str, ...]]()
    for path in paths:
        here = [(a, b, c) for a, b, c in zip(path, path[1:], path[2:], strict=False) if a == c]
        times.update(here)
        with_loop.update(set(here))
    figures = loops.figures(chain, 1000)
    assert {tuple(one["steps"]): one["times"] for one in figures["loops"]} == times
    assert {tuple(one["steps"]): one["sessions"] for one in figures["loops"]} == with_loop
    assert figures["sessions"] == sum(any(a == c for a, c in zip(path, path[2:], strict=False)) for path in paths)
    follows = transitions(paths)
    leaves = Counter(step for path in paths for step in path)
    for one in figures["loops"]:
        a, b, _ = one["steps"]
        assert one["expected"] == pytest.approx(follows[a, b] * follows[b, a] / leaves[b])

    for name, column in (("item", [[r.item for r in s.rows] for s in sessions]),
                         ("category", [[r.category for r in s.rows if r.category] for s in sessions])):  # fmt: skip
        back = [{v for v, n in Counter(path_of(one)).items() if n > 1} for one in column]
        found = returns[name].figures(100)
        assert found["sessions"] == sum(map(bool, back))
        assert {one["name"]: one["sessions"] for one in found["most"]} == Counter(v for one in back for v in one)


def test_rare_values_make_no_loop(tmp_path: Path) -> None:
    """Two rare items are one step, and going from one to the other over a frequent item is no way back."""
    file = tmp_path / "log.csv"
    items = ["often", "rare", "often", "rarer"]
    file.write_text(
        "user_id,item_id,timestamp\n" + "".join(f"u,{item},{1_735_689_600 + n}\n" for n, item in enumerate(items))
    )
    log = read_log(file)
    steps = steps_of(log, "item", 1)
    chain, loops = Chain(len(steps)), Loops(steps)
    for part in parts(log, steps):
        chain.add(part)
        loops.add(part)
    assert [one["steps"] for one in loops.figures(chain, 9)["loops"]] == [["often", "(other)", "often"]]


def test_repeats_of_a_step_are_one_step(tmp_path: Path) -> None:
    """A view, a view and a cart are two steps, and the steps keep how many clicks they have."""
    file = tmp_path / "log.csv"
    kinds = ["view", "view", "view", "cart", "view"]
    file.write_text(
        "user_id,item_id,event_type,timestamp\n"
        + "".join(f"u,i{n},{kind},{1_735_689_600 + n}\n" for n, kind in enumerate(kinds))
    )
    log = read_log(file)
    steps = steps_of(log, "event_type", 30)
    [part] = parts(log, steps)
    assert [steps.names[kind] for kind in part.step] == [
        kind for kind, after in pairwise([*kinds, ""]) if kind != after
    ]
    assert part.step_begin.tolist() == [0, 3, 4]
