"""Recovery uses only offsets and rows that agree, and reading continues exactly there."""

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import KafkaError, KafkaException

from stream.errors import ConfigError
from stream.events import Partition
from stream.kafka.changelog import Mark, Position
from stream.kafka.waiting import NoWatch
from stream.model.runtime import load_model
from stream.settings import Topics
from stream.state.checksum import checksums
from stream.state.row import new_rows
from stream.wire.json import JsonCodec
from stream.worker.cycles import recovery
from stream.worker.cycles.cycle import Cycles
from stream.worker.cycles.recovery import Recovery
from stream.worker.cycles.size import CycleSize
from stream.worker.served import open_engine
from tests.unit.worker.recovered import CLICKS_0, Changelog, Delivery, recovered


def test_offset_and_rows_that_differ_are_read_again_until_they_agree(model_dir: Path) -> None:
    """A worker that was frozen between reading offsets and rows uses neither, so no click is repeated or skipped."""
    cycles = recovered(model_dir, (Position(1513, 1513), 3471), (Position(3471, 3471), 3471))
    assert cycles.positions() == {CLICKS_0: 3471}


def test_offset_that_keeps_moving_leaves_nothing_assigned(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a different worker commits meanwhile, there is no error: this worker waits for new partitions."""
    monkeypatch.setattr(recovery, "AGREE_PAUSE_S", 0.0)
    cycles = recovered(model_dir, *[(Position(at, at), at + 1) for at in range(100)])
    assert cycles.positions() == {}
    with pytest.raises(TimeoutError):
        cycles.check_rejoined(-1.0)
    cycles.release()  # a rebalance has begun, in which the group may wait for the cycle of another member
    cycles.check_rejoined(-1.0)


@pytest.mark.parametrize(
    ("committed", "stands", "fragment"),
    [(None, 7, "no committed offset"), (7, None, "without history"), (7, 9, "offsets were reset"), (9, 7, "older one")],
)
def test_offset_and_rows_that_never_agree_are_refused(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, committed: int | None, stands: int | None, fragment: str
) -> None:
    """Rows of a different group, an empty changelog, reset offsets and an old changelog each end the worker."""
    monkeypatch.setattr(recovery, "AGREE_PAUSE_S", 0.0)
    with pytest.raises(ConfigError, match=fragment):
        recovered(model_dir, (Position(committed, committed or 0), stands))


@pytest.mark.parametrize(
    ("position", "stands", "next_offset"),
    [(Position(None, 0), None, 0), (Position(None, 40), None, 40), (Position(7, 7), 7, 7)],
)
def test_reading_continues_at_the_recovered_offset(
    model_dir: Path, position: Position, stands: int | None, next_offset: int
) -> None:
    """The next offset is the committed one, or the first of the partition if none is committed."""
    assert recovered(model_dir, (position, stands)).positions() == {CLICKS_0: next_offset}


class Ends(Changelog):
    """A changelog of one row per read. Its end has `mark`, and the group is at `committed`."""

    def __init__(self, row: bytes) -> None:
        super().__init__((Position(5, 5), 5))
        self.row, self.mark, self.committed = row, Mark(5, 1, int.from_bytes(row[:8], "little")), 5
        self.reads = 0

    def positions(self, partitions: Sequence[Partition]) -> dict[Partition, Position]:
        return dict.fromkeys(partitions, Position(self.committed, self.committed))

    def marks(self, partitions: Sequence[Partition]) -> dict[Partition, Mark]:
        return dict.fromkeys(partitions, self.mark)

    def read(self, partitions: Sequence[Partition], take: Any) -> dict[Partition, Mark]:
        self.reads += 1
        for partition in partitions:
            take(partition, {b"user": self.row})
        return dict.fromkeys(partitions, self.mark)


@pytest.mark.parametrize(
    ("mark", "committed", "kept"),
    [({}, 5, 1), ({"next": 6}, 6, 0), ({"users": 2}, 5, 0), ({"checksum": 1}, 5, 0), ({}, 6, 0)],
    ids=["unchanged", "later offset", "other users", "other rows", "other group offset"],
)
def test_partition_is_kept_only_if_changelog_and_group_are_where_memory_is(
    model_dir: Path, mark: dict[str, int], committed: int, kept: int
) -> None:
    """A worker that was frozen has old rows: they are not used if the changelog or the group has moved meanwhile."""
    engine = open_engine(load_model(model_dir, "cpu"), model_dir, 20, 1, 0.001)
    rows = new_rows(1, engine.arena.dtype, engine.arena.model)
    rows["checksum"] = checksums([b"user"], rows)
    changelog = Ends(rows.tobytes())
    delivery: Any = Delivery()
    ends: Any = changelog

    async def rebalances() -> int:
        recovery = Recovery(delivery, ends, engine.arena, ThreadPoolExecutor(1), NoWatch())
        await recovery.read(await recovery.keep([CLICKS_0], 1, b""), [CLICKS_0])
        changelog.mark, changelog.committed = changelog.mark._replace(**mark), committed
        return len((await recovery.keep([CLICKS_0], 2, b"")).next)

    assert asyncio.run(rebalances()) == kept
    assert changelog.reads == 1


class Torn(Changelog):
    """A row that is newer than its mark: the end of the changelog was read in the middle of a transaction."""

    def __init__(self, row: bytes, after: int) -> None:
        super().__init__((Position(5, 5), 5))
        self.row, self.after = row, Position(after, after)

    def read(self, partitions: Sequence[Partition], take: Any) -> dict[Partition, Mark]:
        self._answers = [(self.after, 5)]
        for partition in partitions:
            take(partition, {b"user": self.row})
        return dict.fromkeys(partitions, Mark(5, 1, 1))


@pytest.mark.parametrize(("after", "lost"), [(5, True), (6, False)])
def test_rows_read_in_the_middle_of_another_workers_transaction_are_not_lost_rows(
    model_dir: Path, after: int, lost: bool
) -> None:
    """A worker that was frozen in its recovery waits for new partitions. Only rows at the group's offset are an
    error."""
    engine = open_engine(load_model(model_dir, "cpu"), model_dir, 20, 1, 0.001)
    rows = new_rows(1, engine.arena.dtype, engine.arena.model)
    rows["checksum"] = checksums([b"user"], rows)
    stubs: Any = (Delivery(), Torn(rows.tobytes(), after))

    async def recover() -> object:
        recovery = Recovery(*stubs, engine.arena, ThreadPoolExecutor(1), NoWatch())
        return await recovery.read(await recovery.keep([CLICKS_0], 1, b""), [CLICKS_0])

    if lost:
        with pytest.raises(ConfigError, match="lost or changed rows"):
            asyncio.run(recover())
    else:
        assert asyncio.run(recover()) is None


class Broken(Changelog):
    """Two rows, one of them with a changed bit, and the mark of the two that were written."""

    def __init__(self, rows: dict[bytes, bytes]) -> None:
        super().__init__((Position(5, 5), 5))
        self.mark = Mark(5, len(rows), sum(int.from_bytes(row[:8], "little") for row in rows.values()) % 2**64)
        self.rows = {**rows, b"b": rows[b"b"][:-1] + bytes([rows[b"b"][-1] ^ 1])}

    def read(self, partitions: Sequence[Partition], take: Any) -> dict[Partition, Mark]:
        for partition in partitions:
            take(partition, self.rows)
        return dict.fromkeys(partitions, self.mark)


def test_broken_row_costs_its_user_the_history_and_nobody_else(
    model_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The worker continues with the other rows and reports one broken row."""
    engine = open_engine(load_model(model_dir, "cpu"), model_dir, 20, 1, 0.001)
    rows = new_rows(2, engine.arena.dtype, engine.arena.model)
    rows["checksum"] = checksums([b"a", b"b"], rows)
    stubs: Any = (Delivery(), Broken({b"a": rows[:1].tobytes(), b"b": rows[1:].tobytes()}))

    async def recover() -> None:
        recovery = Recovery(*stubs, engine.arena, ThreadPoolExecutor(1), NoWatch())
        await recovery.read(await recovery.keep([CLICKS_0], 1, b""), [CLICKS_0])

    asyncio.run(recover())
    assert list(engine.arena.rows(CLICKS_0)) == [b"a"]
    assert [r.message for r in caplog.records if "rows=1" in r.message and r.levelname == "ERROR"]


class Held(Changelog):
    """A changelog that gives one row when it is released."""

    def __init__(self, row: tuple[bytes, bytes]) -> None:
        super().__init__((Position(1, 1), 1))
        self.reading, self.released = threading.Event(), threading.Event()
        self._row = row
        self.broken_off = False

    def marks(self, partitions: Sequence[Partition]) -> dict[Partition, Mark]:
        return {}

    def read(self, partitions: Sequence[Partition], take: Any) -> dict[Partition, Mark]:
        self.reading.set()
        assert self.released.wait(10)
        if self.broken_off:
            raise KafkaException(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))
        for partition in partitions:
            take(partition, dict([self._row]))
        return {partition: Mark(1, 1, int.from_bytes(self._row[1][:8], "little")) for partition in partitions}


def test_rows_of_an_assignment_that_is_over_do_not_reach_memory(model_dir: Path) -> None:
    """A rebalance while a partition is read: the old reading stops, and the new one has the partition to itself."""
    engine = open_engine(load_model(model_dir, "cpu"), model_dir, 20, 1, 0.001)
    rows = new_rows(1, engine.arena.dtype, engine.arena.model)
    rows["checksum"] = checksums([b"user"], rows)
    changelog = Held((b"user", rows.tobytes()))
    delivery: Any = Delivery()
    held: Any = changelog

    async def rebalance() -> None:
        recovery = Recovery(delivery, held, engine.arena, ThreadPoolExecutor(1), NoWatch())
        old = asyncio.create_task(recovery.read(await recovery.keep([CLICKS_0], 1, b""), [CLICKS_0]))
        await asyncio.to_thread(changelog.reading.wait, 10)
        new = await recovery.keep([CLICKS_0], 2, b"")
        changelog.released.set()
        assert await old is None
        assert len(engine.arena) == 0
        assert await recovery.read(new, [CLICKS_0]) == new.next == {CLICKS_0: 1}
        assert list(engine.arena.rows(CLICKS_0)) == [b"user"]

    asyncio.run(rebalance())


def test_rows_that_are_read_when_the_partitions_are_revoked_move_no_fetcher(model_dir: Path) -> None:
    """The partition may have another owner already: there is no offset to seek."""
    engine = open_engine(load_model(model_dir, "cpu"), model_dir, 20, 1, 0.001)
    rows = new_rows(1, engine.arena.dtype, engine.arena.model)
    rows["checksum"] = checksums([b"user"], rows)
    changelog = Held((b"user", rows.tobytes()))
    limits = dict.fromkeys(msgspec.structs.astuple(Topics()), 1_000_000)
    stubs: Any = (Delivery(), changelog)
    cycles = Cycles(engine, JsonCodec(65_536, 1), *stubs, Topics(), limits, CycleSize(1_000, 10.0))

    async def revoke() -> None:
        reading = asyncio.create_task(cycles.read(await cycles.recover([CLICKS_0], 1, b""), [CLICKS_0]))
        await asyncio.to_thread(changelog.reading.wait, 10)
        cycles.release()
        changelog.released.set()
        assert await reading == {}

    asyncio.run(revoke())


def test_error_of_a_reading_that_is_over_does_not_end_the_worker(model_dir: Path) -> None:
    """What fails for an assignment that was replaced meanwhile is nobody's error any more."""
    engine = open_engine(load_model(model_dir, "cpu"), model_dir, 20, 1, 0.001)
    changelog = Held((b"user", b""))
    changelog.broken_off = True
    delivery: Any = Delivery()
    held: Any = changelog

    async def rebalance() -> None:
        recovery = Recovery(delivery, held, engine.arena, ThreadPoolExecutor(1), NoWatch())
        old = asyncio.create_task(recovery.read(await recovery.keep([CLICKS_0], 1, b""), [CLICKS_0]))
        await asyncio.to_thread(changelog.reading.wait, 10)
        await recovery.keep([], 2, b"")
        changelog.released.set()
        assert await old is None

    asyncio.run(rebalance())
