"""Counts everything that `eddy paths` shows, in one pass over the log: a log -> the figures as one JSON object."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from export.arrays import I64
from export.log.log import Log
from export.progress import Progress
from export.sequences.chain import Chain
from export.sequences.compare import FEW_USERS, Groups, Sum, by_time, by_users, compared, users_of
from export.sequences.flow import END, flow
from export.sequences.funnel import KNOWN, Funnel, stages_of
from export.sequences.loops import Ends, Loops, returns_of
from export.sequences.steps import OTHER, Steps, parts, steps_of
from export.sequences.tree import I16, Prefixes, Tree
from stream.log_lines import counted, printable

FEW_SESSIONS = 100
"""With fewer sessions the command prints that its figures are hardly more than examples."""


@dataclass(frozen=True)
class Asked:
    """What the command line asks for.

    by             the field that is a step: event_type, category or item
    stages         names by commas; None = those of a shop that the log has
    top, depth     how many values are steps of their own; longest path
    show           rows of each table
    compare_ms     the time that separates two groups; None = none
    compare_users  file of the users who are the second group; None = none
    seed           of the bootstrap
    """

    by: str = "event_type"
    stages: str | None = None
    top: int = 30
    depth: int = 6
    show: int = 12
    compare_ms: int | None = None
    compare_users: Path | None = None
    seed: int = 0


def figures(log: Log, asked: Asked, progress: Progress) -> dict[str, Any]:
    """The JSON object of `eddy paths`; docs/paths.md explains it. Raises ConfigError if what is asked is not there."""
    stages = stages_of(log, asked.stages)
    users = None if asked.compare_users is None else users_of(log, asked.compare_users)
    steps = steps_of(log, asked.by, asked.top)
    funnel, chain, prefixes = Funnel(log, stages), Chain(len(steps)), Prefixes(len(steps), asked.depth)
    ends, loops, returns = Ends(steps), Loops(steps), returns_of(log)
    begin_ms, furthest, clicks = [], [], 0
    progress.begin("counting", len(log))
    for part in parts(log, steps):
        furthest.append(funnel.add(part).astype(np.int8))
        for counter in (chain, prefixes, ends, loops):
            counter.add(part)
        for name, column in (("item", part.item), ("category", part.category)):
            if column is not None:
                returns[name].add(part, column)
        begin_ms.append(part.time_ms[part.begin[:-1]])
        clicks += len(part.item)
        progress.seen(len(part.item))
    user, step = prefixes.user(), prefixes.step()
    progress.say("comparing the paths with a Markov chain")
    tree = Tree(user, step, chain, steps.other)
    used = tree.most_used(asked.show).tolist()
    remarks = list(_remarks(log, asked, len(user), stages, steps, tree))
    found: dict[str, Any] = {
        "log": log.name,
        "by": asked.by,
        "clicks": clicks,
        "sessions": len(user),
        "users": len(np.unique(user)),
        "steps": _steps(steps, chain),
        "funnel": funnel.figures(),
        "paths": {
            "depth": asked.depth,
            "tested": tree.tested,
            "unexplained": len(tree.found()),
            "top": [_path(tree, steps, len(user), number) for number in used],
            "findings": [_path(tree, steps, len(user), number) for number in tree.found()[: asked.show].tolist()],
        },
        "flow": flow(step, steps.names),
        **ends.figures(asked.show),
        "loops": loops.figures(chain, asked.show),
        "returns": {name: one.figures(asked.show) for name, one in returns.items()},
    }
    groups = None
    if asked.compare_ms is not None:
        groups = by_time(np.concatenate(begin_ms), asked.compare_ms)
    elif users is not None and asked.compare_users is not None:
        there, unknown = users
        groups = by_users(user, there, asked.compare_users)
        if unknown:
            ids = counted(unknown, "id")
            remarks.append(f"{ids} of {asked.compare_users} not in the log")
    if groups is not None:
        progress.say("comparing the two groups")
        stage_names, paths = [log.event_types[stage] for stage in stages], [*map(tree.steps, used)]
        both, of_paths = _comparison(groups, user, np.concatenate(furthest), step, stage_names, paths, asked.seed)
        shown = [{"steps": path["steps"], **one} for path, one in zip(found["paths"]["top"], of_paths, strict=True)]
        found["comparison"] = {**both, "paths": shown}
        fewest = min(size["users"] for size in found["comparison"]["groups"].values())
        if fewest < FEW_USERS:
            remarks.append(
                f"a group has {counted(fewest, 'user')}: with fewer than {FEW_USERS}, its intervals are too narrow"
            )
    return {**found, "remarks": remarks}


def _steps(steps: Steps, chain: Chain) -> list[dict[str, Any]]:
    """Each step: its clicks, how often it is a step, and the mean of the clicks in a row that are one step."""
    places = chain.count[:-1].sum(axis=1)
    return [
        {"step": name, "clicks": clicks, "steps": count, "clicks_per_step": clicks / count}
        for name, clicks, count in zip(steps.names, steps.clicks.tolist(), places.tolist(), strict=True)
    ]


def _path(tree: Tree, steps: Steps, sessions: int, number: int) -> dict[str, Any]:
    path = tree.path(number)
    names = [*steps.names, END]
    return {
        "steps": [names[kind] for kind in path.steps],
        "sessions": path.sessions,
        "share": path.sessions / sessions,
        "users": path.users,
        "expected": path.expected,
        "last_step": {"of": path.before, "share": path.share, "chain": path.chain, "p": path.p, "q": path.q},
        "found": path.found,
    }


def _comparison(
    groups: Groups, user: I64, furthest: I64, step: I16, stages: list[str], paths: list[tuple[int, ...]], seed: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The funnel and paths in two groups: the object without the paths, and an object for each path.

    furthest  (S,) stages that each session reached
    paths     kinds of the steps of each path
    """
    every = np.ones(len(user), np.bool_)

    def shares() -> Iterator[Sum]:
        for number in range(len(stages)):
            yield Sum(furthest > number, every)
        for number in range(1, len(stages)):
            yield Sum(furthest > number, furthest >= number)
        for path in paths:
            yield Sum((step[:, : len(path)] == np.array(path, np.int16)).all(axis=1), every)

    sizes, judged = compared(groups, user, shares(), seed)
    reach, later = judged[: len(stages)], judged[len(stages) : len(judged) - len(paths)]
    found = {
        "groups": sizes,
        "funnel": [{"stage": stage, **one} for stage, one in zip(stages, reach, strict=True)],
        "from_stage_before": [{"stage": stage, **one} for stage, one in zip(stages[1:], later, strict=True)],
    }
    return found, judged[len(judged) - len(paths) :]


def _remarks(log: Log, asked: Asked, sessions: int, stages: list[int], steps: Steps, tree: Tree) -> Iterator[str]:
    """What a reader should know about these figures, one line each."""
    if not stages:
        names = ", ".join(map(printable, log.event_types[:10]))
        yield f"no funnel: the log has fewer than two of {', '.join(KNOWN)}; name stages among {names} by --stages"
    if log.in_order:
        yield "the times are synthetic (--in-order), so there are none in the funnel"
    if sessions < FEW_SESSIONS:
        yield f"only {counted(sessions, 'session')}: read the figures as examples"
    if len(steps) == 1:
        yield f"all steps are {steps.names[0]!r}, so there is one path; try --by item or --by category"
    elif not tree.tested:
        yield "no path occurs often enough to be tested"
    if steps.other is not None:
        yield f"values after the first {asked.top} are the step {OTHER}; what follows it is not tested (--top)"
