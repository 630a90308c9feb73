"""Follows the users of each partition from click to click, and says when too many of them show a sign.

    click -> window of the partition -> is this user's sign new in it? -> too many users? -> the sign's episode
          -> while an episode by alerts is open, alerts on single users for the same statistic are part of it

The rule that must not break: the result depends only on the decided clicks of the partition and their order, never on
the batch. What is kept of a partition goes into the changelog in the same transaction as its rows.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from stream.detect.alert import Verdicts
from stream.detect.detector import Evidence, Fields
from stream.events import DRIFT
from stream.manifest import Tensor
from stream.population.counts import CLOSED, OVER_NATS, Counts
from stream.population.rates import DRIFT_LEVEL, LEVELS, Drift
from stream.population.signs import NO_SIGN, SIGNS, SURGE, led_by, sentence, shown
from stream.population.surge import NO_PLACE, PLACES, Surge
from stream.state.row import Index, Rows

WINDOW, SHOWN = "population_window_ms", "population_signs"
ROW_FIELDS = (Tensor(WINDOW, (), "int64"), Tensor(SHOWN, (), "int32"))
"""The fields of a row: begin of the partition's window with the user's last click, and the signs that the user has
shown in it, a bit each; behind them a bit for the places of the items that the user has clicked in it."""

MARKS = 31 - len(SIGNS)
"""Bits for the places. A user counts once for those that share a bit: of two items, every nineteenth is not counted."""

I64 = npt.NDArray[np.int64]


class SystemRule(NamedTuple):
    """Why a click begins or ends an episode of its partition.

    click     position of the click
    opened    offset of the click that opened the episode; the click's own offset opens one
    sign      one of SIGNS, SURGE or DRIFT
    reason    why it begins or ends, in words
    closes    True if the episode has ended
    time_ms   time of the partition, ms since the epoch
    users     users with the sign in the window so far; if it closes, since the episode began, each once a window.
              Of a drift: sessions with a p-value so small
    of_users  all users in the window so far, or all sessions; 0 if it closes
    usual     usual share of users with the sign
    p_value   probability that a window has as many by chance; 1 if it closes
    alerts    alerts on single users that are part of the episode
    example   True if the click is an example of the sign
    """

    click: int
    opened: int
    sign: str
    reason: str
    closes: bool
    time_ms: int
    users: int
    of_users: int
    usual: float
    p_value: float
    alerts: int
    example: bool


class Population:
    """Watches the users of all partitions. It has no data: that of a partition and of a user is given to `watch`.

    unknown_item, unknown_type  index of the unknown item and of the unknown event type
    """

    def __init__(self, unknown_item: int, unknown_type: int) -> None:
        self._unknown_item, self._unknown_type = unknown_item, unknown_type

    def watch(
        self,
        seen: Evidence,
        verdicts: Verdicts,
        partition: Index,
        counts: Sequence[Counts],
        surges: Sequence[Surge],
        before: Fields,
        rows: Rows,
    ) -> tuple[Verdicts, list[SystemRule]]:
        """Follow n clicks of m users, and write the fields ROW_FIELDS of their rows.

        partition  (n,) intp, index into `counts` of each click's partition; its clicks are in order
        counts, surges  what is kept of each partition, changed in place
        before, rows  as in `Detector.judge`
        returns    the verdicts with the episodes that the alerts are part of; and the begins and ends of episodes, in
                   the order of the clicks of each partition
        """
        due_ms = [_due_ms(*both) for both in zip(counts, surges, strict=True)]
        led, signs = led_by(verdicts), shown(seen, self._unknown_item, self._unknown_type).tolist()
        for click, rule in zip(verdicts.alerted.tolist(), verdicts.rules, strict=True):
            if led[click] != NO_SIGN and rule.episode == seen.offset[click]:
                signs[click] |= 1 << led[click]
        windows, known = before[WINDOW].tolist(), before[SHOWN].tolist()
        rules: list[SystemRule] = []
        part_of: dict[int, int] = {}
        place = np.where(seen.recent[:, 0] == self._unknown_item, NO_PLACE, seen.item_hash % PLACES)
        columns = (seen.owner, partition, seen.time_ms, seen.offset, seen.clicks_before, place)
        for click, (user, number, time_ms, offset, history, place_of) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True)
        ):
            one, surge = counts[number], surges[number]
            one.clock_ms = max(one.clock_ms, time_ms)
            if one.clock_ms >= due_ms[number]:
                rules += [*_ended(one, click), *_surge_ended(surge, one, click)]
                due_ms[number] = _due_ms(one, surge)
            if one.ends():
                surge.next_window(one)
                one.next_window()
            if not one.users:
                one.start_ms = one.clock_ms
            if history == 0 or windows[user] != one.start_ms:
                windows[user], known[user] = one.start_ms, 0
                one.users += 1
            new = signs[click] & ~known[user]
            if new:
                known[user] |= new
                rules += _counted(one, new, click, offset)
                due_ms[number] = _due_ms(one, surge)
            mark = 1 << len(SIGNS) + place_of % MARKS
            if place_of != NO_PLACE and not known[user] & mark:
                known[user] |= mark
                if (nats := surge.count(place_of, one)) > 0:
                    rules += _surged(surge, one, place_of, nats, click, offset)
                    due_ms[number] = _due_ms(one, surge)
            if click in led and led[click] != NO_SIGN and one.opened[led[click]] != CLOSED:
                part_of[click] = one.opened[led[click]]
                one.alerts[led[click]] += 1
        stays = rows["clicks"] > 0
        rows[WINDOW], rows[SHOWN] = np.where(stays, windows, 0), np.where(stays, known, 0)
        return _as_parts(verdicts, part_of), rules


def _counted(counts: Counts, signs: int, click: int, offset: int) -> list[SystemRule]:
    """Count a user for each sign that is new, a bit each. Returns the begins of episodes."""
    begun = []
    for sign, name in enumerate(SIGNS):
        if not signs >> sign & 1:
            continue
        counts.hits[sign] += 1
        is_open = counts.opened[sign] != CLOSED
        counts.total[sign] += is_open
        if is_open and counts.over_ms[sign] >= counts.start_ms:
            continue
        nats = counts.judge(sign)
        if nats < OVER_NATS:
            continue
        counts.over_ms[sign] = counts.clock_ms
        if not is_open:
            users = counts.hits[sign]
            counts.opened[sign], counts.total[sign], counts.alerts[sign] = offset, users, 0
            now_ms, share, p_value = counts.clock_ms, counts.share(sign), math.exp(-nats)
            reason = f"{users} of {counts.users} users {sentence(name)}, and {share:.2%} are usual"
            begun.append(
                SystemRule(click, offset, name, reason, False, now_ms, users, counts.users, share, p_value, 0, True)
            )
    return begun


def _ended(counts: Counts, click: int) -> list[SystemRule]:
    """End the episodes of a partition that have been quiet for long enough."""
    ended = []
    for sign, (name, opened) in enumerate(zip(SIGNS, counts.opened, strict=True)):
        if opened != CLOSED and counts.quiet(sign):
            reason = f"for half an hour no window had too many users who {sentence(name)}"
            now_ms, users = counts.clock_ms, counts.total[sign]
            usual, alerts = counts.share(sign), counts.alerts[sign]
            ended.append(SystemRule(click, opened, name, reason, True, now_ms, users, 0, usual, 1.0, alerts, False))
            counts.opened[sign] = CLOSED
    return ended


def _due_ms(counts: Counts, surge: Surge) -> int:
    """The earliest time at which an episode of a partition can end."""
    due_ms = surge.due_ms()
    return counts.due_ms() if due_ms is None else min(due_ms, counts.due_ms())


def _surged(surge: Surge, counts: Counts, place: int, nats: float, click: int, offset: int) -> list[SystemRule]:
    """The begin of an episode with the users of a place, who are too many; none if there is an episode."""
    if surge.opened != CLOSED:
        return []
    users = surge.hits[place]
    surge.opened, surge.place, surge.total = offset, place, users
    share, p_value = surge.share(place, counts), math.exp(-nats)
    reason = f"{users} of {counts.users} users {sentence(SURGE)}, and {share:.2%} are usual"
    at = click, offset, SURGE, reason, False, counts.clock_ms
    return [SystemRule(*at, users, counts.users, share, p_value, 0, True)]


def _surge_ended(surge: Surge, counts: Counts, click: int) -> list[SystemRule]:
    """End the episode of an item that has been quiet for long enough."""
    due_ms = surge.due_ms()
    if due_ms is None or counts.clock_ms < due_ms:
        return []
    at = click, surge.opened, SURGE, "for half an hour no window had too many users on one item", True, counts.clock_ms
    surge.opened = CLOSED
    return [SystemRule(*at, surge.total, 0, surge.share(surge.place, counts), 1.0, 0, False)]


def drifted(drift: Drift) -> SystemRule:
    """The rule for the begin or the end of a drift."""
    nominal, beyond, sessions = LEVELS[DRIFT_LEVEL], round(drift.beyond), round(drift.sessions)
    reason = (
        f"{beyond} of {sessions} sessions of the last hours had a p-value of at most {nominal:g} by the calibration"
    )
    if drift.closes:
        reason = "the sessions of the last hours are again about as unusual as those that the model was calibrated on"
    else:
        reason += f", and {nominal:.2%} are usual: train on a newer log if it lasts"
    of = 0 if drift.closes else sessions
    at = drift.click, drift.opened, DRIFT, reason, drift.closes, drift.time_ms
    return SystemRule(*at, beyond, of, nominal, drift.p_value, 0, False)


def _as_parts(verdicts: Verdicts, part_of: dict[int, int]) -> Verdicts:
    """The verdicts with the episode of the partition that each alert is part of: position of the click -> offset."""
    if not part_of:
        return verdicts
    alerts = zip(verdicts.alerted.tolist(), verdicts.rules, strict=True)
    return verdicts._replace(rules=[rule._replace(part_of=part_of.get(click)) for click, rule in alerts])
