"""The private names of Faust, aiokafka and librdkafka that the worker needs exist, as the worker uses them.

They may change in any release. If a test fails after an upgrade, check stream/kafka/consumer.
"""

import asyncio
import inspect
import re
import struct
import tomllib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from weakref import WeakSet

import faust
import mode
import pytest
import uvloop
from aiokafka import AIOKafkaConsumer, conn
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.fetch import FetchRequest
from confluent_kafka import Consumer
from faust.transport import consumer as stock
from faust.transport.drivers import aiokafka as driver
from faust.types.tuples import TP, ConsumerMessage

from stream.errors import Fenced
from stream.events import Partition
from stream.kafka.consumer.fetch import Chunk, Connection, Fetch, OffsetRange
from stream.kafka.consumer.transport import BatchConsumer, BatchTopic, BatchTransport
from stream.kafka.delivery import group_metadata
from stream.kafka.waiting import NoWatch
from stream.kafka.watchdog import NO_COORDINATOR

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def app() -> faust.App:
    app = faust.App("group-of-tests", broker="aiokafka://127.0.0.1:9", Topic=BatchTopic, env_prefix="EDDY_FAUST_")
    app.transport = BatchTransport(app.conf.broker_consumer, app, list, dict, NoWatch())
    return app


@pytest.mark.parametrize("name", ["faust-streaming", "aiokafka"])
def test_versions_are_pinned_exactly(name: str) -> None:
    """Private names were checked only for these versions."""
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert any(re.match(rf"{name}(\[.*\])?=={re.escape(version(name))}$", dependency) for dependency in dependencies)


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        (stock.Consumer._drain_messages, ["self", "fetcher"]),
        (stock.Consumer._wait_next_records, ["self", "timeout"]),
        (stock.Consumer.ack, ["self", "message"]),
        (stock.Consumer.wait_empty, ["self"]),
        (stock.Consumer.commit, ["self", "topics", "start_new_transaction"]),
        (stock.Consumer.perform_seek, ["self"]),
        (stock.Consumer.on_partitions_revoked, ["self", "revoked"]),
        (driver.Consumer.verify_event_path, ["self", "now", "tp"]),
        (driver.Consumer._new_consumer_thread, ["self"]),
        (driver.AIOKafkaConsumerThread._create_worker_consumer, ["self", "transport"]),
        (driver.AIOKafkaConsumerThread.on_start, ["self"]),
        (driver.AIOKafkaConsumerThread.on_thread_stop, ["self"]),
        (driver.AIOKafkaConsumerThread.close, ["self"]),
        (driver.AIOKafkaConsumerThread._seek_wait, ["self", "consumer", "partitions"]),
        (
            driver.AIOKafkaConsumerThread._fetch_records,
            ["self", "consumer", "active_partitions", "timeout", "max_records"],
        ),
        (driver.AIOKafkaConsumerThread.on_partitions_revoked, ["self", "revoked"]),
        (faust.Topic._compile_decode, ["self"]),
        (GroupCoordinator.check_errors, ["self"]),
        (mode.Worker._sentinel_task, ["self"]),
        (Fetcher._proc_fetch_request, ["self", "assignment", "node_id", "request"]),
        (super(Connection, Connection).send, ["self", "request", "expect_response"]),
        (super(Connection, Connection)._send_sasl_token, ["self", "payload", "expect_response"]),
    ],
)
def test_overridden_and_called_methods_have_their_parameters(method: Callable[..., Any], parameters: list[str]) -> None:
    """Methods that the batch transport overrides or calls have the expected parameters."""
    assert list(inspect.signature(method).parameters) == parameters


@pytest.mark.parametrize(
    ("owner", "names"),
    [
        (GroupCoordinator.__init__, ["self.generation", "self.member_id", "self._pending_exception"]),
        (AIOKafkaConsumer.__init__, ["self._coordinator"]),
        (AIOKafkaConsumer.start, ["self._fetcher = Fetcher(", "await self._client.bootstrap()"]),
        (AIOKafkaConsumer.__init__, ["self._client = AIOKafkaClient("]),
        (Fetcher.__init__, ["self._fetch_task = create_task("]),
        (mode.Worker._shutdown_loop, ["ensure_future(self._sentinel_task()"]),
        (FetchRequest.build, ["self._max_wait_ms,", "self._min_bytes,"]),
        (Fetcher._fetch_requests_routine, ["self._proc_fetch_request(assignment, node_id, request)"]),
        (Fetcher._proc_fetch_request, ["return needs_wakeup", "tp_state.highwater = ", "tp_state.lso = "]),
        (driver.AIOKafkaConsumerThread.on_start, ["self._consumer = self._create_consumer("]),
        (driver.AIOKafkaConsumerThread._create_worker_consumer, ["group_instance_id=conf.consumer_group_instance_id"]),
        (stock.Consumer.__init__, ["self._unacked_messages", "self._waiting_for_ack"]),
        (AIOKafkaConsumer.__init__, ["self._isolation_level = isolation_level", "self._subscription"]),
        (conn.create_conn, ["conn = AIOKafkaConnection("]),
        (AIOKafkaConsumer.start, ["isolation_level=self._isolation_level"]),
        (AIOKafkaConsumer.start, ["max_poll_interval_ms=self._max_poll_interval_ms"]),
        (GroupCoordinator.ensure_coordinator_known, [f'log.error("{NO_COORDINATOR}", err)']),
        (stock.Consumer._reset_state, ["self._buffered_partitions", "self.suspend_flow", "self.flow_active"]),
    ],
)
def test_private_attributes_are_still_set(owner: Callable[..., Any], names: list[str]) -> None:
    """Attributes that the batch transport reads and writes still exist."""
    source = inspect.getsource(owner)
    assert [name for name in names if name not in source] == []


def test_rebalance_hook_is_awaited_before_seek_and_fetch() -> None:
    """Faust sends on_rebalance_complete, then seeks, then fetches: recovery relies on this order."""
    from faust.tables.recovery import Recovery

    source = inspect.getsource(Recovery._resume_streams)
    steps = ["on_rebalance_complete.send()", "consumer.perform_seek()", "consumer.resume_flow()"]
    assert re.search(".*".join(map(re.escape, steps)), source, re.DOTALL)


def test_group_id_of_faust_is_the_group_of_the_transactions(app: faust.App) -> None:
    """Faust joins under the app's id: it must be the group that the offsets are committed for."""
    assert app.conf.id == "group-of-tests"


Fetched = dict[TP, OffsetRange] | None


async def deliver(consumer: BatchConsumer, offset: int) -> Any:
    """A message with one fetch as Faust's stream handles it: one event."""
    fetch = Fetch([Chunk(Partition("clicks", 0), 1, 0, offset + 1, 0, [object()] * 10, 100)], 10, 100)
    message = ConsumerMessage(
        "clicks", 0, offset, 0.0, 0, (), None, fetch, None, 0, 0, TP("clicks", 0), generation_id=1
    )
    message.incref()
    consumer._unacked_messages.add(message)
    consumer._records += 10
    return message


def test_forgotten_messages_leave_nothing_to_wait_for(app: faust.App) -> None:
    """A released fetch is removed from Faust's unacked messages although it is still referenced, and its memory is
    free."""

    async def run() -> None:
        consumer = app.consumer
        assert isinstance(consumer._unacked_messages, WeakSet)
        acked, forgotten = await deliver(consumer, 9), await deliver(consumer, 19)
        acked.ack(consumer)
        assert set(consumer.unacked) == {forgotten}
        consumer.forget(forgotten)
        assert not consumer.unacked
        forgotten.ack(consumer)  # late, by the cycle that dropped it
        assert consumer._records == 0

    asyncio.run(run())


def test_the_fetching_learns_when_all_clicks_are_decided(app: faust.App, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several fetches in memory the last one counts; and those that a rebalance takes away are not waited for."""
    told: list[int] = []

    async def run() -> None:
        consumer = app.consumer
        monkeypatch.setattr(consumer._thread, "decided", lambda: told.append(consumer._records))
        first, second = await deliver(consumer, 9), await deliver(consumer, 19)
        first.ack(consumer)
        assert not told
        second.ack(consumer)
        assert told == [0]
        await deliver(consumer, 29)
        await consumer.on_partitions_revoked(set())
        assert told == [0, 0]

    asyncio.run(run())


def drain(
    consumer: BatchConsumer,
    monkeypatch: pytest.MonkeyPatch,
    fetch: Callable[[], Fetched],
    handed_over: list[ConsumerMessage],
) -> asyncio.Future[None]:
    """Run Faust's fetch loop on the results of `fetch`. What it hands over to the agent is appended."""

    async def records(timeout: float) -> tuple[Fetched, None]:
        return fetch(), None

    async def take(message: ConsumerMessage) -> None:
        handed_over.append(message)

    monkeypatch.setattr(consumer, "_wait_next_records", records)
    monkeypatch.setattr(consumer, "callback", take)
    return asyncio.ensure_future(consumer._drain_messages(SimpleNamespace(_stopped=asyncio.Event())))


async def let_it_run() -> None:
    for _ in range(1_000):  # turns of the event loop: without a limit each fetch takes a few
        await asyncio.sleep(0)


@pytest.mark.parametrize(("value_bytes", "most_fetches"), [(10, 21), (1 << 20, 1)])
def test_fetching_waits_while_too_much_is_undecided(
    app: faust.App, monkeypatch: pytest.MonkeyPatch, value_bytes: int, most_fetches: int
) -> None:
    """A worker that is behind has at most 20,000 clicks or 64 MB in memory, and continues to fetch after an ack."""
    tp = TP("clicks", 0)
    record = SimpleNamespace(key=b"u", value=b"v" * value_bytes, timestamp=0, timestamp_type=0)
    handed_over: list[ConsumerMessage] = []

    def fetch() -> Fetched:
        begin = 1_000 * len(handed_over)
        return {tp: OffsetRange(begin, begin + 1_000, 0, [record] * 1_000)}

    async def run() -> None:
        draining = drain(app.consumer, monkeypatch, fetch, handed_over)
        await let_it_run()
        assert len(handed_over) == most_fetches
        app.consumer.ack(handed_over[0])
        await let_it_run()
        assert len(handed_over) == most_fetches + 1
        draining.cancel()

    asyncio.run(run())


def test_a_stop_in_a_rebalance_is_no_crash_of_the_fetcher(
    app: faust.App, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Faust stops its fetcher by cancelling it. In a rebalance it would log two stack traces and crash the app."""

    async def no_records(timeout: float) -> tuple[Fetched, None]:
        await asyncio.sleep(timeout)
        return None, None

    async def run() -> None:
        monkeypatch.setattr(app.consumer, "_wait_next_records", no_records)
        fetcher = stock.Fetcher(app, loop=asyncio.get_event_loop(), beacon=app.beacon)
        fetching = asyncio.ensure_future(stock.Fetcher._fetcher.fun(fetcher))
        await asyncio.sleep(0)
        app.rebalancing = True
        app._stopped.set()
        fetching.cancel()
        await fetching
        assert not fetcher.crashed

    asyncio.run(run())
    assert not caplog.records


@pytest.mark.parametrize("rebalance", ["_on_partitions_revoked", "_on_partitions_assigned"])
def test_a_rebalance_while_a_worker_ends_leaves_the_consumer_to_its_own_thread(app: faust.App, rebalance: str) -> None:
    """Its tasks and connections belong to the event loop of that thread. Closed from the worker's, the process may end
    with SIGSEGV."""
    closed: list[str] = []

    def closable(name: str) -> SimpleNamespace:
        async def close() -> None:
            closed.append(name)

        return SimpleNamespace(close=close)

    async def run() -> None:
        app.loop = asyncio.get_running_loop()
        consumer = app.consumer._thread._consumer = SimpleNamespace(
            _client=closable("client"), _coordinator=closable("coordinator"), _closed=False
        )
        app._stopped.set()
        await getattr(app, rebalance)(set())
        await let_it_run()
        assert not closed
        assert not consumer._closed, "on_thread_stop would not close it"

    asyncio.run(run())


PART = SimpleNamespace(encode=lambda: b"request")
REQUEST = SimpleNamespace(prepare=lambda _: SimpleNamespace(build_request_header=lambda **_: PART, encode=PART.encode))


@pytest.mark.parametrize(
    "write", [lambda connection: connection.send(REQUEST), lambda connection: connection._send_sasl_token(b"token")]
)
def test_a_write_to_a_closed_transport_is_a_broken_connection(write: Callable[[Connection], object]) -> None:
    """The peer resets a connection: uvloop has closed its transport before aiokafka reads the end. The error is one
    that aiokafka's group coordination survives."""

    async def run() -> None:
        server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        connection = conn.AIOKafkaConnection("127.0.0.1", port)  # as create_conn makes it
        _, connection._writer = await asyncio.open_connection("127.0.0.1", port)
        connection._writer.transport.abort()
        await let_it_run()
        with pytest.raises(KafkaConnectionError, match="closed"):
            write(connection)
        server.close()

    uvloop.run(run())


@pytest.mark.parametrize(
    ("value_bytes", "messages"),
    [(5, [[(1, 4, 9, 0), (0, 1, 3, 2), (2, 0, 2, 2)]]), (5 << 20, [[(1, 4, 9, 0), (0, 1, 3, 2)], [(2, 0, 2, 2)]])],
)
def test_a_fetch_is_one_message_with_a_chunk_of_each_partition(
    app: faust.App, monkeypatch: pytest.MonkeyPatch, value_bytes: int, messages: list[list[tuple[int, ...]]]
) -> None:
    """In the order of the fetch, also for a partition whose offsets have no click. A cycle takes whole messages, so
    more than 16 MB are several ones. They count until they are acked."""
    record = SimpleNamespace(key=b"user", value=b"v" * value_bytes, timestamp=7_000, timestamp_type=0)
    read = {
        TP("clicks", 1): OffsetRange(4, 9, 0, []),
        TP("clicks", 0): OffsetRange(1, 3, 0, [record] * 2),
        TP("clicks", 2): OffsetRange(0, 2, 0, [record] * 2),
    }
    fetched: list[Fetched] = [read]
    taken: list[ConsumerMessage] = []

    async def run() -> None:
        consumer = app.consumer
        draining = drain(consumer, monkeypatch, lambda: fetched.pop() if fetched else None, taken)
        await let_it_run()
        draining.cancel()
        found = [[(c.partition.number, c.begin, c.end, len(c.records)) for c in m.value.chunks] for m in taken]
        assert found == messages
        assert (taken[0].timestamp, consumer._records, consumer._bytes) == (7.0, 4, 4 * (4 + value_bytes))
        for message in taken:
            consumer.ack(message)
        assert (consumer._records, consumer._bytes) == (0, 0)

    asyncio.run(run())


def test_every_partition_gets_a_seek_even_without_a_committed_offset(
    app: faust.App, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rebalance before the first commit skips no click: there is a seek to offset 0, too."""
    sought: dict[TP, int] = {}

    async def seek_wait(partitions: dict[TP, int]) -> None:
        sought.update(partitions)

    async def run() -> None:
        consumer = app.consumer
        monkeypatch.setattr(consumer, "assignment", lambda: {TP("clicks", 0), TP("clicks", 1)})
        monkeypatch.setattr(consumer, "seek_wait", seek_wait)
        app.transport.positions = lambda: {Partition("clicks", 0): 0, Partition("clicks", 1): 7}
        await consumer.perform_seek()
        assert sought == {TP("clicks", 0): 0, TP("clicks", 1): 7}

    asyncio.run(run())


@pytest.mark.parametrize("instance", [None, "eddy-0"])
def test_group_metadata_has_librdkafkas_layout(instance: str | None) -> None:
    """Our bytes equal those of librdkafka's own consumers, except for generation and member."""
    config = {"bootstrap.servers": "127.0.0.1:9", "group.id": "shop", "log_level": 0}
    theirs = Consumer(config | ({"group.instance.id": instance} if instance else {})).consumer_group_metadata()
    ours = group_metadata("shop", 7, "member", instance)
    assert theirs.startswith(b"CGMDv2:" + struct.pack("=i", -1))
    assert ours == theirs.replace(struct.pack("=i", -1), struct.pack("=i", 7)).replace(b"shop\0", b"shop\0member")


@pytest.mark.parametrize(("generation", "member"), [(-1, ""), (-1, "m"), (3, "")])
def test_offsets_without_a_membership_are_refused(generation: int, member: str) -> None:
    """The broker accepts (-1, "") without fencing, so such offsets are never sent."""
    with pytest.raises(Fenced):
        group_metadata("shop", generation, member, None)
