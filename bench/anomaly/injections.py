"""Injects anomalous behaviour into a log: bots, thieves and front-end faults, of three strengths.

Each kind is a function of a seeded generator and a log. Bots are new users. Takeover, cash-out, credential stuffing and
faults concern users of the log. The parameters are in ranges.py. A kind that needs what the log does not have is left
out (`left_out`).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bench.anomaly.clicks import I32, I64, Builder, Clicks, Injection
from bench.anomaly.logs import Log
from bench.anomaly.ranges import SHARES, draw, generator

Rows = npt.NDArray[np.intp]

HISTORY = 5
"""Clicks before the episode that a user of a takeover or a cash-out has at least."""

CAMPAIGN_MS = 300_000
"""Credential stuffing: all users are attacked within this time, before the last fifth of the slice."""


class Scene(NamedTuple):
    """What the functions of one injection share.

    log      the log
    rng      the generator of the injection
    rows     user -> rows of the user's clicks in `log.later`
    builder  collects the episodes
    """

    log: Log
    rng: np.random.Generator
    rows: dict[int, Rows]
    builder: Builder

    def start(self, gaps_ms: I64) -> int:
        """A start between the begin of the clean slice and its end less the duration of the episode."""
        latest = max(self.log.start_ms, self.log.end_ms - int(gaps_ms.sum()))
        return int(self.rng.integers(self.log.start_ms, latest + 1))

    def gaps(self, count: int, gap_s: float, spread: float = 0.6) -> I64:
        """The gaps (count,) int64 before clicks, ms: 0, then normal around gap_s to a spread of .5, else lognormal."""
        if spread <= 0.5:
            seconds = np.maximum(self.rng.normal(gap_s, spread * gap_s, count), 0.001)
        else:
            seconds = gap_s * np.exp(self.rng.normal(0, spread, count))
        seconds[0] = 0
        return np.round(1000 * seconds).astype(np.int64)

    def popular(self, count: int) -> I32:
        """Items (count,) drawn by their share of the training clicks."""
        return self.rng.choice(len(self.log.items), count, p=self.log.popularity).astype(np.int32)

    def natural(self, count: int) -> I32:
        """Items (count,) of whole sessions of the clean slice, one session after another."""
        found: list[I32] = []
        while sum(map(len, found)) < count:
            row = int(self.rng.integers(self.log.begins, len(self.log.later)))
            found.append(self.session_of(row))
        return np.concatenate(found)[:count]

    def session_of(self, row: int) -> I32:
        """The items of the session that has the click `row`, up to the end of the user's clicks."""
        mine = self.rows[int(self.log.later.user[row])]
        return self.log.later.item[mine[self.log.clean_session[mine] == self.log.clean_session[row]]]

    def clicks(self, user: int, items: I32, times_ms: I64, event_type: int | I32 | None = None) -> Clicks:
        """Clicks of one user; without an event type they are views."""
        kind = np.empty(len(items), np.int32)
        kind[:] = self.log.view if event_type is None else event_type
        known = np.where(items < len(self.log.items), items, 0)
        category = np.where(items < len(self.log.items), self.log.category_of[known], -1).astype(np.int32)
        return Clicks(np.full(len(items), user, np.int32), items.astype(np.int32), kind, category, times_ms)

    def count(self, share: float) -> int:
        """So many users of the clean slice are this share, at least one."""
        return max(1, round(share * len(np.unique(self.log.later.user[self.log.begins :]))))

    def victims(self, count: int, before: int, room_ms: int = 0) -> list[int]:
        """Users of the clean slice with at least `before` clicks, the last one `room_ms` before the slice's end."""
        last = self.log.end_ms - room_ms
        users = np.unique(self.log.later.user[self.log.begins :]).tolist()
        able = [u for u in users if len(self.rows[u]) >= before and self.log.later.time_ms[self.rows[u][-1]] <= last]
        return self.rng.choice(able, min(count, len(able)), replace=False).tolist() if able else []


Kind = Callable[[Scene, int, dict[str, float]], tuple[Clicks | None, Rows | None, Clicks | None]]
"""(scene, user, parameters) -> added clicks, changed rows and the clicks that replace them."""


def scene_of(log: Log, rng: np.random.Generator) -> Scene:
    order = np.argsort(log.later.user, kind="stable")
    users, starts = np.unique(log.later.user[order], return_index=True)
    parts = np.split(order, starts[1:])
    return Scene(log, rng, dict(zip(users.tolist(), parts, strict=True)), Builder())


# -- bots: new users --------------------------------------------------------------------------------------------------


def scraper(scene: Scene, user: int, p: dict[str, float]) -> tuple[Clicks, None, None]:
    """Different items of the whole catalogue, at a high rate."""
    count = min(round(p["clicks"]), len(scene.log.items))
    gaps = scene.gaps(count, p["gap_s"])
    items = scene.rng.choice(len(scene.log.items), count, replace=False)
    return scene.clicks(user, items, scene.start(gaps) + gaps.cumsum()), None, None


def category_walk(scene: Scene, user: int, p: dict[str, float]) -> tuple[Clicks, None, None]:
    """All items of one category after another, in the order of a list, at a person's pace."""
    count = round(p["clicks"])
    gaps = scene.gaps(count, p["gap_s"])
    category_of = scene.log.category_of
    items: list[int] = []
    for category in scene.rng.permutation(np.unique(category_of[category_of >= 0])):
        items += np.flatnonzero(category_of == category).tolist()
        if len(items) >= count:
            break
    gaps = gaps[: len(items)]
    return scene.clicks(user, np.array(items[:count]), scene.start(gaps) + gaps.cumsum()), None, None


def metronome(scene: Scene, user: int, p: dict[str, float]) -> tuple[Clicks, None, None]:
    """The items of real sessions, with gaps that have the spread of the parameters."""
    gaps = scene.gaps(round(p["clicks"]), p["gap_s"], p["spread"])
    return scene.clicks(user, scene.natural(len(gaps)), scene.start(gaps) + gaps.cumsum()), None, None


def click_fraud(scene: Scene, user: int, p: dict[str, float]) -> tuple[Clicks, None, None]:
    """A share of the clicks is on one item; the others are the items of real sessions."""
    gaps = scene.gaps(round(p["clicks"]), p["gap_s"])
    items = scene.natural(len(gaps))
    paid = scene.rng.permutation(len(gaps))[: round(p["share"] * len(gaps))]
    items[paid] = scene.popular(1)[0]
    return scene.clicks(user, items, scene.start(gaps) + gaps.cumsum()), None, None


def cart_hoarding(scene: Scene, user: int, p: dict[str, float]) -> tuple[Clicks, None, None]:
    """Many different popular items are put into the cart."""
    gaps = scene.gaps(round(p["clicks"]), p["gap_s"])
    items = np.array(list(dict.fromkeys(scene.popular(20 * len(gaps)).tolist())))[: len(gaps)]
    gaps = gaps[: len(items)]
    cart = scene.log.event_type("cart")
    return scene.clicks(user, items, scene.start(gaps) + gaps.cumsum(), cart), None, None


def carding(scene: Scene, user: int, p: dict[str, float]) -> tuple[Clicks, None, None]:
    """Stolen cards are tried: purchases of the same one to three items."""
    gaps = scene.gaps(round(p["clicks"]), p["gap_s"])
    items = scene.rng.choice(scene.popular(int(scene.rng.integers(1, 4))), len(gaps))
    buy = scene.log.event_type(*BUY)
    return scene.clicks(user, items, scene.start(gaps) + gaps.cumsum(), buy), None, None


# -- users of the log -------------------------------------------------------------------------------------------------


def takeover(scene: Scene, user: int, p: dict[str, float], similar: bool) -> tuple[Clicks | None, None, None]:
    """A session of other users comes hours after the user's last click.

    similar  every one of the sessions has a click on a category of the user's history, else none has; items stand for
             categories if the log has none. If 2,000 random sessions have too few such clicks, there is no episode
    """
    log, count = scene.log, round(p["clicks"])
    mine = log.later.item[scene.rows[user]]
    taste = log.category_of if log.categories else np.arange(len(log.items))
    history = set(taste[mine].tolist())
    items: list[int] = []
    for row in scene.rng.integers(log.begins, len(log.later), 2000).tolist():
        session = scene.session_of(row)
        if log.later.user[row] != user and similar != history.isdisjoint(taste[session].tolist()):
            items += session.tolist()
        if len(items) >= count:
            break
    if len(items) < count:
        return None, None, None
    gaps = scene.gaps(count, p["gap_s"])
    begins = max(int(log.later.time_ms[scene.rows[user][-1]]), log.start_ms) + int(scene.rng.integers(3, 9)) * 3_600_000
    return scene.clicks(user, np.array(items[:count]), begins + gaps.cumsum()), None, None


def cash_out(scene: Scene, user: int, p: dict[str, float]) -> tuple[Clicks, None, None]:
    """Minutes after the user's last click, many items that the user has never clicked are bought."""
    gaps = scene.gaps(round(p["clicks"]), p["gap_s"])
    mine = set(scene.log.later.item[scene.rows[user]].tolist())
    items = np.array([item for item in scene.popular(4 * len(gaps) + 20).tolist() if item not in mine])[: len(gaps)]
    begins = int(scene.log.later.time_ms[scene.rows[user][-1]]) + int(scene.rng.integers(60_000, 600_000))
    buy = scene.log.event_type(*BUY)
    return scene.clicks(user, items, begins + gaps[: len(items)].cumsum(), buy), None, None


def credential_stuffing(scene: Scene, user: int, p: dict[str, float]) -> tuple[Clicks, None, None]:
    """A program tries the accounts of many users within minutes: a few clicks on the same item, with the same gap."""
    log, count = scene.log, round(p["clicks"])
    begins = log.start_ms + (log.end_ms - log.start_ms) * 4 // 5 + int(scene.rng.integers(CAMPAIGN_MS))
    items = np.full(count, int(log.popularity.argmax()))
    return scene.clicks(user, items, begins + round(1000 * p["gap_s"]) * np.arange(count)), None, None


# -- front-end faults -------------------------------------------------------------------------------------------------


def affected(scene: Scene, user: int, share: float) -> Rows:
    """This share of the user's clicks in the clean slice, at least one."""
    mine = scene.rows[user]
    mine = mine[mine >= scene.log.begins]
    return np.sort(scene.rng.permutation(mine)[: max(1, round(share * len(mine)))])


def event_type_lost(scene: Scene, user: int, p: dict[str, float]) -> tuple[None, Rows, Clicks]:
    """The clicks come with an event type that the log does not have."""
    rows = affected(scene, user, p["share"])
    clicks = scene.log.later.take(rows)
    lost = np.full(len(rows), len(scene.log.event_types), np.int32)
    return None, rows, Clicks(clicks.user, clicks.item, lost, clicks.category, clicks.time_ms)


def several_times(scene: Scene, user: int, p: dict[str, float]) -> tuple[Clicks, None, None]:
    """The clicks are sent again, within 200 ms."""
    rows = np.repeat(affected(scene, user, p["share"]), round(p["repeats"]) - 1)
    clicks = scene.log.later.take(rows)
    later = clicks.time_ms + np.sort(scene.rng.integers(0, 200, len(rows)))
    return Clicks(clicks.user, clicks.item, clicks.event_type, clicks.category, later), None, None


def wrong_ids(scene: Scene, user: int, p: dict[str, float]) -> tuple[None, Rows, Clicks]:
    """The clicks come with item ids that the log does not have, a different one for each item."""
    rows = affected(scene, user, p["share"])
    clicks = scene.log.later.take(rows)
    items = (clicks.item + len(scene.log.items)).astype(np.int32)
    return None, rows, Clicks(clicks.user, items, clicks.event_type, np.full(len(rows), -1, np.int32), clicks.time_ms)


# -- all kinds --------------------------------------------------------------------------------------------------------

BUY = ("purchase", "buy")
BOTS: dict[str, Kind] = {
    "scraper": scraper,
    "category walk": category_walk,
    "metronome": metronome,
    "click fraud": click_fraud,
    "cart hoarding": cart_hoarding,
    "carding": carding,
}
OF_USERS: dict[str, tuple[Kind, int]] = {
    "takeover, similar taste": (lambda *given: takeover(*given, similar=True), HISTORY),
    "takeover, different taste": (lambda *given: takeover(*given, similar=False), HISTORY),
    "cash-out": (cash_out, HISTORY),
    "credential stuffing": (credential_stuffing, 1),
    "event type lost": (event_type_lost, 3),
    "clicks sent several times": (several_times, 3),
    "wrong ids": (wrong_ids, 3),
}
"""Kind -> its function and the number of clicks that the user has at least."""

KINDS = (*BOTS, *OF_USERS)


def left_out(log: Log, kind: str) -> str | None:
    """Why the log cannot have a kind; None if it can."""
    if kind == "category walk" and not log.categories:
        return "the log has no categories"
    if kind == "cart hoarding" and log.event_type("cart") is None:
        return "the log has no cart events"
    if kind in ("carding", "cash-out") and log.event_type(*BUY) is None:
        return "the log has no purchases"
    if kind == "event type lost" and len(log.event_types) < 2:
        return "the log has one event type"
    if kind.startswith("takeover") and log.end_ms - log.later.time_ms[0] < 86_400_000:
        return "the log is shorter than a day: no user returns"
    return None


def inject(log: Log, which: str, kind: str, strength: str, seed: int) -> Injection:
    """The episodes of one kind and strength.

    which  one of ranges.SETS
    """
    scene = scene_of(log, generator(which, kind, strength, seed))
    count = scene.count(scene.rng.uniform(*SHARES[which]))
    if kind in BOTS:
        function, users = BOTS[kind], list(range(len(log.users), len(log.users) + count))
    else:
        function, before = OF_USERS[kind]
        users = scene.victims(count, before)
    for user in users:
        added, changed, replaced = function(scene, user, draw(scene.rng, which, kind, strength))
        if added is not None or changed is not None:
            scene.builder.episode(kind, strength, added, changed, replaced)
    return scene.builder.build()
