"""Each protection that needs a real Kafka is taken out of the code, and its schedule fails."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from stream.kafka import changelog
from stream.worker.cycles import recovery
from tests.kafka import schedules
from tests.kafka.lane import Lane
from tests.protocol.mutant import Mutant, applied

Schedule = Callable[[Lane], Awaitable[None]]

DELIVERY, CHANGELOG = "stream.kafka.delivery:Delivery.", "stream.kafka.changelog:Changelog."
READS = """            found = wait(self._changelog.positions, partitions)  # 4
            first = first or found
            marks = wait(partial(self._read, assignment), partitions)  # 5
"""
READS_ROWS_FIRST = """            marks = wait(partial(self._read, assignment), partitions)
            found = wait(self._changelog.positions, partitions)
            first = first or found
"""

MUTANTS: dict[str, tuple[Mutant, Schedule, str]] = {
    "generation": (
        Mutant(
            "stream.kafka.delivery:group_metadata",
            'struct.pack("=i", generation) + group.encode() + b"\\0" + member_id.encode()',
            'struct.pack("=i", -1) + group.encode() + b"\\0"',
        ),
        schedules.woken_before_its_transaction,
        "came twice",
    ),
    "stable offsets": (
        Mutant(f"{CHANGELOG}committed", '"read_committed"', '"read_uncommitted"'),
        schedules.woken_before_its_records_are_sent,
        "came twice|all rows were read a second time",  # a read that a busy broker fails is repeated, too
    ),
    "order": (
        Mutant("stream.worker.cycles.recovery:Recovery._restore", READS, READS_ROWS_FIRST),
        schedules.woken_before_its_records_are_sent,
        "all rows were read a second time",
    ),
    "fence": (
        Mutant(f"{DELIVERY}__init__", '"transactional.id": transactional_id', '"transactional.id": str(id(self))'),
        schedules.restarted_in_its_transaction,
        "waits for the transaction of its dead process",
    ),
    "committed rows": (
        Mutant(f"{CHANGELOG}_read", '"read_committed"', '"read_uncommitted"'),
        schedules.rolled_back_rows_are_in_the_changelog,
        "no committed offset",
    ),
    "high watermark": (
        Mutant(f"{CHANGELOG}ends", '"read_uncommitted"', '"read_committed"'),
        schedules.open_transaction_before_newer_rows,
        "all rows were read a second time|without history",
    ),
    "staged rows": (
        Mutant(
            "stream.worker.cycles.writing:Writer.write",
            "        while left:\n",
            "        await self._thread.run(self._engine.commit, batch.cycle)\n        while left:\n",
        ),
        schedules.refused_and_assigned_again,
        "rows in memory were not kept",
    ),
    "roll-back": (
        Mutant(f"{DELIVERY}_roll_back", "self._until_known(producer, producer.abort_transaction, CALL_S)", "pass"),
        schedules.refused_and_assigned_again,
        "could not be read to its end",  # it waits for its own transaction
    ),
    "refused for good": (
        Mutant(f"{DELIVERY}_roll_back", "return Outcome.STALE if", "return Outcome.ROLLED_BACK if"),
        schedules.refused_and_assigned_again,
        "rolled back 10 times",
    ),
    "committed clicks": (
        Mutant(
            "stream.kafka.consumer.fetch:FetchThread._create_worker_consumer", '"read_committed"', '"read_uncommitted"'
        ),
        schedules.upstream_rolls_back,
        "rolled back",
    ),
}


@pytest.mark.parametrize("protection", MUTANTS)
def test_without_the_protection_its_schedule_fails(
    protection: str, kafka: str, name: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the protection is needed although all others are there, and no change can lose it unseen."""
    mutant, schedule, how = MUTANTS[protection]
    monkeypatch.setattr(recovery, "AGREE_TRIES", 5)
    monkeypatch.setattr(recovery, "AGREE_PAUSE_S", 0.02)
    monkeypatch.setattr(changelog, "STABLE_S", 15.0)
    monkeypatch.setattr(changelog, "CALL_S", 30.0)  # a broker on a busy machine: a call that fails is a second reading
    lane = Lane(kafka, name, model, tmp_path, partitions=1)
    lane.create()
    with applied(mutant), pytest.raises(Exception, match=how):
        asyncio.run(schedule(lane))
