"""`eddy sink webhook` on a real Kafka and a real HTTP server: each event comes, in order, whatever happens.

The oracle is a plain read of the topic.
"""

import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewPartitions

from tests.docs.blocks import ROOT
from tests.kafka.lane import Lane, Worker, wait_until
from tests.kafka.test_sinks import create_hours, publish
from tests.receiver import Answer, Receiver, alert

pytestmark = pytest.mark.real_kafka

READS = "begins to read: group="


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def start(lane: Lane, receiver: Receiver, *options: str) -> Worker:
    words = ["sink", "webhook", "--broker", lane.broker, "--anomalies-topic", lane.topics.anomalies, "--json"]
    words += ["--group", f"{lane.name}-hook", *options]
    return lane.start_command(words, ROOT, {"EDDY_SINK_URL": receiver.url})


def ended(process: Worker, code: int = 0) -> Any:
    """The figures of a process that has ended by itself, or after a signal."""
    assert process.process.wait(60) == code, process.log
    return json.loads(process.log.splitlines()[-1]) if code == 0 else process.log.splitlines()[-1]


def expected(lane: Lane) -> dict[str, bytes]:
    """Key -> body of each event that a read_committed reader sees, in the order of each partition."""
    messages = sorted(lane.read(lane.topics.anomalies), key=lambda m: (m.partition(), m.offset()))
    return {f"{m.topic()}-{m.partition()}-{m.offset()}": m.value() for m in messages}


def produce(lane: Lane, count: int, first: int = 0) -> None:
    """Alerts, the same number in each partition."""
    producer = Producer({"bootstrap.servers": lane.broker, "log_level": 0})
    for n in range(first, first + count):
        producer.produce(lane.topics.anomalies, json.dumps(alert(n)), f"u{n}", partition=n % lane.partitions)
    assert producer.flush(30) == 0


def assert_in_order(receiver: Receiver) -> None:
    """The first request of each event comes after those of the events before it in its partition."""
    seen: dict[str, int] = {}
    for key in dict.fromkeys(receiver.keys):
        partition, _, offset = key.rpartition("-")
        assert int(offset) > seen.get(partition, -1), receiver.keys
        seen[partition] = int(offset)


def test_nothing_is_missing_under_kill_9_and_a_repeat_has_a_known_key(lane: Lane, receiver: Receiver) -> None:
    """The process is killed twice while the receiver has an event and has not answered yet. Events of transactions that
    were rolled back are not posted."""
    create_hours(lane)
    publish(lane, 600)
    wanted = expected(lane)
    assert len(wanted) > 30
    receiver.answers = [Answer()] * 9 + [Answer(hangs=True)] + [Answer()] * 9 + [Answer(hangs=True)]
    for count in (10, 20):
        process = start(lane, receiver, "--start-at", "earliest")
        receiver.wait_for(count)
        process.end(signal.SIGKILL)
    ended(start(lane, receiver, "--once"))
    assert {request.key: request.body for request in receiver.requests} == wanted
    assert len(receiver.requests) == len(wanted) + 2  # no more than what was under way is posted again
    assert receiver.keys.count(receiver.keys[9]) == receiver.keys.count(receiver.keys[19]) == 2
    assert_in_order(receiver)
    assert ended(start(lane, receiver, "--once"))["written"] == {"anomalies": 0}


def test_two_processes_of_a_group_share_the_partitions(lane: Lane, receiver: Receiver) -> None:
    """Each event is posted by one of them. If one is killed, the other one goes on with its partitions."""
    processes = [start(lane, receiver) for _ in range(2)]
    for process in processes:
        process.wait_for(f"{READS}{lane.name}-hook partitions=2")
    produce(lane, 40)
    receiver.wait_for_keys(40)
    processes[0].end(signal.SIGKILL)
    produce(lane, 20, first=40)
    receiver.wait_for_keys(60)
    assert processes[1].end(signal.SIGTERM) == 0
    rest = ended(processes[1])["written"]["anomalies"]
    assert 20 + 10 < rest < 60  # its half, and all of the later ones
    assert set(receiver.keys) == set(expected(lane))
    assert len(receiver.keys) <= 60 + 1  # the one that was killed may not have committed its last event
    assert_in_order(receiver)


def test_a_new_group_begins_at_the_end_and_a_later_start_where_it_was(lane: Lane, receiver: Receiver) -> None:
    """Also if it has posted nothing yet: what comes while no process runs is posted by the next one."""
    produce(lane, 8)
    process = start(lane, receiver)
    process.wait_for(f"{READS}{lane.name}-hook partitions=4")
    assert process.end(signal.SIGTERM) == 0
    assert ended(process)["written"] == {"anomalies": 0}
    produce(lane, 4, first=8)
    assert ended(start(lane, receiver, "--once"))["written"] == {"anomalies": 4}
    assert {json.loads(request.body)["id"] for request in receiver.requests} == {f"clicks-0-{n}" for n in range(8, 12)}
    group = ("--group", f"{lane.name}-all", "--start-at", "earliest")
    assert ended(start(lane, receiver, "--once", *group))["written"] == {"anomalies": 12}
    group = ("--group", f"{lane.name}-time", "--start-at", "2020-01-01T00:00:00")
    assert ended(start(lane, receiver, "--once", *group))["written"] == {"anomalies": 12}


def test_a_process_that_waits_for_its_receiver_stays_in_the_group(lane: Lane, receiver: Receiver) -> None:
    """A second one gets its part meanwhile, and SIGTERM ends a process at once. Nothing is left out afterwards."""
    produce(lane, 8)
    receiver.answers = [Answer(429, {"Retry-After": "3000"})] * 2
    processes = [start(lane, receiver, "--start-at", "earliest")]
    processes[0].wait_for("does not answer, eddy sink waits for it")
    processes.append(start(lane, receiver))
    processes[1].wait_for(f"{READS}{lane.name}-hook partitions=2")
    processes[0].wait_for(f"{READS}{lane.name}-hook partitions=2")
    for process in processes:
        assert process.end(signal.SIGTERM, 20) == 0, process.log
    receiver.answers.clear()
    ended(start(lane, receiver, "--once"))
    wanted = expected(lane)
    assert len(wanted) == 8
    assert set(receiver.keys) == set(wanted)
    assert len(receiver.keys) <= len(wanted) + 2  # each process was refused at most once


def test_a_webhook_that_is_gone_ends_the_process_in_one_line_without_the_url(lane: Lane, receiver: Receiver) -> None:
    """Exit code 2. After the repair the next run begins with the same event."""
    produce(lane, 1)
    receiver.answers = [Answer(404, body=b"no_service")]
    line = ended(start(lane, receiver, "--start-at", "earliest"), 2)
    assert line.startswith(f"eddy: {receiver.where} refuses every event (status 404: no_service): it does not know")
    assert ended(start(lane, receiver, "--once"))["written"] == {"anomalies": 1}
    assert receiver.keys == list(expected(lane)) * 2
    logs = "".join(process.log for process in lane.workers)
    assert "S3CRET" not in logs
    assert "T0KEN" not in logs
    assert "Traceback" not in logs


def test_a_partition_that_is_added_is_read_from_its_begin(lane: Lane, receiver: Receiver) -> None:
    """Its messages are new, whatever --start-at is."""
    produce(lane, 4)
    assert ended(start(lane, receiver, "--once"))["written"] == {"anomalies": 0}
    admin = AdminClient({"bootstrap.servers": lane.broker})
    admin.create_partitions([NewPartitions(lane.topics.anomalies, 5)])[lane.topics.anomalies].result()

    def there() -> bool:
        return len(admin.list_topics(lane.topics.anomalies, timeout=10).topics[lane.topics.anomalies].partitions) == 5

    wait_until(there, "the partition is there")
    lane.partitions = 5
    produce(lane, 5, first=4)
    assert ended(start(lane, receiver, "--once"))["written"] == {"anomalies": 5}
