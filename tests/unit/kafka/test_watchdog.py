"""The log lines about a consumer group with a problem: enough to act on, and not too many."""

import logging
import time

from aiokafka.errors import GroupCoordinatorNotAvailableError, NodeNotReadyError

from stream.kafka.watchdog import NO_COORDINATOR, REBALANCES_PER_MINUTE, NoCoordinatorYet, Rebalances, Repeats


def test_a_group_that_keeps_rebalancing_is_noticed() -> None:
    """More rebalances in a minute than a rolling restart causes are too many; over a longer time they are not."""
    quick, slow = Rebalances(), Rebalances()
    assert [quick.note(float(at)) for at in range(REBALANCES_PER_MINUTE + 1)] == [False] * REBALANCES_PER_MINUTE + [
        True
    ]
    assert not any(slow.note(at * 30.0) for at in range(20))


def record(name: str, message: str, at_s: float, *arguments: object) -> logging.LogRecord:
    made = logging.LogRecord(name, logging.ERROR, "", 0, message, arguments, None)
    made.created = at_s
    return made


def test_a_missing_coordinator_is_an_error_only_after_the_grace_time() -> None:
    """For the first group of a cluster it is an INFO line. Later, or for a different reason, it is an error."""
    began, missing = time.time(), GroupCoordinatorNotAvailableError()
    lower = NoCoordinatorYet(grace_s=30.0)
    lines = [
        record("aiokafka", NO_COORDINATOR, began + 1, missing),
        record("aiokafka", NO_COORDINATOR, began + 60, missing),
        record("aiokafka", NO_COORDINATOR, began + 1, NodeNotReadyError()),
        record("aiokafka", "something else: %s", began + 1, missing),
    ]
    assert all(map(lower.filter, lines))
    assert [line.levelname for line in lines] == ["INFO", "ERROR", "ERROR", "ERROR"]
    assert "GroupCoordinatorNotAvailable" in lines[0].getMessage()


def test_repeated_library_messages_come_once_in_ten_seconds() -> None:
    """A lost broker is logged at intervals, and Eddy's own lines are never suppressed."""
    repeats = Repeats("aiokafka", 10.0)
    assert repeats.filter(record("aiokafka.conn", "gone", 1.0))
    assert not repeats.filter(record("aiokafka.conn", "gone", 2.0))
    assert repeats.filter(record("aiokafka.conn", "back", 2.0))
    assert repeats.filter(record("aiokafka.conn", "gone", 12.0))
    assert all(repeats.filter(record("stream.worker.cycle", "same", 1.0)) for _ in range(3))
