"""The warning about clicks that wait behind an open transaction of another application."""

from stream.events import Partition
from stream.kafka.consumer.held import HELD_S, REPEAT_S, HeldBack
from stream.kafka.consumer.offsets import Held

FIRST, SECOND = (Partition("clicks", number) for number in range(2))


def test_a_transaction_that_stays_open_is_reported_once_in_five_minutes() -> None:
    """The line names the partition that waits longest, and how many clicks of all such partitions wait."""
    back, lines = HeldBack(), dict[float, str]()
    for now_s in range(0, int(HELD_S + REPEAT_S), 10):
        line = back.line(now_s, {FIRST: Held(7, 10), SECOND: Held(3, 5)} if now_s else {FIRST: Held(7, 1)})
        if line is not None:
            lines[now_s] = line
    assert list(lines) == [HELD_S]
    assert "partitions=1 waiting=10 longest=clicks-0 offset=7 waited_s=120; " in lines[HELD_S]
    again = back.line(HELD_S + REPEAT_S, {FIRST: Held(7, 10), SECOND: Held(3, 5)})
    assert again is not None
    assert "partitions=2 waiting=15 longest=clicks-0 " in again


def test_transactions_that_end_are_no_warning() -> None:
    """An application that writes in one transaction after another: clicks wait at every look, never at one offset."""
    back = HeldBack()
    assert [back.line(10.0 * n, {FIRST: Held(n, 1)}) for n in range(100)] == [None] * 100
    assert back.line(1_000.0, {}) is None
    assert back.line(1_000.0 + HELD_S, {FIRST: Held(99, 1)}) is None
