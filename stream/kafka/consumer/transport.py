"""A Faust transport with one message per fetch: the agent gets all fetched records at once instead of one by one.

Faust manages the group membership, the rebalance hooks and the agents. Its own consumer needs 70 us per record. With
this transport one Faust message is a Fetch: a chunk of records of each partition that had some. The transaction in
delivery.py commits the offsets. Faust only stores which fetches are not decided yet.

Private names of Faust and aiokafka are used in this room only (tests/contracts checks them), and both are pinned
exactly. Source: faust/transport/consumer.py and faust/transport/drivers/aiokafka.py.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import faust
from aiokafka.errors import IllegalStateError
from faust.transport.consumer import ensure_TP, notify
from faust.transport.drivers import aiokafka as driver
from faust.types.tuples import TP, ConsumerMessage
from mode import Service

from stream.errors import EddyError
from stream.events import Partition
from stream.kafka.consumer.fetch import Fetch, FetchThread, chunk_of, fetches
from stream.kafka.waiting import Watch
from stream.kafka.watchdog import end_app, watch_group

LEAVE_S = 5.0

IN_MEMORY_RECORDS = 20_000
IN_MEMORY_BYTES = 64 << 20
"""Number of records and of bytes, fetched and not yet decided, above which nothing is fetched. Faust's own limit counts
messages."""


class Member(NamedTuple):
    """This worker's current membership in the consumer group."""

    generation: int
    member_id: str


class BatchTopic(faust.Topic):
    """A topic of events that have a Fetch as their value, which Faust must not decode."""

    def _compile_decode(self) -> None:
        async def decode(message: Any, *, propagate: bool = False) -> Any:
            return self.app.conf.Event(self.app, None, message.value, None, message)

        self.decode = decode


class BatchConsumer(driver.Consumer):
    """Passes fetches to the agent, waits while too many records are in memory, and never commits.

    At a rebalance and at shutdown Faust waits until every message that the agent got is acked. The cycle loop acks the
    messages of its cycles. `transport.release` gives up the others, and `forget` removes these from Faust's account.
    Every method is called in the event loop; only the fetch itself runs in the consumer thread (FetchThread).
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._records = self._bytes = 0
        self._room = asyncio.Event()
        super().__init__(*arguments, **options)

    def _new_consumer_thread(self) -> FetchThread:
        return FetchThread(self, loop=self.loop, beacon=self.beacon)

    @Service.task
    async def _watch_group(self) -> None:
        """Watch the group from the first join on: an app's own tasks start only after the first assignment."""
        await watch_group(self.app, partial(check_group, self.app))

    async def _drain_messages(self, fetcher: Any) -> None:
        """Faust's fetch loop: pass what was fetched to the agent until the consumer or the fetcher stops.

        A fetch of an older generation of the group is dropped.
        """

        def stopped() -> bool:
            return bool(self._stopped.is_set() or fetcher._stopped.is_set())

        try:
            while not stopped():
                fetched, active = await self._wait_next_records(1.0)
                await asyncio.sleep(0)
                generation = self.app.consumer_generation_id
                if fetched is None or self.should_stop:
                    continue
                if not self.flow_active:  # a rebalance has begun: this worker may have lost the fetched partitions
                    await self._seek_back()
                    continue
                wanted = [tp for tp in fetched if active is None or tp in active or tp in self._buffered_partitions]
                for fetch in fetches([chunk_of(ensure_TP(tp), fetched[tp], generation) for tp in wanted]):
                    await self._wait_for_room(stopped)
                    if not self.flow_active or self.app.consumer_generation_id != generation:
                        break
                    await self._hand_over(fetch)
        except EddyError as exc:
            end_app(self.app, exc)
        except (asyncio.CancelledError, *self.consumer_stopped_errors):
            if not self.transport.app.should_stop:  # Faust calls a cancellation in a rebalance a crash, also at a stop
                raise

    async def _seek_back(self) -> None:
        try:
            await self.perform_seek()
        except Exception as exc:  # the rebalance will seek again
            self.log.warning("seek failed: error=%r", exc)

    async def perform_seek(self) -> None:
        """Seek every partition to the offset of its recovered state. Faust calls it at a rebalance, before it fetches.

        aiokafka's own seek to the committed offset does nothing if no offset is committed or if it is 0. Then records
        that were fetched and dropped during a rebalance were never read again.
        """
        positions = self.transport.positions()
        wanted = {tp: positions[tp] for tp in self.assignment() if tp in positions}
        if wanted:
            await self.seek_wait(wanted)

    async def _hand_over(self, fetch: Fetch) -> None:
        """Pass a fetch to the agent as one message, which names the first of its partitions."""
        self._records += fetch.records
        self._bytes += fetch.size
        first, tp = fetch.chunks[0], TP(*fetch.chunks[0].partition)
        dated = next((chunk.records[-1] for chunk in fetch.chunks if chunk.records), None)
        message = ConsumerMessage(
            tp.topic,
            tp.partition,
            first.end - 1,
            dated.timestamp / 1000.0 if dated else 0.0,
            dated.timestamp_type if dated else 0,
            (),
            None,
            fetch,
            None,
            0,
            0,
            tp,
            generation_id=first.generation,
        )
        await self.wait_first(self.callback(message), self.suspend_flow.wait())

    async def _wait_for_room(self, stopped: Callable[[], bool]) -> None:
        while (self._records > IN_MEMORY_RECORDS or self._bytes > IN_MEMORY_BYTES) and self.flow_active:
            if stopped():
                return
            self._room.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._room.wait(), 0.2)

    def ack(self, message: Any) -> bool:
        """Faust calls it once per message, when the last event of the message is acked."""
        self.forget(message)
        notify(self._waiting_for_ack)
        return True

    def forget(self, message: Any) -> None:
        """Remove a message from Faust's unacked messages. The partition's next owner reads it again.

        Faust has a weak set, so it removes a message only when the object is deleted. The agent's loop variable keeps
        the last message alive: without this method the whole group waited 60 s for a worker without work.
        """
        message.acked = True
        self._unacked_messages.discard(message)
        self._records = max(0, self._records - message.value.records)
        self._bytes = max(0, self._bytes - message.value.size)
        self._make_room()

    def _make_room(self) -> None:
        """Let more be fetched."""
        self._room.set()
        if not self._records:
            self._thread.decided()

    async def wait_empty(self) -> None:
        """Give up the fetches that no cycle has begun, and wait for the running cycle.

        The group waits for it as long as this member sends heartbeats, up to the rebalance timeout (KIP-62): a worker
        that ended earlier would begin the same clicks again, on a machine that is as slow. After this time, or the
        session timeout in a worker that stops, the process ends. An outage counts only for a worker that stops.
        """
        for event in self.transport.release():
            self.forget(event.message)
        conf, watch = self.app.conf, self.transport.watch
        began_s, answered_s = time.monotonic(), watch.answered_s
        waiting = asyncio.ensure_future(super().wait_empty())
        while not (await asyncio.wait({waiting}, timeout=0.5))[0]:  # wait_for never returns: Faust ignores its cancel
            # After a slow answer the watch's clock moves on by seconds at once, also by those before this wait.
            stops, waited_s = self.app.should_stop, time.monotonic() - began_s
            limit_s = conf.broker_session_timeout if stops else conf.broker_rebalance_timeout
            if waited_s > limit_s and (stops or watch.answered_s - answered_s > limit_s):
                late = f"a cycle has not ended {limit_s:.0f} s after the partitions were revoked"
                end_app(self.app, TimeoutError(f"{late}; lower --max-cycle-clicks"))
        waiting.result()

    async def on_partitions_revoked(self, revoked: Any) -> None:
        await super().on_partitions_revoked(revoked)  # waits for the running cycle
        self._records = self._bytes = 0  # the messages that Faust removed from its queues are never acked
        self._make_room()

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """Do nothing: the transaction of the outputs commits the offsets."""
        return False

    def verify_event_path(self, now: float, tp: Any) -> None:
        """Do nothing: Faust makes no commits here, and would report that they are stuck."""


class BatchTransport(driver.Transport):
    """The transport of a worker's Faust app.

    release    gives up the fetches of which no cycle has begun, and returns their events; called at a rebalance and at
               shutdown
    positions  returns partition -> next offset to read
    watch      its clock measures time limits
    """

    Consumer = BatchConsumer

    def __init__(
        self,
        url: Any,
        app: Any,
        release: Callable[[], Iterable[Any]],
        positions: Callable[[], Mapping[Partition, int]],
        watch: Watch,
    ) -> None:
        super().__init__(url, app)
        self.release = release
        self.positions = positions
        self.watch = watch


def membership(app: faust.App) -> Member:
    """Return the current generation and member id of aiokafka: (-1, "") if this worker is in no generation."""
    coordinator = app.consumer._thread._consumer._coordinator
    return Member(coordinator.generation, coordinator.member_id)


async def seek(app: faust.App, offsets: Mapping[Partition, int]) -> None:
    """Continue to read at these offsets. Until then the records of these partitions are fetched and dropped."""
    if app.should_stop:  # the consumer thread and its loop may have ended
        return
    try:
        await app.consumer.seek_wait({TP(*partition): offset for partition, offset in offsets.items()})
    except IllegalStateError as exc:  # not assigned any more: a rebalance has begun, and recovers and seeks again
        app.consumer.log.warning("seek failed: error=%r", exc)


async def leave_group(app: faust.App) -> None:
    """Leave the group, so that its other workers take the partitions at once. Waits for Kafka up to LEAVE_S.

    aiokafka's static members do not leave: the others would wait for the whole session timeout. Call it after the last
    transaction, which carries this membership.
    """
    thread = app.consumer and app.consumer._thread
    if not thread or thread._consumer is None:
        return

    async def leave() -> None:
        coordinator = thread._consumer._coordinator
        if coordinator is not None:  # else it has never connected
            coordinator._group_instance_id = None
            await coordinator.close()

    await asyncio.wait({asyncio.ensure_future(thread.call_thread(leave))}, timeout=LEAVE_S)


def assigned(app: faust.App) -> list[Partition]:
    """Return the partitions that this worker has now."""
    return sorted(Partition(*tp) for tp in app.consumer.assignment())


async def check_group(app: faust.App) -> None:
    """Raise the fatal group error that aiokafka keeps, or the error with which its fetching has ended, if there is one.

    aiokafka starts its fetching once: a worker whose fetching has ended would stay in the group and read nothing.
    """
    if app.should_stop:  # the consumer thread and its loop may have ended
        return
    thread = app.consumer._thread
    consumer = thread and thread._consumer
    if not consumer or consumer._coordinator is None:
        return

    async def check() -> None:
        consumer._coordinator.check_errors()
        fetching = consumer._fetcher._fetch_task
        if fetching.done() and not fetching.cancelled():
            fetching.result()

    await thread.call_thread(check)
