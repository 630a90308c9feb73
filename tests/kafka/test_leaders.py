"""Two brokers, each partition on one of them: a partition whose broker is down has no leader, and Kafka answers.

It starts its own brokers, so it needs Java.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from bench.apache_kafka import PROPERTIES, KafkaUnavailable, fetch_jars, free_ports
from bench.chaos.cluster import Broker
from stream.kafka.topics import COMPACTED
from tests.kafka.lane import ASK_S, Lane, Worker, clicks, wait_until
from tests.kafka_lane import REQUIRED

pytestmark = [
    pytest.mark.real_kafka,
    pytest.mark.skipif("EDDY_TEST_KAFKA" in os.environ, reason="a broker that is not ours is not killed"),
]

SECOND = """process.roles=broker
node.id=2
listeners=PLAINTEXT://127.0.0.1:{port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
"""
"""The second broker, in the place of the same lines of PROPERTIES: the first one is the only controller."""

SESSIONS = "broker.session.timeout.ms=2000\nbroker.heartbeat.interval.ms=300\n"
"""A killed broker leads nothing after 2 s. With heartbeats every 2 s, the default, neither would a slow one."""

WAITS, GOES_ON = "partitions have no leader, Eddy waits for one: partitions=[{}]", "partitions have leaders again"


class Pair:
    """Two brokers. Topics that Kafka makes itself are on the first one."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        libs = fetch_jars()
        one, controller, two = free_ports(3)
        texts = [
            PROPERTIES.format(port=port, controller=controller, data=directory / name / "data")
            for port, name in ((one, "1"), (two, "2"))
        ]
        texts = [text + SESSIONS for text in texts]
        self.address = f"127.0.0.1:{one},127.0.0.1:{two}"
        self._first = f"127.0.0.1:{one}"
        self.first = Broker(libs, directory / "1", texts[0], 1)
        self.second = Broker(libs, directory / "2", texts[1] + SECOND.format(port=two), 2)
        for broker in (self.first, self.second):
            stack.callback(broker.kill)
        self.first.start()
        self._wait_for(1)
        for topic in ("__consumer_offsets", "__transaction_state"):
            self.create(topic, [1] * 4, {"cleanup.policy": "compact"})
        self.start_second()

    def start_second(self) -> None:
        self.second.start()
        self._wait_for(2)

    def kill_second(self) -> None:
        self.second.kill()
        self._wait_for(1)

    def create(self, topic: str, brokers: list[int], config: dict[str, str]) -> None:
        """Create a topic whose partition p is on the broker brokers[p] only."""
        new = NewTopic(topic, len(brokers), replica_assignment=[[number] for number in brokers], config=config)
        admin = self._admin()  # its end would be that of the question
        admin.create_topics([new])[topic].result(60)

    def _admin(self) -> AdminClient:
        """A new client. One that has seen a broker go, come and go again may wait for the one that is gone."""
        return AdminClient({"bootstrap.servers": self._first, "log_level": 0})

    def _wait_for(self, count: int) -> None:
        """Wait until the controller knows of as many brokers."""

        def there() -> bool:
            try:
                return len(self._admin().list_topics(timeout=5.0).brokers) == count
            except KafkaException:
                return False

        wait_until(there, f"{count} brokers", 120.0, ASK_S)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    try:
        with ExitStack() as stack:
            yield Pair(tmp_path_factory.mktemp("pair"), stack)
    except KafkaUnavailable as exc:
        if REQUIRED:
            pytest.fail(f"EDDY_REQUIRE_KAFKA=1, but there is no real Kafka: {exc}", pytrace=False)
        pytest.skip(f"THE KAFKA LANE DID NOT RUN: {exc}")


def lane_on(pair: Pair, name: str, model: Path, directory: Path, second: dict[str, int]) -> Iterator[Lane]:
    """Topics on the first broker, but for one partition each of some of them: `second` has a topic's word in Topics and
    the partition that is on the second broker."""
    lane = Lane(pair.address, name, model, directory)
    for word, topic in msgspec.structs.asdict(lane.topics).items():
        if topic:
            brokers = [2 if number == second.get(word) else 1 for number in range(lane.partitions)]
            pair.create(topic, brokers, COMPACTED if word == "changelog" else {})
    yield lane
    lane.end_all()
    pair.start_second()


@pytest.fixture
def lane(pair: Pair, name: str, model: Path, tmp_path: Path) -> Iterator[Lane]:
    """Topics whose partition 2 of the clicks and partition 1 of the changelog are on the second broker."""
    yield from lane_on(pair, name, model, tmp_path, {"clicks": 2, "changelog": 1})


@pytest.fixture(params=["changelog", "recommendations"])
def written(
    pair: Pair, name: str, model: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[tuple[Lane, str]]:
    """Topics of which one partition is on the second broker, and its name: one that a worker writes."""
    for lane in lane_on(pair, name, model, tmp_path, {request.param: 1}):
        yield lane, f"{getattr(lane.topics, request.param)}-1"


def ended(worker: Worker) -> str:
    """The log of a worker that is stopped."""
    assert worker.end(signal.SIGTERM) == 0, worker.log
    assert not [word for word in ("Traceback", " CRITICAL ") if word in worker.log], worker.log
    return worker.log


def test_a_worker_waits_at_its_start_for_partitions_without_a_leader(lane: Lane, pair: Pair) -> None:
    """It names them and says that it goes on, without a flood of lines, and recovers all that there is. One that is
    stopped meanwhile ends with 0."""
    lane.produce(clicks(1_000))
    worker = lane.start(worker_id="a")
    lane.wait_for_clicks()
    ended(worker)
    pair.kill_second()
    names = f"{lane.topics.changelog}-1", f"{lane.topics.clicks}-2"
    stopped = lane.start(worker_id="a")
    stopped.wait_for(WAITS.format(names[1]))
    ended(stopped)
    worker = lane.start(worker_id="a")
    worker.wait_for(WAITS.format(names[1]))
    pair.start_second()
    worker.wait_for(GOES_ON)
    lane.produce(clicks(1_000, seed=1))
    lane.wait_for_clicks()
    log = ended(worker)
    counts = [log.count(text) for text in ("Eddy waits for one", GOES_ON, "recovery reads again")]
    assert max(counts) <= 2, log  # Kafka may know one of the two partitions before the other, or for a moment neither
    assert counts[0] == counts[1], log
    lane.assert_as_if_nothing_had_happened()


def test_a_running_worker_waits_for_a_partition_that_it_writes(written: tuple[Lane, str], pair: Pair) -> None:
    """It names it, rolls back no transaction after the other meanwhile, and can be stopped. Then it goes on, and
    a batch that was rolled back is decided once."""
    lane, name = written
    lane.produce(clicks(1_000))
    worker = lane.start(worker_id="a")
    lane.wait_for_clicks()
    pair.kill_second()
    lane.produce(clicks(1_000, seed=1))
    worker.wait_for(WAITS.format(name))
    ended(worker)
    assert 1 <= worker.log.count("transaction rolled back") <= 2, worker.log  # one may begin before Kafka knows it
    pair.start_second()
    worker = lane.start(worker_id="a")
    lane.wait_for_clicks()
    pair.kill_second()
    lane.produce(clicks(1_000, seed=2))
    worker.wait_for(WAITS.format(name))
    pair.start_second()
    worker.wait_for(GOES_ON)
    lane.wait_for_clicks()
    log = ended(worker)
    assert "producer replaced" not in log, log
    lane.assert_as_if_nothing_had_happened()


def test_a_worker_waits_at_its_start_for_a_transaction_that_cannot_end(written: tuple[Lane, str], pair: Pair) -> None:
    """The process before left a transaction with a partition that has no leader: no producer is made in vain for it,
    which later would fence the one in use."""
    lane, name = written
    lane.produce(clicks(1_000))
    worker = lane.start(worker_id="a")
    lane.wait_for_clicks()
    pair.kill_second()
    lane.produce(clicks(1_000, seed=1))
    worker.wait_for(WAITS.format(name))
    worker.end(signal.SIGKILL)
    worker = lane.start(worker_id="a", hang_s=5)
    worker.wait_for(WAITS.format(name))
    worker.wait_for("kafka call repeated: call=init_transactions", 2)
    pair.start_second()
    worker.wait_for(GOES_ON)
    lane.wait_for_clicks()
    log = ended(worker)
    assert "producer could not start" not in log, log
    lane.assert_as_if_nothing_had_happened()
