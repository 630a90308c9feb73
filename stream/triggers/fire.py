"""Finds the triggers of a batch: which rule applies to which user, and when.

    end of a session       "abandoned"; with the partition's time, with the user's next click, or by the clock
    full hour of the time  "away", "trending", "price_drop"
    decided click          "after"

They come in the order of the clicks that bring them, and each looks at what was known of the user then: the consent,
and the time of the last trigger of the rule, which it changes. That time is in the user's row. So a user without a
click in the batch has a changed row too, if the rule has a cooldown.

The rule that must not break: which triggers there are depends only on the clicks of the partition, their order and the
rules, never on the batch.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from stream.detect.detector import Evidence
from stream.errors import ConfigError
from stream.events import Partition
from stream.lists.top import Lists
from stream.past.clicks import F32, Names
from stream.sessions.ends import Batch, Ended
from stream.sessions.track import Track
from stream.state.arena import Arena, Owner
from stream.state.evict import Forgetting
from stream.state.row import Rows
from stream.state.seen import MINUTE_MS
from stream.triggers.away import away, away_at_rest
from stream.triggers.hourly.prices import PriceDrops
from stream.triggers.hourly.remembered import AtRest, Hour, InBatch, hours_at_rest, hours_of
from stream.triggers.hourly.shares import Shelves, Trending
from stream.triggers.hourly.windows import Drop, Items, Trend
from stream.triggers.memory import GIVEN, U8, Times, remember, write_consent
from stream.triggers.moment import BatchMoments, Life, Moments
from stream.triggers.returns import returns
from stream.triggers.rules import ABANDONED, AFTER, AWAY, CATEGORY, HOURLY, TRENDING, Rule


class Firing(NamedTuple):
    """One trigger.

    click     position in the batch of the click that brings it
    time_ms   the time of the partition at which it applies, ms since the epoch
    offset    of the click that it is about, or of the first click of the session
    revision  of the session; None = it is about a click
    clicks    of the session
    returns   the model's probability that the user returns, for a rule that asks for it
    items     indices of the items, maybe of those that the model does not know
    why       of a rule about a full hour: the strongest trend or the largest drop for the user
    """

    click: int
    rule: Rule
    owner: Owner
    time_ms: int
    offset: int
    revision: int | None
    clicks: int
    returns: float | None
    items: Sequence[int]
    why: Trend | Drop | None = None


class Fired(NamedTuple):
    """The triggers of a batch, in their order, and the changed rows (n,) of users who have no click in it."""

    firings: list[Firing]
    owners: Sequence[Owner]
    rows: Rows | None


NOTHING = Fired([], (), None)


class Candidate(NamedTuple):
    """A moment at which a rule would apply, but for cooldown and consent.

    after  as in Ended
    """

    firing: Firing
    after: int

    @property
    def order(self) -> tuple[int, bool, int, int, str]:
        """Of one click the ends come first, by their time."""
        one = self.firing
        return one.click, one.revision is None, one.time_ms, one.offset, one.rule.name


class Triggers:
    """The rules of a worker, for one model."""

    def __init__(
        self,
        rules: Sequence[Rule],
        event_types: Sequence[str],
        items: npt.NDArray[np.object_],
        shelves: Shelves,
        forgetting: Forgetting,
    ) -> None:
        """event_types, items: (V,) the names that the model knows; the event types of the rules are among them

        Raises ConfigError if a rule needs categories and there are none.
        """
        self.rules = rules
        known = Items(items.tolist() if any(rule.kind in HOURLY for rule in rules) else [])
        self._trending, self._price_drops = Trending(known), PriceDrops(known)
        if any(rule.of == CATEGORY for rule in rules) and shelves.category is None:
            raise ConfigError('a trigger with of = "category" needs a catalogue with categories: set --catalogue')
        self._hashes = frozenset(rule.hash for rule in rules)
        self._types = {name: i for i, name in enumerate(event_types)}
        self._forgetting = forgetting

    def __call__(
        self,
        arena: Arena,
        batch: Batch,
        track: Track,
        seen: Evidence,
        ended: Ended,
        given: U8 | None,
        names: Names,
        price: F32 | None,
        lists: Lists,
        shelves: Shelves,
        rows: Rows,
    ) -> Fired:
        """The triggers of a batch. The arena does not have its rows yet. Writes consent and times to `rows`.

        seen   the decided clicks
        ended  the sessions that end
        given  (d,) the consents of these clicks, UNKNOWN where one has none; None if no click has one
        names  of these clicks
        price  (d,) of these clicks, 0 = none; None if no click has one
        lists  of these clicks
        shelves  as the catalogue has them now
        rows   (m,) the users' rows after the batch
        """
        if given is None and not self.rules:  # most batches
            return NOTHING
        moments = BatchMoments(arena, batch, track, seen, given, rows)
        if given is not None:
            write_consent(rows, track, moments.consents)
        found: list[Candidate] = []
        for rule in self.rules:
            if rule.kind == ABANDONED:
                found += self._abandoned(moments, rule, ended)
            elif rule.kind == AWAY:
                gone = away(arena, batch, track, seen, rule.after_ms, self._forgetting)
                found += _candidates(moments, rule, gone, range(len(gone.owners)))
            elif rule.kind == AFTER:
                found += self._after(moments, rule, lists)
            elif rule.kind in HOURLY:
                remembered = InBatch(arena, self._forgetting, batch, track, seen, names, price)
                for hour in hours_of(arena, batch):
                    found += self._watching(rule, remembered, hour, shelves)
        firings, times = self._fired(moments, found)
        return Fired(firings, *moments.write(times))

    def at_rest(self, arena: Arena, ended: Ended, times: Mapping[Partition, int], shelves: Shelves) -> Fired:
        """The triggers of partitions that have no clicks, while their times move on. ended: the sessions that end"""
        moments = Moments(arena)
        found: list[Candidate] = []
        for rule in self.rules:
            if rule.kind == ABANDONED:
                found += self._abandoned(moments, rule, ended)
            elif rule.kind == AWAY:
                for partition, time_ms in times.items():
                    gone = away_at_rest(arena, partition, time_ms, rule.after_ms, self._forgetting)
                    found += _candidates(moments, rule, gone, range(len(gone.owners)))
            elif rule.kind in HOURLY:
                for hour in hours_at_rest(arena, times):
                    found += self._watching(rule, AtRest(arena, self._forgetting), hour, shelves)
        firings, changed = self._fired(moments, found)
        return Fired(firings, *moments.write(changed))

    def _abandoned(self, moments: Moments, rule: Rule, ended: Ended) -> Iterator[Candidate]:
        if not ended.owners:
            return iter(())
        types, probability = ended.sessions.types, returns(ended.sessions)
        asked = types[:, self._indices(rule.has)].any(1) & ~types[:, self._indices(rule.without)].any(1)
        if rule.returns_below is not None and probability is not None:
            asked &= probability < rule.returns_below
        return _candidates(moments, rule, ended, np.flatnonzero(asked).tolist(), probability)

    def _after(self, moments: BatchMoments, rule: Rule, lists: Lists) -> Iterator[Candidate]:
        batch, track, seen = moments.batch, moments.track, moments.seen
        asked = np.isin(seen.event_type[track.by_user], self._indices(rule.events))
        for k in np.flatnonzero(asked).tolist():
            at = int(track.by_user[k])
            click, items = int(batch.decided[at]), lists.items[at, : lists.counts[at]].tolist()
            owner, time_ms = batch.owners[seen.owner[at]], int(track.seen_ms[k])
            yield Candidate(Firing(click, rule, owner, time_ms, int(seen.offset[at]), None, 0, None, items), k)

    def _watching(self, rule: Rule, remembered: AtRest, hour: Hour, shelves: Shelves) -> Iterator[Candidate]:
        if rule.kind == TRENDING:
            watching = self._trending(rule, remembered, hour, shelves)
        else:
            watching = self._price_drops(rule, remembered, hour)
        for found, one in watching:
            owner, offset = remembered.owner(found, one.at), int(found.offset[one.at])
            firing = Firing(hour.click, rule, owner, hour.time_ms, offset, None, 0, None, one.items, one.why)
            yield Candidate(firing, int(found.after[one.at]))

    def _indices(self, names: Sequence[str]) -> list[int]:
        return [self._types[name] for name in names]

    def _fired(self, moments: Moments, found: list[Candidate]) -> tuple[list[Firing], dict[Life, Times]]:
        """Those that consent and cooldown allow, in their order, and the changed times of the users."""
        firings: list[Firing] = []
        times: dict[Life, Times] = {}
        told: Counter[tuple[Partition, int, str]] = Counter()  # how many users of a partition at an hour, by a rule
        for firing, after in sorted(found, key=lambda one: one.order):
            rule, look = firing.rule, (firing.owner[0], firing.time_ms, firing.rule.name)
            if firing.why is not None and told[look] >= rule.most:  # a transaction has no room for half of the users
                continue
            if rule.consent and moments.consent(firing.owner, after) != GIVEN:
                continue
            if rule.cooldown_ms > rule.after_ms:  # else the user was away for longer than the cooldown
                life = moments.life(firing.owner, after)
                of_user = times[life] if life in times else moments.times(life)
                time_s, last_s = firing.time_ms // 1000, of_user.get(rule.hash)
                if last_s is not None and time_s - last_s < rule.cooldown_ms // 1000:
                    continue
                remember(of_user, rule.hash, time_s, self._hashes)
                times[life] = of_user
            told[look] += 1
            firings.append(firing)
        return firings, times


def _candidates(
    moments: Moments,
    rule: Rule,
    ended: Ended,
    which: Sequence[int],
    probability: npt.NDArray[np.float32] | None = None,
) -> Iterator[Candidate]:
    """The candidates of a rule at some of these sessions."""
    sessions = ended.sessions
    for i in which:
        owner, after, clicks = ended.owners[i], int(ended.after[i]), int(sessions.types[i].sum())
        firing = Firing(
            int(ended.click[i]),
            rule,
            owner,
            int(ended.minute[i]) * MINUTE_MS,
            int(sessions.offset[i]),
            int(sessions.revision[i]),
            clicks,
            None if probability is None or rule.returns_below is None else float(probability[i]),
            moments.recent(owner, after)[:clicks],
        )
        yield Candidate(firing, after)
