"""The rules of a shop for marketing: for whom a trigger is written, when, and for whom it must not be acted on."""

import hashlib
from datetime import datetime, timedelta, timezone, tzinfo
from typing import NamedTuple
from zoneinfo import ZoneInfo

from msgspec import Struct

from stream.trigger import CONTROL, TREATED

ABANDONED, AWAY, AFTER, TRENDING, PRICE_DROP = "abandoned", "away", "after", "trending", "price_drop"
KINDS = (ABANDONED, AWAY, AFTER, TRENDING, PRICE_DROP)
HOURLY = (TRENDING, PRICE_DROP)
"""Kinds of rules about a full hour: they look at the remembered clicks of all users of a partition."""

ITEM, CATEGORY = "item", "category"
TARGETS = (ITEM, CATEGORY)
"""What can trend."""

UTC = timezone.utc  # noqa: UP017  zoneinfo and this are both of datetime's timezones
HOUR_MS, DAY_MS = 3_600_000, 86_400_000


class Quiet(NamedTuple):
    """The hours of a day in which a trigger is not acted on.

    begin, end  minutes since midnight. The end may be on the next day
    zone        of the shop's customers, such as Europe/Berlin
    """

    begin: int
    end: int
    zone: str

    def not_before(self, time_ms: int) -> int | None:
        """When the quiet hours end in which a time is, ms since the epoch; None if it is in none.

        Of two moments with the same time on the clock, in autumn, the end is the first one.
        """
        zone: tzinfo = ZoneInfo(self.zone)
        local = datetime.fromtimestamp(time_ms / 1000, zone)
        minute = local.hour * 60 + local.minute
        overnight = self.begin > self.end
        inside = minute >= self.begin or minute < self.end if overnight else self.begin <= minute < self.end
        if not inside:
            return None
        day = local.date() + timedelta(days=int(overnight and minute >= self.begin))
        end = datetime(day.year, day.month, day.day, self.end // 60, self.end % 60, tzinfo=zone)
        return max(int(end.timestamp() * 1000), time_ms)

    def __str__(self) -> str:
        return f"{_clock(self.begin)} to {_clock(self.end)} in {self.zone}"


class Rule(Struct, frozen=True):
    """One rule of the file.

    name           unique in the file; it is in the ids of the triggers, and a row keeps the time of the last one by it
    kind           one of KINDS
    has, without   abandoned: the session has events of one of these types, and none of those. HOURLY: only users
                   without a remembered click of one of the types `without` on it
    returns_below  abandoned: only if the model's probability that the user returns is below this; None = always
    after_ms       away: time without a click of the user
    events         after: a click with one of these types. HOURLY: only clicks of these types count; none = all
    cooldown_ms    time after a trigger of the user and the rule in which there is no other one
    quiet          None = no quiet hours
    consent        only users whose last known consent is true
    control        share of the users who are held out
    outcome        for the report: the event type that the trigger is to cause
    window_ms      for the report: time after the trigger in which it counts
    of             trending: one of TARGETS
    over_ms        HOURLY: the time before the hour with which the hour is compared
    least          HOURLY: users in the hour, at least so many; price_drop: of an item
    times          trending: its share of the hour is at least so many times that of the time before
    significance   trending: largest p-value, over all items or categories together
    most           HOURLY: triggers of a partition at an hour, at most so many
    drop           price_drop: the price has fallen by at least this share of what it was
    """

    name: str
    kind: str
    has: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    returns_below: float | None = None
    after_ms: int = 0
    events: tuple[str, ...] = ()
    cooldown_ms: int = 0
    quiet: Quiet | None = None
    consent: bool = False
    control: float = 0.0
    outcome: str = "purchase"
    window_ms: int = 7 * DAY_MS
    of: str = ITEM
    over_ms: int = DAY_MS
    least: int = 20
    times: float = 2.0
    significance: float = 0.001
    most: int = 10_000
    drop: float = 0.05

    @property
    def hash(self) -> int:
        """32 bits of the name, never 0: a row has them instead of the name."""
        return int.from_bytes(hashlib.sha256(self.name.encode()).digest()[:4], "little") or 1

    def group(self, user: bytes) -> str:
        """The group of a user, always the same one: the hash of rule and user decides. user: the id in UTF-8"""
        digest = hashlib.sha256(self.name.encode() + b"\0" + user).digest()
        return CONTROL if int.from_bytes(digest[:8], "little") < self.control * 2.0**64 else TREATED

    def in_words(self) -> str:
        """What the rule does, as sentences."""
        parts = [self._when()]
        if self.cooldown_ms:
            parts.append(f"At most once in {duration(self.cooldown_ms)} for each user.")
        if self.consent:
            parts.append("Only users whose last known consent is true.")
        if self.quiet is not None:
            parts.append(f"Not to be acted on from {self.quiet}.")
        if self.control:
            parts.append(f"{self.control:.3g} of the users are the control group, for whom nothing may be done.")
        parts.append(f"The report counts a session with {self.outcome} within {duration(self.window_ms)}.")
        return " ".join(parts)

    def _when(self) -> str:
        if self.kind == AWAY:
            return f"When a user has not clicked for {duration(self.after_ms)}, at the next full hour."
        if self.kind == AFTER:
            return f"With a click of the type {' or '.join(self.events)}, with the list of its decision."
        if self.kind == TRENDING:
            return self._when_trending()
        if self.kind == PRICE_DROP:
            return self._when_price_drop()
        none = f", and none of the type {' or '.join(self.without)}" if self.without else ""
        returns = "" if self.returns_below is None else f", and the user returns with less than {self.returns_below:g}"
        return f"When a session ends that has a click of the type {' or '.join(self.has)}{none}{returns}."

    def _when_price_drop(self) -> str:
        of_type, without = self._counting()
        return (
            f"At a full hour, when an item costs at least {100 * self.drop:.3g} % less than at the user's last click "
            f"on it, which is in the {duration(self.over_ms)} before the hour and not in it{without}. The price is "
            f"the median of the users{of_type} in the hour, at least {self.least}. At most {self.most:,} users of a "
            "partition at an hour."
        )

    def _counting(self) -> tuple[str, str]:
        """Which clicks count at a full hour, and which users are left out."""
        return (
            f" with {' or '.join(self.events)}" if self.events else "",
            f", and the user has no {' or '.join(self.without)} of it" if self.without else "",
        )

    def _when_trending(self) -> str:
        article = "an" if self.of == ITEM else "a"
        of_type, without = self._counting()
        return (
            f"At a full hour, when {article} {self.of} trends that the user has clicked in the "
            f"{duration(self.over_ms)} before the hour and not in it{without}: at least {self.least} users{of_type} in "
            f"the hour, at least {self.times:g} times its share before, and a p-value of at most "
            f"{self.significance:g} over all of them. At most {self.most:,} users of a partition at an hour."
        )


def duration(ms: int) -> str:
    """A time as the file has it: "3d", "12h", "30m", "45s"."""
    for unit, size in (("d", DAY_MS), ("h", HOUR_MS), ("m", 60_000)):
        if ms % size == 0 and ms:
            return f"{ms // size}{unit}"
    return f"{ms // 1000}s"


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"
