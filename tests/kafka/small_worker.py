"""Workers in the test's own process that stop at a numbered step, so that a schedule is exact and costs no start.

A SmallWorker has the real cycles, recovery, delivery and changelog on the real Kafka. Instead of Faust, a consumer of
confluent-kafka is its member of the group, and the test calls its steps. A step at which the worker stops is a method
of the producer or of the changelog: nothing in the worker knows about it.
"""

import asyncio
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import msgspec
from confluent_kafka import Consumer

from stream.events import Partition
from stream.kafka import delivery as delivery_module
from stream.kafka.changelog import Changelog
from stream.kafka.consumer.fetch import Chunk
from stream.kafka.delivery import Delivery
from stream.model.runtime import Model, load_model
from stream.sessions import rest
from stream.wire.json import JsonCodec
from stream.worker.cycles.cycle import Cycles
from stream.worker.cycles.recovery import Assignment
from stream.worker.cycles.size import CycleSize
from stream.worker.served import open_engine
from tests.kafka.lane import Lane
from tests.unit.worker.recovered import decided

DEADLINE_S = 30.0


class Gate:
    """A place where a thread stops. `reached` is set when it is there; it goes on when `opened` is set."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        assert self.opened.wait(2 * DEADLINE_S), "nobody opened the gate"

    async def wait(self) -> None:
        assert await asyncio.to_thread(self.reached.wait, DEADLINE_S), "the step was not reached"


class Steps:
    """Calls the methods of an object, after the actions in `before` (method -> what happens first)."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.before: dict[str, Callable[[], object]] = {}
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._inner, name)
        if not callable(call):
            return call

        def step(*arguments: Any) -> Any:
            self.calls.append(name)
            self.before.get(name, lambda: None)()
            return call(*arguments)

        step.__name__ = name
        return step


class SlowProducer(Steps):
    """A producer whose records reach Kafka at the commit, as with a slow connection to the leader of the changelog."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self._held: list[tuple[Any, ...]] = []

    def produce(self, *arguments: Any) -> None:
        self._held.append(arguments)

    def commit_transaction(self, limit_s: float) -> None:
        self.before.get("commit_transaction", lambda: None)()
        for arguments in self._held:
            self._inner.produce(*arguments)
        self._inner.commit_transaction(limit_s)


class SmallWorker:
    """One worker for the only partition of a lane.

    producer, changelog  the steps at which it can be stopped
    """

    def __init__(self, lane: Lane, model: Model, worker_id: str) -> None:
        self.lane = lane
        self.partition = Partition(lane.topics.clicks, 0)
        limits = dict.fromkeys(msgspec.structs.astuple(lane.topics), 1_000_000)
        self._delivery = Delivery(lane.broker, f"{lane.name}:{worker_id}", 60, 2 * DEADLINE_S, limits)
        self.producer = Steps(self._delivery._producer)
        self._delivery._producer = self.producer
        self.changelog = Steps(Changelog(lane.broker, lane.name, lane.topics.changelog))
        changelog: Any = self.changelog
        engine = open_engine(model, lane.model, 20, 1, 0.001)
        codec = JsonCodec(65_536, 1_000)
        self._cycles = Cycles(engine, codec, self._delivery, changelog, lane.topics, limits, CycleSize(1_000, 10.0))
        self._assignment: Assignment | None = None
        self._member: Consumer | None = None

    def slow(self) -> None:
        """From now on records reach Kafka at the commit only."""
        self.producer = SlowProducer(self.producer._inner)
        self._delivery._producer = self.producer

    # -- the group ----------------------------------------------------------------------------------------------------

    def _join(self) -> tuple[int, str]:
        """Join the group and return generation and member id."""
        self.leave()
        settings = {"bootstrap.servers": self.lane.broker, "group.id": self.lane.name, "enable.auto.commit": False}
        self._member = Consumer(settings | {"auto.offset.reset": "earliest", "log_level": 0})
        self._member.subscribe([self.lane.topics.clicks])
        end = time.monotonic() + DEADLINE_S
        while not self._member.assignment():
            self._member.poll(0.02)
            assert time.monotonic() < end, "no assignment"
        metadata: bytes = self._member.consumer_group_metadata()
        (generation,) = struct.unpack("=i", metadata[7:11])
        return generation, metadata[11:].split(b"\0")[1].decode()

    def leave(self) -> None:
        """The group has this worker no more. The worker does not know it, as after a freeze."""
        if self._member is not None:
            self._member.close()
            self._member = None

    # -- the worker ---------------------------------------------------------------------------------------------------

    async def join(self) -> None:
        """Join, take the membership, and keep what is in memory if it is right."""
        generation, member_id = await asyncio.to_thread(self._join)
        member = delivery_module.group_metadata(self.lane.name, generation, member_id, None)
        self._assignment = await self._cycles.recover([self.partition], generation, member)

    async def read(self) -> None:
        """The rest of the recovery."""
        assert self._assignment is not None
        await self._cycles.read(self._assignment, [self.partition])

    async def take_over(self) -> None:
        """Join and recover."""
        await self.join()
        await self.read()

    @property
    def next(self) -> int | None:
        """The offset of the next click; None without the partition."""
        return self._cycles.positions().get(self.partition)

    async def decide(self) -> None:
        """Decide on all clicks after `next` in one cycle."""
        assert self._assignment is not None
        assert self.next is not None
        begin = self.next
        messages = [m for m in await asyncio.to_thread(self.lane.read, self.lane.topics.clicks) if m.offset() >= begin]
        records = [
            SimpleNamespace(offset=m.offset(), key=m.key(), value=m.value(), timestamp=m.timestamp()[1])
            for m in messages
        ]
        chunk = Chunk(self.partition, self._assignment.generation, begin, begin + len(records), 0, records, 1_000)
        await decided(self._cycles, chunk)

    async def rest(self) -> None:
        """End the open sessions, as after half an hour without a click."""
        with patch.object(rest, "REST_S", 0.0):
            await self._cycles._let_rest()

    async def close(self) -> None:
        self.leave()
        await self._cycles.close()


@asynccontextmanager
async def small_workers(lane: Lane, *worker_ids: str) -> AsyncIterator[list[SmallWorker]]:
    """Workers with these ids; the same id twice is a second process of a worker. All gates are open at the end."""
    model = load_model(lane.model, "cpu")
    workers = [SmallWorker(lane, model, worker_id) for worker_id in worker_ids]
    try:
        yield workers
    finally:
        for worker in workers:
            for gate in [*worker.producer.before.values(), *worker.changelog.before.values()]:
                if isinstance(gate, Gate):
                    gate.opened.set()
        for worker in workers:
            await worker.close()
