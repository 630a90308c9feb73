"""Injects behaviour that is unusual but harmless. It must raise no alert, or one for the whole system.

Each control is a function of a scene (injections.py) and returns nothing: it adds its episodes. An episode is one
user's part of the control.
"""

from collections.abc import Callable

import numpy as np

from bench.anomaly.clicks import I32, Clicks, Injection
from bench.anomaly.injections import BUY, Scene, scene_of
from bench.anomaly.logs import Log
from bench.anomaly.ranges import generator

USERS = 0.02
"""Share of the users who take part in a control, but for renamed ids and the replayed batch."""

WINDOW_MS = 1_800_000
"""A flash sale and a launch last this long, or a tenth of the slice if that is shorter."""

DAY_MS = 86_400_000
RENAMED = 0.05
"""Share of the items that get another id in the middle of the slice."""

STRENGTH = "control"


def _window(scene: Scene) -> tuple[int, int]:
    """Begin and length of a time that begins with the middle click of the clean slice, ms."""
    log = scene.log
    middle = int(log.later.time_ms[(log.begins + len(log.later)) // 2])
    return middle, min(WINDOW_MS, (log.end_ms - log.start_ms) // 10)


def _crowd(scene: Scene, kind: str, items: I32) -> None:
    """Users of the log click two or three of the items within the window."""
    begins, length = _window(scene)
    for user in scene.victims(scene.count(USERS), 1):
        gaps = scene.gaps(int(scene.rng.integers(2, 4)), 40)
        chosen = scene.rng.choice(items, len(gaps))
        start = begins + int(scene.rng.integers(length))
        scene.builder.episode(kind, STRENGTH, scene.clicks(user, chosen, start + gaps.cumsum()))


def flash_sale(scene: Scene) -> None:
    """Many users click three items that few clicked before."""
    rare = np.argsort(np.where(scene.log.trained, scene.log.popularity, np.inf))[: len(scene.log.items) // 2]
    _crowd(scene, "flash sale", scene.rng.choice(rare, 3).astype(np.int32))


def launch(scene: Scene) -> None:
    """Many users click three items that are new."""
    _crowd(scene, "launch", np.arange(len(scene.log.items), len(scene.log.items) + 3, dtype=np.int32))


def power_user(scene: Scene) -> None:
    """New users with 60 to 120 clicks: the items of real sessions, one session after another, at a person's pace."""
    for number in range(scene.count(USERS / 10)):
        gaps = scene.gaps(int(scene.rng.integers(60, 121)), 30, 0.9)
        clicks = scene.clicks(
            len(scene.log.users) + number, scene.natural(len(gaps)), scene.start(gaps) + gaps.cumsum()
        )
        scene.builder.episode("power user", STRENGTH, clicks)


def gift_season(scene: Scene) -> None:
    """An hour after their last click, users click the items of another user's session, and buy the last one."""
    log = scene.log
    buy = log.event_type(*BUY)
    for user in scene.victims(scene.count(USERS), 3):
        items = scene.natural(int(scene.rng.integers(3, 7)))
        kinds = np.full(len(items), log.view, np.int32)
        if buy is not None:
            kinds[-1] = buy
        begins = int(log.later.time_ms[scene.rows[user][-1]]) + 3_600_000
        times = begins + scene.gaps(len(items), 40).cumsum()
        scene.builder.episode("gift season", STRENGTH, scene.clicks(user, items, times, kinds))


def return_after_90_days(scene: Scene) -> None:
    """Users come back 90 days after the slice and click the items of another user's session."""
    for user in scene.victims(scene.count(USERS), 3):
        gaps = scene.gaps(int(scene.rng.integers(3, 7)), 40)
        times = scene.log.end_ms + 90 * DAY_MS + int(scene.rng.integers(DAY_MS)) + gaps.cumsum()
        scene.builder.episode("return after 90 days", STRENGTH, scene.clicks(user, scene.natural(len(gaps)), times))


def double_clicks(scene: Scene) -> None:
    """A third of a user's clicks come twice, within 300 ms."""
    log = scene.log
    for user in scene.victims(scene.count(USERS), 3):
        mine = scene.rows[user][scene.rows[user] >= log.begins]
        clicks = log.later.take(np.sort(scene.rng.permutation(mine)[: max(1, len(mine) // 3)]))
        again = clicks.time_ms + scene.rng.integers(50, 300, len(clicks))
        scene.builder.episode(
            "double clicks", STRENGTH, Clicks(clicks.user, clicks.item, clicks.event_type, clicks.category, again)
        )


def replayed_batch(scene: Scene) -> None:
    """All clicks of a time arrive once again after its end, with their old times."""
    begins, length = _window(scene)
    later = scene.log.later
    rows = np.flatnonzero((later.time_ms >= begins) & (later.time_ms < begins + length // 3))
    for user in np.unique(later.user[rows]).tolist():
        clicks = later.take(rows[later.user[rows] == user])
        arrives = np.full(len(clicks), begins + length // 3)
        scene.builder.episode("replayed batch", STRENGTH, clicks, arrives_ms=arrives)


def renamed_ids(scene: Scene, kind: str = "renamed ids", times: int = 1) -> None:
    """From the middle of the slice on, some items of the training have another id, of a new form if `times` is 2."""
    log = scene.log
    known = np.flatnonzero(log.trained)
    renamed = np.zeros(len(log.items), np.bool_)
    renamed[scene.rng.permutation(known)[: round(RENAMED * len(known))]] = True
    rows = np.flatnonzero((log.later.time_ms >= _window(scene)[0]) & renamed[log.later.item])
    rows = rows[np.argsort(log.later.user[rows], kind="stable")]
    users, starts = np.unique(log.later.user[rows], return_index=True)
    for mine in np.split(rows, starts[1:]) if len(users) else []:
        clicks = log.later.take(mine)
        items = (clicks.item + times * len(log.items)).astype(np.int32)
        replaced = Clicks(clicks.user, items, clicks.event_type, clicks.category, clicks.time_ms)
        scene.builder.episode(kind, STRENGTH, changed=mine, replaced=replaced)


CONTROLS: dict[str, Callable[[Scene], None]] = {
    "flash sale": flash_sale,
    "launch": launch,
    "power user": power_user,
    "gift season": gift_season,
    "return after 90 days": return_after_90_days,
    "double clicks": double_clicks,
    "replayed batch": replayed_batch,
    "renamed ids": renamed_ids,
    "renamed ids of a new form": lambda scene: renamed_ids(scene, "renamed ids of a new form", 2),
}


def control(log: Log, which: str, kind: str, seed: int) -> Injection:
    """The episodes of one control."""
    scene = scene_of(log, generator(which, kind, STRENGTH, seed))
    CONTROLS[kind](scene)
    return scene.builder.build()
