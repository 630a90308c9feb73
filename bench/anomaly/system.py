"""Injects faults and campaigns that concern many users at once, and measures the alerts on the whole partition.

1. Clean: the alerts on the later clicks of each log, in which nothing was injected. They are false.
2. Faults: from some time on, and for half an hour, a share of the users who click has the fault; or some users are
   attacked within five minutes. How long does it take from the first affected click to an alert with the right sign?
   REPEATS begins for each kind and strength.
3. Controls, as in `python -m bench.anomaly`: alerts on the partition, and alerts on single users that are part of none
   or of one, beyond those on the clean clicks.

Each log is one partition. The alerts are those of the serving engine with its default threshold. Two settings were
chosen on the same logs, with other begins and shares: the sign `unknown items`, and the ratio of 1.5 to what is usual.

    python -m bench.anomaly.system
    python -m bench.anomaly.system --logs taobao --set tuning --out tuning.json
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.progress import Progress

from bench.anomaly.clicks import Clicks, Flags, apply, joined
from bench.anomaly.command import Measured, options, run
from bench.anomaly.controls import CONTROLS, control
from bench.anomaly.eddy import EddyPValue
from bench.anomaly.logs import Log
from bench.anomaly.ranges import SHARES as EPISODES
from bench.anomaly.ranges import STRENGTHS, draw, generator
from bench.report import RESULTS, Figures
from stream.population.counts import OVER_USERS, WINDOW_MS
from stream.population.watch import SystemRule

RESULT = RESULTS / "system_alerts.json"
MINUTE_MS, HOUR_MS = 60_000, 3_600_000

ALPHA = 0.0001
"""The default threshold of the worker."""

LASTS_MS = 1_800_000
"""A fault lasts half an hour."""

BEFORE_MS = 6 * HOUR_MS
"""Clicks before a fault that the engine reads, to learn what is usual."""

REPEATS = 5

SHARES = {
    "tuning": ((0.02, 0.04), (0.08, 0.12), (0.25, 0.35)),
    "reporting": ((0.05, 0.07), (0.14, 0.18), (0.4, 0.6)),
}
"""Range of the share of the users who have the fault, for each strength."""

SIGNS = {
    "event type lost": ("unknown event types",),
    "wrong ids": ("unknown items",),
    "wrong ids of a new form": ("new form of ids",),
    "clicks sent several times": ("twins", "alerts: twins"),
    "credential stuffing": ("twins", "alerts: twins", "alerts: rate", "alerts: regular gaps", "alerts: one item"),
}
"""Fault -> the signs that say what happens."""


class Opened(NamedTuple):
    """An alert on the partition: its time, ms, and its rule."""

    time_ms: int
    rule: SystemRule


class Alerts(NamedTuple):
    """Alerts on the partition that opened, alerts on single users that are part of none, and those that are."""

    system: list[Opened]
    users: int
    parts: int


def alerts_on(eddy: EddyPValue, clicks: Clicks) -> Alerts:
    """The alerts on clicks, from new states."""
    system: list[Opened] = []
    users = parts = 0
    for at, cycle in eddy.cycles(clicks, ALPHA):
        begun = [rule for rule in cycle.system if not rule.closes]
        system += [Opened(int(clicks.time_ms[at[cycle.decided[rule.click]]]), rule) for rule in begun]
        part = sum(rule.part_of is not None for rule in cycle.decisions.alerts.rules)
        users, parts = users + len(cycle.decisions.alerts.rules) - part, parts + part
    return Alerts(system, users, parts)


def faulty(
    log: Log, which: str, kind: str, strength: str, begins_ms: int, rng: np.random.Generator
) -> tuple[Clicks, Flags]:
    """The later clicks of a log with a fault, from BEFORE_MS before it to its end, and which of them are affected."""
    later = log.later
    window = (later.time_ms >= begins_ms - BEFORE_MS) & (later.time_ms < begins_ms + LASTS_MS)
    clicks = later.take(np.flatnonzero(window))
    if kind == "credential stuffing":
        added = stuffing(log, which, strength, begins_ms, rng)
    else:
        share = rng.uniform(*SHARES[which][STRENGTHS.index(strength)])
        affected = (rng.random(len(log.users)) < share)[clicks.user] & (clicks.time_ms >= begins_ms)
        if kind == "event type lost":
            lost = np.where(affected, len(log.event_types), clicks.event_type)
            return replace(clicks, event_type=lost.astype(np.int32)), affected
        if kind.startswith("wrong ids"):
            times = 1 if kind == "wrong ids" else 2
            wrong = np.where(affected, clicks.item + times * len(log.items), clicks.item)
            return replace(clicks, item=wrong.astype(np.int32)), affected
        added = clicks.take(np.flatnonzero(affected))
        added = replace(added, time_ms=added.time_ms + rng.integers(0, 200, len(added)))
    every = joined([clicks, added])
    order = np.argsort(every.time_ms, kind="stable")
    return every.take(order), order >= len(clicks)


def stuffing(log: Log, which: str, strength: str, begins_ms: int, rng: np.random.Generator) -> Clicks:
    """A program tries the accounts of users within five minutes: a few clicks each on the commonest item, with equal
    gaps. The share of the users and the clicks are those of the episodes of single users."""
    users = np.unique(log.later.user[log.begins :])
    count = max(1, round(rng.uniform(*EPISODES[which]) * len(users)))
    parts = []
    for user in rng.choice(users, count, replace=False).tolist():
        p = draw(rng, which, "credential stuffing", strength)
        n, start = round(p["clicks"]), begins_ms + int(rng.integers(WINDOW_MS))
        same = (np.full(n, value, np.int32) for value in (user, log.popularity.argmax(), log.view, -1))
        parts.append(Clicks(*same, start + np.round(1000 * p["gap_s"] * np.arange(n)).astype(np.int64)))
    return joined(parts)


def begins(log: Log, rng: np.random.Generator) -> int:
    """The time of some click of the clean slice, not of its first third and last tenth."""
    clean = len(log.later) - log.begins
    return int(log.later.time_ms[log.begins + int(rng.integers(clean // 3, clean * 9 // 10))])


def delays(log: Log, eddy: EddyPValue, which: str, kind: str, strength: str, clean: set[int]) -> Figures:
    """The minutes from the first affected click to an alert with the right sign, None = not found; other alerts.

    clean  times of the alerts without the fault
    """
    rng = generator(which, "system", kind, strength)
    found: list[float | None] = []
    users: list[int] = []
    others = 0
    for _ in range(REPEATS):
        clicks, affected = faulty(log, which, kind, strength, begins(log, rng), rng)
        if not affected.any():
            continue
        first_ms = int(clicks.time_ms[affected].min())
        alerts = [one for one in alerts_on(eddy, clicks).system if one.time_ms >= first_ms]
        right = [one.time_ms for one in alerts if one.rule.sign in SIGNS[kind]]
        found.append(round((right[0] - first_ms) / MINUTE_MS, 2) if right else None)
        users.append(len(np.unique(clicks.user[affected])))
        others += sum(one.rule.sign not in SIGNS[kind] and one.time_ms not in clean for one in alerts)
    in_time = sum(delay is not None and delay * MINUTE_MS <= WINDOW_MS for delay in found)
    return {"begins": len(found), "found": sum(delay is not None for delay in found), "within_5_minutes": in_time,
            "minutes": found, "users": users, "other_alerts": others}  # fmt: skip


def measure(log: Log, eddy: EddyPValue, which: str, progress: Progress) -> Figures:
    """The figures of one log."""
    bar = progress.add_task(f"{log.name}: clean clicks", total=1 + len(SIGNS) * len(STRENGTHS) + len(CONTROLS))
    clean = alerts_on(eddy, log.later)
    times, signs = {one.time_ms for one in clean.system}, {one.rule.sign for one in clean.system}
    result: Figures = {
        "clean": {
            "hours_with_clicks": len(np.unique(log.later.time_ms // HOUR_MS)),
            "system_alerts": len(clean.system),
            "alerts": clean.users,
            "signs": [one.rule.sign for one in clean.system],
            "users_per_5_minutes": round(_users_in_5_minutes(log.later), 1),
        },
        "faults": {},
        "controls": {},
    }
    progress.update(bar, advance=1)
    for kind in SIGNS:
        for strength in STRENGTHS:
            progress.update(bar, description=f"{log.name}: {kind}, {strength}", advance=1)
            result["faults"][f"{kind}, {strength}"] = delays(log, eddy, which, kind, strength, times)
    for kind in CONTROLS:
        progress.update(bar, description=f"{log.name}: {kind}", advance=1)
        world = apply(log.later, control(log, which, kind, 0))
        alerts = alerts_on(eddy, world.clicks)
        result["controls"][kind] = {
            "users": len(world.episodes),
            "system_alerts": len(alerts.system) - len(clean.system),
            "signs": sorted({one.rule.sign for one in alerts.system if one.rule.sign not in signs}),
            "alerts": alerts.users - clean.users,
            "parts": alerts.parts - clean.parts,
        }
    progress.remove_task(bar)
    return result


def _users_in_5_minutes(clicks: Clicks) -> float:
    """Median over the clicks of the number of users in the same five minutes."""
    window = clicks.time_ms // WINDOW_MS
    pairs = np.unique(np.stack([window, clicks.user]), axis=1)[0]
    return float(np.median(np.unique(pairs, return_counts=True)[1][np.unique(window, return_inverse=True)[1]]))


def table(name: str, result: Figures) -> str:
    """The figures of a log, for a person."""
    clean = result["clean"]
    lines = [f"{name}: {clean['system_alerts']} alerts in {clean['hours_with_clicks']} clean hours with clicks", ""]
    lines += [f"{'fault':40}{'found':>8}{'in 5 min':>10}  minutes"]
    for kind, one in result["faults"].items():
        of = f"{one['found']} of {one['begins']}"
        lines.append(f"{kind:40}{of:>8}{one['within_5_minutes']:>10}  {one['minutes']}")
    lines += ["", f"{'control':40}{'system':>8}{'users':>8}{'parts':>8}"]
    for kind, one in result["controls"].items():
        lines.append(f"{kind:40}{one['system_alerts']:>8}{one['alerts']:>8}{one['parts']:>8}  {one['signs']}")
    return "\n".join(lines)


def main() -> int:
    given = options("bench.anomaly.system", __doc__, RESULT).parse_args()

    def measured(log: Log, model: Path, progress: Progress) -> Measured:
        found = measure(log, EddyPValue(model, log), given.set, progress)
        shares = dict(zip(STRENGTHS, SHARES[given.set], strict=True))
        conditions = {
            "log": log.what, "set": given.set, "alpha": ALPHA, "repeats": REPEATS, "fewest_users": OVER_USERS,
            "shares": shares, "options of eddy train": given.train,
        }  # fmt: skip
        return Measured(found, conditions, table(log.name, found))

    return run("bench.anomaly.system", given, measured)


if __name__ == "__main__":
    sys.exit(main())
