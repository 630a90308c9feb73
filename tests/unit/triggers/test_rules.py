"""Quiet hours, control groups, and what a row has room for."""

from datetime import UTC, datetime

import pytest

from stream.trigger import CONTROL
from stream.triggers.memory import remember
from stream.triggers.rules import Quiet, Rule

NIGHT = Quiet(21 * 60, 8 * 60, "Europe/Berlin")
NOON = Quiet(12 * 60, 13 * 60 + 30, "UTC")


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("quiet", "at", "end"),
    [
        (NIGHT, "2026-01-10T19:59:59", None),  # 20:59:59 in Berlin
        (NIGHT, "2026-01-10T20:00:00", "2026-01-11T07:00:00"),
        (NIGHT, "2026-01-11T06:59:59", "2026-01-11T07:00:00"),
        (NIGHT, "2026-01-11T07:00:00", None),
        (NIGHT, "2026-07-10T19:00:00", "2026-07-11T06:00:00"),  # in summer it is UTC + 2
        (NIGHT, "2026-03-28T21:00:00", "2026-03-29T06:00:00"),  # the night has an hour less
        (NIGHT, "2026-10-24T21:00:00", "2026-10-25T07:00:00"),  # and here an hour more
        (NOON, "2026-01-10T12:00:00", "2026-01-10T13:30:00"),
        (NOON, "2026-01-10T13:30:00", None),
        (NOON, "2026-01-10T11:59:59", None),
        # the clock goes from 02:00 to 03:00, so 02:30 never comes: it is half an hour after 02:00
        (Quiet(60, 150, "Europe/Berlin"), "2026-03-29T00:30:00", "2026-03-29T01:30:00"),
    ],
)
def test_a_trigger_in_quiet_hours_waits_for_their_end(quiet: Quiet, at: str, end: str | None) -> None:
    """By the clock of the shop's customers, with its changes in spring and autumn."""
    assert quiet.not_before(ms(at)) == (None if end is None else ms(end))


def test_the_control_group_has_its_share_and_stays_the_same() -> None:
    """It depends on the user and the rule's name, so the users held out by one rule are not those of another."""
    users = [f"user{n}".encode() for n in range(20_000)]
    one, other = (Rule(name, "away", control=0.1) for name in ("one", "other"))
    held = [{user for user in users if rule.group(user) == CONTROL} for rule in (one, other)]
    assert all(0.09 < len(users_) / len(users) < 0.11 for users_ in held)
    assert 0.07 < len(held[0] & held[1]) / len(held[0]) < 0.13
    assert held[0] == {user for user in users if Rule("one", "after", control=0.1).group(user) == CONTROL}
    assert not any(Rule("one", "away").group(user) == CONTROL for user in users)


def test_the_oldest_time_of_a_removed_rule_makes_place() -> None:
    """Those of rules in the file are kept, however old."""
    times = {rule: 100 + rule for rule in range(1, 9)}
    remember(times, 9, 200, rules={1, 2, 9})
    assert set(times) == {1, 2, 4, 5, 6, 7, 8, 9}
    remember(times, 9, 300, rules={1, 2, 9})
    assert times[9] == 300
    assert len(times) == 8
