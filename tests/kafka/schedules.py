"""Schedules in which one protection alone keeps the promise. Each fails without its protection.

test_schedules.py runs them on the real code, test_mutants.py on the code without the protection. The names of the
protections are those of docs/delivery.md.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import faust
from aiokafka import TopicPartition

from stream.kafka import changelog as changelog_module
from stream.kafka.consumer.fetch import FetchThread
from stream.kafka.consumer.transport import BatchTopic, BatchTransport
from stream.kafka.waiting import NoWatch
from tests.kafka.lane import Lane, clicks
from tests.kafka.small_worker import DEADLINE_S, Gate, SmallWorker, small_workers

CLICKS = 5


async def woken_before_its_transaction(lane: Lane) -> None:
    """A worker is frozen between processing and begin, another one decides the clicks, and the first one wakes."""
    lane.produce(clicks(CLICKS))
    async with small_workers(lane, "0", "1") as (old, new):
        await old.take_over()
        frozen = old.producer.before["begin_transaction"] = Gate()
        deciding = asyncio.create_task(old.decide())
        await frozen.wait()
        old.leave()
        await new.take_over()
        await new.decide()
        frozen.opened.set()
        await deciding
        assert new.next == CLICKS
    lane.assert_as_if_nothing_had_happened()


async def woken_before_its_records_are_sent(lane: Lane) -> None:
    """A worker is frozen when the group has its offsets and the changelog does not have its records yet.

    The next owner waits for the transaction, and then reads the rows once.
    """
    lane.produce(clicks(CLICKS))
    async with small_workers(lane, "0", "1") as (old, new):
        await old.take_over()
        old.slow()
        frozen = old.producer.before["commit_transaction"] = Gate()
        deciding = asyncio.create_task(old.decide())
        await frozen.wait()
        old.leave()
        with unstable_offsets(0.5) as seen:
            taking_over = asyncio.create_task(_take_over_and_decide(new))
            while not taking_over.done() and not seen:
                await asyncio.sleep(0.02)
        frozen.opened.set()
        await deciding
        await taking_over
        assert new.changelog.calls.count("read") == 1, "all rows were read a second time"
    lane.assert_as_if_nothing_had_happened()


async def _take_over_and_decide(worker: SmallWorker) -> None:
    await worker.take_over()
    await worker.decide()


async def restarted_in_its_transaction(lane: Lane) -> None:
    """A worker dies between offsets and commit. Its next process does not wait for the transaction's timeout, 60 s."""
    lane.produce(clicks(CLICKS))
    async with small_workers(lane, "0", "0") as (dead, again):
        await dead.take_over()
        killed = dead.producer.before["commit_transaction"] = Gate()
        deciding = asyncio.create_task(dead.decide())
        await killed.wait()
        dead.leave()
        with unstable_offsets(3.0) as seen:
            taking_over = asyncio.create_task(again.take_over())
            while not taking_over.done() and not seen:
                await asyncio.sleep(0.02)
        try:
            assert not seen, "it waits for the transaction of its dead process"
            await again.decide()
        finally:
            killed.opened.set()
            await asyncio.wait({deciding, taking_over}, timeout=DEADLINE_S)
            deciding.exception()  # it is fenced, if anything
    lane.assert_as_if_nothing_had_happened()


async def restarted_while_sessions_end(lane: Lane) -> None:
    """A worker dies in the transaction that ends the sessions of a partition at rest. Its next process ends them."""
    lane.produce(clicks(CLICKS))
    async with small_workers(lane, "0", "0") as (dead, again):
        await dead.take_over()
        await dead.decide()
        killed = dead.producer.before["commit_transaction"] = Gate()
        resting = asyncio.create_task(dead.rest())
        await killed.wait()
        dead.leave()
        try:
            await again.take_over()
            await again.rest()
            await again.rest()
        finally:
            killed.opened.set()
            await asyncio.wait({resting}, timeout=DEADLINE_S)
            resting.exception()  # it is fenced
    lane.assert_as_if_nothing_had_happened(at_rest=True)


async def rolled_back_rows_are_in_the_changelog(lane: Lane) -> None:
    """A worker has written rows and is refused by the group: they stay in the log, and nobody reads them."""
    lane.produce(clicks(CLICKS))
    async with small_workers(lane, "0", "1") as (old, new):
        await old.take_over()
        old.leave()
        old.producer.before["send_offsets_to_transaction"] = lambda: old.producer.flush(DEADLINE_S)
        await old.decide()
        await new.take_over()
        assert new.next == 0
        await new.decide()
    lane.assert_as_if_nothing_had_happened()


async def open_transaction_before_newer_rows(lane: Lane) -> None:
    """A worker that has lost the partition leaves rows of an open transaction, and the owner writes rows behind them.

    The next owner reads to the end of the changelog at once, although the last stable offset is before these rows.
    """
    lane.produce(clicks(CLICKS))
    async with small_workers(lane, "0", "1", "2") as (zombie, owner, last):
        await zombie.take_over()
        zombie.leave()
        await owner.take_over()
        frozen = Gate()

        def write_and_freeze() -> None:
            zombie.producer.flush(DEADLINE_S)
            frozen()

        zombie.producer.before["send_offsets_to_transaction"] = write_and_freeze
        deciding = asyncio.create_task(zombie.decide())
        await frozen.wait()
        await owner.decide()
        owner.leave()
        known = _tell_when_ends_are_known(last)
        taking_over = asyncio.create_task(last.take_over())
        await known.wait()
        frozen.opened.set()
        await deciding
        await taking_over
        assert last.next == CLICKS
        assert last.changelog.calls.count("read") == 1, "all rows were read a second time"
    lane.assert_as_if_nothing_had_happened()


def _tell_when_ends_are_known(worker: SmallWorker) -> Gate:
    """A gate that the worker passes when it has asked for the end of the changelog."""
    changelog, gate = worker.changelog._inner, Gate()
    gate.opened.set()
    ends = changelog.ends

    def ends_of(partitions: object) -> object:
        found = ends(partitions)
        if next(iter(found)).topic == worker.lane.topics.changelog:
            gate()
        return found

    changelog.ends = ends_of
    return gate


async def refused_and_assigned_again(lane: Lane) -> None:
    """The group has a new generation when a worker sends its offsets, and gives it the partition again.

    The worker rolls back, keeps its rows, which are right, and decides the same clicks again.
    """
    lane.produce(clicks(CLICKS))
    async with small_workers(lane, "0") as (worker,):
        await worker.take_over()
        await worker.decide()
        worker.producer.before["send_offsets_to_transaction"] = lambda: worker.producer.flush(DEADLINE_S)
        lane.produce(clicks(CLICKS, seed=1))
        worker.leave()
        await worker.decide()
        assert worker.next is None
        await worker.join()
        assert worker.next == CLICKS, "the rows in memory were not kept"
        await worker.decide()
        assert worker.next == 2 * CLICKS
    lane.assert_as_if_nothing_had_happened()


@contextmanager
def unstable_offsets(call_s: float) -> Iterator[list[str]]:
    """A list that gets a line when Kafka has not given the committed offset in `call_s`: a transaction is pending."""
    seen: list[str] = []
    info, usual_s = changelog_module.log.info, changelog_module.CALL_S

    def note(text: str, *values: object) -> None:
        if "not stable" in text:
            seen.append(text % values)
        info(text, *values)

    changelog_module.log.info = note  # type: ignore[method-assign]
    changelog_module.CALL_S = call_s
    try:
        yield seen
    finally:
        changelog_module.log.info = info  # type: ignore[method-assign]
        changelog_module.CALL_S = usual_s


async def upstream_rolls_back(lane: Lane) -> None:
    """Another application rolls clicks back and writes others: the worker's consumer sees only those."""
    upstream = lane.upstream()
    for end, seed in ((upstream.abort_transaction, 0), (upstream.commit_transaction, 1)):
        upstream.begin_transaction()
        for key, value in clicks(CLICKS, seed=seed):
            upstream.produce(lane.topics.clicks, value, key)
        assert upstream.flush(DEADLINE_S) == 0
        end(DEADLINE_S)
    app = faust.App(lane.name, broker=f"aiokafka://{lane.broker}", Topic=BatchTopic, env_prefix="EDDY_FAUST_")
    app.transport = BatchTransport(app.conf.broker_consumer, app, list, dict, NoWatch())
    consumer: Any = SimpleNamespace(transport=app.transport, app=app, in_transaction=False, RebalanceListener=list)
    thread = object.__new__(FetchThread)
    thread.consumer, thread.transport, thread.app = consumer, app.transport, app
    reader = thread._create_worker_consumer(app.transport)
    first = TopicPartition(lane.topics.clicks, 0)
    reader.assign([first])
    await reader.start()
    try:
        reader.seek(first, 0)
        found: list[bytes] = []
        while len(found) < CLICKS:
            found += [record.value for record in (await reader.getmany(first, timeout_ms=1_000)).get(first, [])]
    finally:
        await reader.stop()
    assert found == [value for _, value in clicks(CLICKS, seed=1)], "clicks that were rolled back are read"
