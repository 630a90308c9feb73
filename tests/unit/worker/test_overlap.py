"""A worker that is behind processes a batch while the one before is written. Nobody sees a difference but in time."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from stream.answers.users import Users
from stream.events import Partition
from stream.kafka.changelog import POSITION_KEY, Mark, Position
from stream.kafka.consumer.fetch import Chunk, Fetch
from stream.kafka.delivery import Outcome, Record
from stream.kafka.leaders import Targets
from stream.model.runtime import load_model
from stream.settings import Topics
from stream.wire.json import JsonCodec
from stream.worker.cycles import cycle, writing
from stream.worker.cycles.cycle import Cycles
from stream.worker.cycles.size import CycleSize
from stream.worker.served import open_engine
from tests.unit.worker.recovered import CLICKS_0

NOW_MS = 1_700_000_000_000
CLICKS, FETCHED = 24, 4
TOPICS = Topics()
LIMIT_S, SOON_S = 30, 5

Answer = Callable[[int], Awaitable[Outcome]]
"""The number of a transaction, counted from 0 -> its outcome."""


async def committed(number: int) -> Outcome:
    return Outcome.COMMITTED


class Kafka:
    """One partition of the clicks, its changelog and the group's offset: what is committed, and what is tried.

    answer   says how each transaction ends; it may wait
    tried    the records of each transaction
    written  the records of the committed ones
    """

    group, topic = "shop", "changelog"
    targets = Targets()
    seconds: Mapping[str, float] = {}

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._busy = False
        self.tried: list[list[Record]] = []
        self.written: list[Record] = []
        self.next, self.reads = 0, 0
        self.mark = Mark(0, 0, 0)

    async def start(self) -> None:
        return None

    async def commit(self, records: list[Record], offsets: Mapping[Partition, int], *others: object) -> Outcome:
        assert not self._busy, "two transactions at once"
        self.tried.append(records)
        self._busy = True
        outcome = await self._answer(len(self.tried) - 1)
        self._busy = False
        if outcome is Outcome.COMMITTED:
            self.commits(records, offsets[CLICKS_0])
        return outcome

    def commits(self, records: list[Record], offset: int) -> None:
        self.written += records
        self.next = offset
        self.mark = Mark.decode(records[-1].value or b"", CLICKS_0)

    def positions(self, partitions: Sequence[Partition]) -> dict[Partition, Position]:
        return {CLICKS_0: Position(self.next, self.next)}

    def marks(self, partitions: Sequence[Partition]) -> dict[Partition, Mark]:
        return {CLICKS_0: self.mark}

    def read(self, partitions: Sequence[Partition], take: Any) -> dict[Partition, Mark]:
        self.reads += 1
        rows = {r.key: r.value for r in self.written if r.topic == TOPICS.changelog and r.key != POSITION_KEY}
        take(CLICKS_0, rows)
        return {CLICKS_0: self.mark}


class Worker:
    """The cycles of a worker on such a Kafka, with a backlog of clicks of three users."""

    def __init__(self, model_dir: Path, answer: Answer = committed, most: int = FETCHED) -> None:
        self.kafka: Any = Kafka(answer)
        self.engine = open_engine(load_model(model_dir, "cpu"), model_dir, 5, 1, 0.001)
        limits = dict.fromkeys(msgspec.structs.astuple(TOPICS), 1_000_000)
        codec = JsonCodec(65_536, 1)
        self.cycles = Cycles(
            self.engine, codec, self.kafka, self.kafka, TOPICS, limits, CycleSize(most, 10.0), lambda: NOW_MS
        )
        self.acked: list[int] = []

    async def take_over(self, generation: int) -> Mapping[Partition, int]:
        """Begin an assignment. Returns the partitions that were kept."""
        assignment = await self.cycles.recover([CLICKS_0], generation, b"member")
        kept = dict(assignment.next)
        await self.cycles.read(assignment, [CLICKS_0])
        return kept

    def offer(self, begin: int, generation: int = 1) -> None:
        records = [_message(offset) for offset in range(begin, begin + FETCHED)]
        chunk = Chunk(CLICKS_0, generation, begin, begin + FETCHED, 0, records, 100)
        acked = self.acked.append
        self.cycles.offer(SimpleNamespace(value=Fetch([chunk], FETCHED, 100), ack=lambda: acked(begin)))

    async def until(self, reached: Callable[[], bool], cancel: bool = True) -> None:
        """Let the cycles run until it is so. Without `cancel` they go on."""
        running = asyncio.create_task(self.cycles.run())
        async with asyncio.timeout(LIMIT_S):
            while not reached():
                await asyncio.sleep(0.001)
                if running.done():
                    running.result()
            while cancel and not running.done():  # before Python 3.12, `wait_for` may swallow a cancellation
                running.cancel()
                await asyncio.sleep(0.001)

    async def close(self) -> None:
        await self.cycles.close()

    def rows(self) -> Mapping[bytes, bytes]:
        return self.engine.arena.rows(CLICKS_0)


def _message(offset: int) -> SimpleNamespace:
    user, item = "abc"[offset % 3], f"i{offset % 7 + 1}"
    value = msgspec.json.encode({"user_id": user, "item_id": item, "timestamp": NOW_MS - 100_000 + offset * 1_000})
    return SimpleNamespace(offset=offset, key=user.encode(), value=value, timestamp=NOW_MS, headers=())


async def offer_all(worker: Worker) -> None:
    """Let a worker have all clicks, until it is done with them."""
    await worker.take_over(1)
    for begin in range(0, CLICKS, FETCHED):
        worker.offer(begin)
    await worker.until(lambda: len(worker.acked) == CLICKS // FETCHED)


async def decide_all(worker: Worker) -> None:
    await offer_all(worker)
    await worker.close()


def one_at_a_time(model_dir: Path) -> Worker:
    """What a worker writes that has never two batches at work."""
    worker = Worker(model_dir)
    asyncio.run(decide_all(worker))
    return worker


async def until_overlapping(worker: Worker) -> None:
    """Wait until rows of the batch that is being written are in place. Fails if the worker waits, too."""
    async with asyncio.timeout(SOON_S):
        while worker.cycles._writing is None or not worker.cycles._writing.early:
            assert worker.cycles._arrived.is_set(), "the worker waits for the transaction, though it is behind"
            await asyncio.sleep(0.001)


def refused_second(model_dir: Path) -> Worker:
    """The group refuses its second transaction, while the third batch is processed."""

    async def answer(number: int) -> Outcome:
        if number == 1:
            await until_overlapping(worker)
            return Outcome.STALE
        return Outcome.COMMITTED

    worker = Worker(model_dir, answer)
    return worker


@pytest.mark.parametrize("roll_back", [False, True])
def test_overlapping_batches_write_the_same_records_in_the_same_order(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, roll_back: bool
) -> None:
    """Byte for byte, and each once, also if a transaction is rolled back and tried again."""
    want = one_at_a_time(model_dir)
    monkeypatch.setattr(cycle, "BEHIND", 1)
    overlapped = 0

    async def answer(number: int) -> Outcome:
        nonlocal overlapped
        if number < 3:  # each of these is written while the next batch is processed
            await until_overlapping(worker)
            overlapped += 1
        return Outcome.ROLLED_BACK if roll_back and number == 1 else Outcome.COMMITTED

    worker = Worker(model_dir, answer)
    asyncio.run(decide_all(worker))
    assert overlapped == 3
    assert worker.kafka.written == want.kafka.written
    assert worker.rows() == want.rows()
    assert worker.acked == want.acked


def test_a_batch_on_rows_that_were_not_committed_is_dropped_and_the_rows_are_read_again(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The group refuses the second transaction, while the third batch is processed on its rows. The next assignment
    begins with the rows of the changelog, and all clicks are decided as if nothing had happened."""
    want = one_at_a_time(model_dir)
    monkeypatch.setattr(cycle, "BEHIND", 1)

    worker = refused_second(model_dir)

    async def refused() -> None:
        await offer_all(worker)
        assert (len(worker.kafka.tried), worker.kafka.next) == (2, FETCHED), "a batch was written on a refused one"
        assert worker.cycles.positions() == {}
        assert await worker.take_over(2) == {}, "rows that Kafka does not have were kept"
        for begin in range(FETCHED, CLICKS, FETCHED):
            worker.offer(begin, generation=2)
        worker.acked.clear()
        await worker.until(lambda: len(worker.acked) == CLICKS // FETCHED - 1)
        await worker.close()

    asyncio.run(refused())
    assert worker.kafka.written == want.kafka.written
    assert worker.rows() == want.rows()


def test_an_answer_has_no_click_of_a_batch_that_is_being_written(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the next batch is already processed on its rows."""
    monkeypatch.setattr(cycle, "BEHIND", 1)
    seen: list[int | None] = []

    def clicks_of_a() -> int | None:
        answer = users.state(b"a", 3).answer
        return None if answer is None else answer["clicks"]

    async def answer(number: int) -> Outcome:
        if number < 2:
            await until_overlapping(worker)
            seen.append(clicks_of_a())
        return Outcome.COMMITTED

    worker = Worker(model_dir, answer)
    users = Users(worker.engine, worker.cycles.positions)
    asyncio.run(decide_all(worker))
    assert seen == [None, 2]  # user a has the clicks 0 and 3 of the first batch
    assert clicks_of_a() == CLICKS // 3


def test_few_clicks_wait_until_the_batch_before_is_written(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No longer: nobody waits for a tick. They are then decided in one transaction: many small ones would cost more."""
    monkeypatch.setattr(cycle, "TICK_S", 3600.0)
    pooled: list[int] = []

    async def answer(number: int) -> Outcome:
        if number == 0:
            for begin in (4, 8):
                worker.offer(begin)
            for _ in range(20):  # turns of the event loop, in which a cycle would begin
                await asyncio.sleep(0)
            pooled.append(len(worker.cycles._pending))
        return Outcome.COMMITTED

    worker = Worker(model_dir, answer, CLICKS)

    async def decide() -> None:
        await worker.take_over(1)
        worker.offer(0)
        await worker.until(lambda: len(worker.acked) == 3)
        await worker.close()

    asyncio.run(decide())
    assert pooled == [2]
    assert len(worker.kafka.tried) == 2


def test_after_a_refused_batch_answers_are_the_rows_of_the_worker_that_decided_it(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What this worker remembered from before its early rows is old by then."""
    monkeypatch.setattr(cycle, "BEHIND", 1)

    worker = refused_second(model_dir)

    async def refused() -> int:
        await offer_all(worker)
        worker.kafka.commits(worker.kafka.tried[1], 2 * FETCHED)  # the other worker's records are the same
        await worker.take_over(2)
        found = Users(worker.engine, worker.cycles.positions).state(b"a", 3).answer
        await worker.close()
        assert found is not None
        clicks: int = found["clicks"]
        return clicks

    assert asyncio.run(refused()) == 3  # 0, 3 and 6


def test_an_assignment_begins_after_the_transaction_of_the_one_before(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rebalance comes while a batch is written: its rows are in place when they are compared with Kafka's, so the
    partition is kept, and its clicks go on behind the batch."""
    going_on = asyncio.Event()

    async def answer(number: int) -> Outcome:
        await going_on.wait()
        return Outcome.COMMITTED

    worker = Worker(model_dir, answer)
    given_up: list[list[int]] = []

    async def rebalance() -> Mapping[Partition, int]:
        await worker.take_over(1)
        worker.offer(0)
        await worker.until(lambda: len(worker.kafka.tried) == 1, cancel=False)
        worker.cycles.release()
        monkeypatch.setattr(worker.engine.committed, "give_up", lambda: given_up.append(list(worker.acked)))
        taking_over = asyncio.create_task(worker.take_over(2))
        await asyncio.sleep(0)
        await worker.cycles.thread.run(lambda: None)  # what the engine thread was given before is done
        going_on.set()
        kept = await taking_over
        await worker.close()
        return kept

    assert asyncio.run(rebalance()) == {CLICKS_0: FETCHED}
    assert given_up == [[0]]


def test_a_spare_whose_last_batch_was_refused_stays_a_spare(model_dir: Path) -> None:
    """The refusal belongs to an assignment that is over: this worker waits for no rebalance, and need not end."""
    going_on = asyncio.Event()

    async def answer(number: int) -> Outcome:
        await going_on.wait()
        return Outcome.STALE

    worker = Worker(model_dir, answer)

    async def stand_by() -> None:
        await worker.take_over(1)
        worker.offer(0)
        await worker.until(lambda: len(worker.kafka.tried) == 1, cancel=False)
        worker.cycles.release()
        worker.cycles.stand_by()
        going_on.set()
        await worker.cycles._written()
        await worker.close()

    asyncio.run(stand_by())
    assert (worker.cycles.doing().phase, worker.cycles.settled) == ("spare", True)
    worker.cycles.check_rejoined(-1.0)


def test_a_rebalance_while_an_assignment_begins_is_no_refusal(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kafka answers slowly, and the group rebalances again before the worker knows what it may keep. The reading for
    the assignment that is over stops. Then the worker has the next one, and need not end."""
    started, reads, reading, compared = asyncio.Event(), asyncio.Event(), threading.Event(), threading.Event()
    worker = Worker(model_dir)
    read, keep = worker.kafka.read, worker.cycles._recovery._keep

    async def rebalance() -> None:
        loop = asyncio.get_running_loop()

        def slow_read(*arguments: Any) -> Any:
            loop.call_soon_threadsafe(reads.set)
            assert reading.wait(LIMIT_S)
            return read(*arguments)

        def slow_keep(*arguments: Any) -> Any:
            reading.set()
            assert compared.wait(LIMIT_S)
            return keep(*arguments)

        monkeypatch.setattr(worker.kafka, "start", started.wait)
        monkeypatch.setattr(worker.kafka, "read", slow_read)
        begins = asyncio.create_task(worker.cycles.recover([CLICKS_0], 1, b"member"))
        await asyncio.sleep(0)
        worker.cycles.release()
        started.set()
        over = asyncio.create_task(worker.cycles.read(await begins, [CLICKS_0]))
        await reads.wait()
        monkeypatch.setattr(worker.cycles._recovery, "_keep", slow_keep)
        begins = asyncio.create_task(worker.cycles.recover([CLICKS_0], 2, b"member"))
        assert await over == {}
        compared.set()
        await worker.cycles.read(await begins, [CLICKS_0])
        worker.offer(0, generation=2)
        await worker.until(lambda: worker.acked == [0])
        await worker.close()

    asyncio.run(rebalance())
    assert (worker.cycles.doing().phase, worker.kafka.next) == ("assigned", FETCHED)
    worker.cycles.check_rejoined(-1.0)


def test_an_assignment_that_is_over_before_it_begins_gives_no_partition(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As before, but with rows that stay in memory. No cycle begins, and no answer says that a user is here."""
    worker = Worker(model_dir)
    asked, told = asyncio.Event(), threading.Event()
    positions = worker.kafka.positions

    async def rebalance() -> Mapping[Partition, int]:
        loop = asyncio.get_running_loop()

        def slow_positions(*arguments: Any) -> Any:
            loop.call_soon_threadsafe(asked.set)
            assert told.wait(LIMIT_S)
            return positions(*arguments)

        await worker.take_over(1)
        worker.offer(0)
        await worker.until(lambda: worker.acked == [0])
        worker.cycles.release()
        monkeypatch.setattr(worker.kafka, "positions", slow_positions)
        begins = asyncio.create_task(worker.cycles.recover([CLICKS_0], 2, b"member"))
        await asked.wait()
        worker.cycles.release()
        told.set()
        kept = (await begins).next
        await worker.close()
        return kept

    assert asyncio.run(rebalance()) == {CLICKS_0: FETCHED}
    assert worker.cycles.positions() == {}


def test_rows_that_are_being_put_in_place_are_not_put_there_early_too(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clicks come just then. A new user would have two rows."""
    monkeypatch.setattr(cycle, "BEHIND", 1)
    worker = Worker(model_dir)
    commit = worker.engine.commit
    steps: list[tuple[str, int]] = []
    put_early = worker.engine.committed.put_early

    async def turns(begin: int) -> None:
        if begin < CLICKS:
            worker.offer(begin)
        for _ in range(20):  # turns of the event loop, in which a cycle would begin
            await asyncio.sleep(0)

    async def decide() -> None:
        loop = asyncio.get_running_loop()

        def commits(made: Any) -> None:
            steps.append(("commit", id(made.staged)))
            asyncio.run_coroutine_threadsafe(turns(worker.kafka.next), loop).result(LIMIT_S)
            commit(made)

        def puts(staged: Any) -> None:
            steps.append(("put", id(staged)))
            put_early(staged)

        monkeypatch.setattr(worker.engine, "commit", commits)
        monkeypatch.setattr(worker.engine.committed, "put_early", puts)
        await worker.take_over(1)
        worker.offer(0)
        await worker.until(lambda: len(worker.acked) == CLICKS // FETCHED)
        await worker.close()

    asyncio.run(decide())
    assert [step for step, _ in steps] == ["commit"] * (CLICKS // FETCHED)


def test_nothing_goes_on_from_a_batch_whose_assignment_is_over(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rebalance comes while a batch is processed, and gives the partition back before its records are made: they
    will not be written, so the batches of the new assignment begin without its rows."""
    monkeypatch.setattr(cycle, "BEHIND", 1)
    worker = Worker(model_dir)
    process, encode = worker.engine.process, writing.encode_all
    processing, processed, encoded = threading.Event(), threading.Event(), threading.Event()

    def slow_process(*arguments: Any) -> Any:
        processing.set()
        processed.wait(LIMIT_S)
        return process(*arguments)

    def slow_encode(*arguments: Any) -> Any:
        encoded.wait(LIMIT_S)
        return encode(*arguments)

    monkeypatch.setattr(worker.engine, "process", slow_process)
    monkeypatch.setattr(writing, "encode_all", slow_encode)

    async def rebalance() -> None:
        await worker.take_over(1)
        worker.offer(0)
        running = asyncio.create_task(worker.cycles.run())
        assert await asyncio.to_thread(processing.wait, LIMIT_S)
        worker.cycles.release()
        taking_over = asyncio.create_task(worker.take_over(2))
        await asyncio.sleep(0)
        processed.set()
        await taking_over
        for begin in range(0, CLICKS, FETCHED):
            worker.offer(begin, generation=2)
        for _ in range(20):  # turns of the event loop, in which a cycle would begin
            await asyncio.sleep(0)
        encoded.set()
        async with asyncio.timeout(LIMIT_S):
            while len(worker.acked) <= CLICKS // FETCHED and not running.done():
                await asyncio.sleep(0.001)
        await worker.close()
        await running

    asyncio.run(rebalance())
    assert worker.kafka.written == one_at_a_time(model_dir).kafka.written
