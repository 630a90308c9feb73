"""Schedules in which one protection alone keeps the promise: the real code keeps it."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.kafka import schedules
from tests.kafka.lane import Lane

Schedule = Callable[[Lane], Awaitable[None]]


@pytest.mark.parametrize(
    "schedule",
    [
        schedules.woken_before_its_transaction,
        schedules.woken_before_its_records_are_sent,
        schedules.restarted_in_its_transaction,
        schedules.restarted_while_sessions_end,
        schedules.rolled_back_rows_are_in_the_changelog,
        schedules.open_transaction_before_newer_rows,
        schedules.refused_and_assigned_again,
        schedules.upstream_rolls_back,
    ],
)
def test_promise_is_kept_in_the_schedule(
    schedule: Schedule, kafka: str, name: str, model: Path, tmp_path: Path
) -> None:
    """Each click has one decision, every row is the oracle's, and no worker waits or reads rows a second time."""
    lane = Lane(kafka, name, model, tmp_path, partitions=1)
    lane.create()
    asyncio.run(schedule(lane))
