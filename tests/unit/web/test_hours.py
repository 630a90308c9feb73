"""The last hours that a worker has written: the sums over its partitions."""

from stream.behaviour import Behaviour
from stream.meter import Meter
from stream.web.display import Display
from stream.web.health import Health
from stream.web.hours import HOUR_MS, KEPT, LastHours

BEGIN_MS = 1_760_000_400_000


def behaviour(partition: int, hour: int, clicks: int, users: int, opened: int, **reached: int) -> Behaviour:
    """The message of a partition, so many hours after BEGIN_MS."""
    begin_ms = BEGIN_MS + hour * HOUR_MS
    id_ = f"clicks-{partition}/{begin_ms}"
    return Behaviour(id_, partition, begin_ms, clicks, users, opened, 0, {"view": clicks}, reached, {}, "tiny/1")


def test_hours_are_summed_over_the_partitions() -> None:
    """In any order of the messages; an hour without a message has zeros."""
    hours = LastHours()
    hours.add([behaviour(0, 3, 40, 7, 5, view=5, cart=2), behaviour(1, 0, 3, 2, 1)])
    hours.add([behaviour(0, 0, 10, 4, 3), behaviour(1, 3, 2, 1, 1, cart=1)])
    assert hours.shown() == {
        "time": [BEGIN_MS + hour * HOUR_MS for hour in range(4)],
        "clicks": [13, 0, 0, 42],
        "users": [6, 0, 0, 8],
        "opened": [4, 0, 0, 6],
        "partitions": 2,
        "reached": {"view": 5, "cart": 3},
    }


def test_a_day_is_kept_up_to_the_newest_hour() -> None:
    """Also where a message on an earlier hour comes afterwards."""
    hours = LastHours()
    for hour in range(KEPT + 5):
        hours.add([behaviour(0, hour, 1, 1, 1)])
    hours.add([behaviour(1, 4, 1, 1, 1), behaviour(1, 5, 1, 1, 1)])
    shown = hours.shown()
    assert shown["time"] == [BEGIN_MS + hour * HOUR_MS for hour in range(5, KEPT + 5)]
    assert shown["clicks"] == [2] + [1] * (KEPT - 1)
    hours.add([behaviour(0, 10_000, 1, 1, 1)])
    assert hours.shown()["time"] == [BEGIN_MS + 10_000 * HOUR_MS]


def test_a_worker_that_does_not_count_has_no_hours() -> None:
    """One that counts has an empty list until an hour is over."""
    assert Display(Meter(), Health()).history()["hours"] is None
    empty = Display(Meter(), Health(), hours=True).history()["hours"]
    assert empty == {"time": [], "clicks": [], "users": [], "opened": [], "partitions": 0, "reached": {}}
