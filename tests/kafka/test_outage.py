"""Kafka is down, cut off or slow: no worker ends, the log says why nothing happens, and every click is decided once.

It starts its own broker, with a proxy in front of a second listener, so it needs Java.
"""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from bench.apache_kafka import ApacheKafka, KafkaUnavailable
from bench.tcp_proxy import TcpProxy
from stream.environment import FAUST_PREFIX
from stream.kafka.consumer.transport import IN_MEMORY_RECORDS
from tests.kafka import test_webhook as hook
from tests.kafka.lane import Lane, clicks
from tests.kafka_lane import REQUIRED
from tests.receiver import Receiver

pytestmark = pytest.mark.skipif("EDDY_TEST_KAFKA" in os.environ, reason="a broker that is not ours is not killed")

SILENT, BACK = "Kafka does not answer, Eddy waits", "Kafka answers again"
UNCOMMITTED = "offsets could not be committed yet"


class Network(NamedTuple):
    """A broker, and a proxy that leads to it."""

    broker: ApacheKafka
    proxy: TcpProxy


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    try:
        with TcpProxy() as proxy, ApacheKafka(proxy=proxy.address) as broker:
            proxy.target = broker.behind
            yield Network(broker, proxy)
    except KafkaUnavailable as exc:
        if REQUIRED:
            pytest.fail(f"EDDY_REQUIRE_KAFKA=1, but there is no real Kafka: {exc}", pytrace=False)
        pytest.skip(f"THE KAFKA LANE DID NOT RUN: {exc}")


@pytest.fixture
def lane(network: Network, name: str, model: Path, tmp_path: Path) -> Iterator[Lane]:
    """Fresh topics on the broker; tests and oracle do not use the proxy."""
    lane = Lane(network.broker.address, name, model, tmp_path)
    lane.create()
    yield lane
    network.proxy.delay_s = 0.0
    network.proxy.resume()
    lane.end_all()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the files of a running process")
def test_workers_wait_for_a_broker_whose_disk_is_full_and_continue(lane: Lane, network: Network) -> None:
    """The broker ends, and is started again. A running worker and one that starts meanwhile say once that Kafka does
    not answer and once that it does. One that is stopped while it waits exits with 0."""
    lane.produce(clicks(1_000))
    running = lane.start(worker_id="running")
    lane.wait_for_clicks()
    network.broker.fill_disk()
    starting, stopped = lane.start(worker_id="starting"), lane.start(worker_id="stopped")
    for worker in (running, starting, stopped):
        worker.wait_for(SILENT)
    assert stopped.end(signal.SIGTERM) == 0, stopped.log
    network.broker.restart()
    lane.produce(clicks(1_000, seed=1))
    for worker in (running, starting):
        worker.wait_for(BACK)
    lane.wait_for_clicks()
    for worker in (running, starting):
        worker.wait_for("partitions recovered")
        assert worker.end(signal.SIGTERM) == 0, worker.log
        assert [worker.log.count(text) for text in (SILENT, BACK, " ERROR ", "Traceback")] == [1, 1, 0, 0], worker.log
    lane.assert_as_if_nothing_had_happened()


def test_a_slow_network_that_stalls_and_breaks_costs_nothing_but_time(lane: Lane, network: Network) -> None:
    """Round trips of 200 ms, a stall longer than the session timeout, broken connections: the worker goes on. If it is
    stopped in a stall, its transaction is rolled back, it exits with 0, and the next worker decides on the clicks."""
    network.proxy.delay_s = 0.1
    lane.produce(clicks(500))
    worker = lane.start(worker_id="a", broker=network.proxy.address, max_cycle_clicks=100)
    lane.wait_for_clicks(0.1)
    network.proxy.stall()
    worker.wait_for(SILENT)
    network.proxy.resume()
    worker.wait_for(BACK)
    network.proxy.drop()
    network.proxy.delay_s = 0.01
    lane.produce(clicks(500, seed=1))
    lane.wait_for_clicks()

    lane.produce(clicks(2_000, seed=2))
    lane.wait_for_clicks(0.3)
    network.proxy.stall()
    with lane.progress() as look:
        committed, ends = look()
    assert committed < ends, "the worker was done before it was cut off"
    assert worker.end(signal.SIGTERM) == 0, worker.log
    assert "Traceback" not in worker.log
    network.proxy.resume()
    lane.start(worker_id="a")
    lane.wait_for_clicks()
    lane.assert_as_if_nothing_had_happened()


def test_an_outage_in_which_nothing_is_fetched_for_very_long_ends_as_any_other(lane: Lane, network: Network) -> None:
    """aiokafka leaves the group after a time without a fetch, here 2 s. Then the worker was in no group and said
    nothing, for ever. As many clicks as there may be are in memory, so nothing is fetched while Kafka is silent."""
    lane.produce(clicks(200))
    worker = lane.start(worker_id="a")
    lane.wait_for_clicks()
    assert worker.end(signal.SIGTERM) == 0, worker.log
    lane.produce(clicks(2 * IN_MEMORY_RECORDS, seed=1))
    command = lane.arguments(worker_id="a", max_cycle_clicks=500)
    variables = {f"{FAUST_PREFIX}BROKER_MAX_POLL_INTERVAL": "2"}
    worker = lane.start_command(command[command.index("worker") :], lane.directory, variables)
    lane.wait_for_clicks(0.02)
    with network.broker.frozen():
        worker.wait_for(SILENT)
    worker.wait_for(BACK)
    lane.wait_for_clicks(deadline_s=60.0)
    assert worker.end(signal.SIGTERM) == 0, worker.log


@pytest.mark.parametrize("away", ["silent", "dead"])
def test_a_webhook_gets_each_event_though_kafka_goes_away_while_it_commits(
    lane: Lane, network: Network, away: str
) -> None:
    """Once it comes back, and the same process goes on. Once the process is stopped meanwhile: it exits with 0, and the
    next one goes on. A repeat has the key of its event."""

    def leave() -> None:
        network.proxy.stall()
        if away == "dead":
            network.broker.kill()

    def come_back() -> None:
        if away == "dead":
            network.broker.restart()
        network.proxy.resume()

    with Receiver() as receiver:
        network.proxy.delay_s = 0.05  # most of the time a commit is under way
        hook.produce(lane, 40)
        process = hook.start(lane, receiver, "--broker", network.proxy.address, "--start-at", "earliest")
        receiver.wait_for_keys(8)
        leave()
        process.wait_for(UNCOMMITTED)
        come_back()
        receiver.wait_for_keys(40)
        hook.produce(lane, 40, first=40)
        receiver.wait_for_keys(48)
        leave()
        assert process.end(signal.SIGTERM, 25) == 0, process.log
        come_back()
        hook.ended(hook.start(lane, receiver, "--once"))
        assert {request.key: request.body for request in receiver.requests} == hook.expected(lane)
        assert "Traceback" not in process.log
        assert hook.ended(hook.start(lane, receiver, "--once"))["written"] == {"anomalies": 0}
