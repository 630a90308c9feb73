"""Workers on a real Kafka: one decision per click, and states as if no failure had happened."""

import signal
from collections import deque
from collections.abc import Iterator

import msgspec

from stream.events import Anomaly, Recommendation, SystemAlert
from tests.kafka.lane import Lane, Worker, clicks, fault, wait_until

RECOVERED = "partitions recovered"

Message = tuple[bytes | None, bytes | None]


def some_sent_twice(messages: list[Message]) -> Iterator[Message]:
    """Half of the clicks with an event id; each third of these is sent again after the next fifty clicks."""
    again: deque[Message | None] = deque([None] * 50)
    for n, (key, value) in enumerate(messages):
        if n % 2:
            event = msgspec.json.decode(value or b"")
            value = msgspec.json.encode(event | {"event_id": f"sent at {event['timestamp']}"})
        yield key, value
        again.append((key, value) if n % 6 == 1 else None)
        repeat = again.popleft()
        if repeat is not None:
            yield repeat


def test_each_click_has_one_decision_and_states_equal_those_of_a_plain_loop(lane: Lane) -> None:
    """Each click has one decision with the click's offset as id, and the changelog has exactly the oracle's rows."""
    lane.produce(clicks(2_000))
    worker = lane.start()
    lane.wait_for_clicks()
    assert worker.end(signal.SIGTERM) == 0, worker.log

    lane.assert_as_if_nothing_had_happened()
    one = msgspec.json.decode(lane.read(lane.topics.recommendations)[0].value(), type=Recommendation)
    assert len(one.items) == 20
    assert one.item_id not in one.items
    assert one.model == "random/1"
    alerts = [msgspec.json.decode(m.value(), type=Anomaly) for m in lane.read(lane.topics.anomalies)]
    assert all(alert.p_value <= 0.001 for alert in alerts)


def test_clicks_of_any_compression_are_read(lane: Lane) -> None:
    """Producers may use each of Kafka's compression codecs."""
    for seed, codec in enumerate(("none", "gzip", "snappy", "lz4", "zstd")):
        lane.produce(clicks(200, seed=seed), codec)
    lane.start()
    lane.wait_for_clicks()
    lane.assert_as_if_nothing_had_happened()


def test_killed_worker_continues_where_its_last_transaction_ended(lane: Lane) -> None:
    """After three times kill -9, no click is lost or repeated: rows, decisions and alerts equal the oracle's.

    A click that the producer sent twice with one event id is decided once, also if the worker was killed in between.
    """
    midway = []
    for seed, messages in enumerate((clicks(2_000), clicks(2_000, seed=1), fault())):
        lane.produce(some_sent_twice(messages))
        worker = lane.start(max_cycle_clicks=20)
        lane.wait_for_clicks((seed + 0.2) / (seed + 1))
        worker.end(signal.SIGKILL)
        with lane.progress() as look:
            committed, ends = look()
        midway.append(committed < ends)
    assert any(midway), "each time the worker was done before it could be killed"
    lane.start()
    lane.wait_for_clicks()
    lane.assert_as_if_nothing_had_happened()
    alerts = [msgspec.json.decode(m.value(), type=SystemAlert) for m in lane.read(lane.topics.system_alerts)]
    assert {(alert.partition, alert.sign) for alert in alerts} >= {(n, "unknown event types") for n in range(4)}


def test_workers_share_partitions_and_pass_them_on(lane: Lane) -> None:
    """A second worker takes half of the partitions; when the first stops, it gets the rest with their states."""
    lane.produce(clicks(1_000))
    first = lane.start()
    first.wait_for(RECOVERED)
    second = lane.start()
    wait_until(lambda: partitions(first) == partitions(second) == 2, "each worker has half of the partitions")
    lane.produce(clicks(1_000, seed=1))
    lane.wait_for_clicks()

    assert first.end(signal.SIGTERM) == 0
    lane.produce(clicks(500, seed=2))
    wait_until(lambda: partitions(second) == 4, "the second worker has all partitions")
    lane.wait_for_clicks()
    lane.assert_as_if_nothing_had_happened()


def test_frozen_worker_writes_nothing_after_it_has_lost_its_partitions(lane: Lane) -> None:
    """A worker that was frozen for longer than its session timeout has old states: it writes nothing, and ends or
    rejoins."""
    lane.produce(clicks(4_000))
    frozen = lane.start(max_cycle_clicks=20)
    lane.wait_for_clicks(0.3)
    frozen.send(signal.SIGSTOP)
    lane.produce(clicks(1_000, seed=1))  # whatever it had done, there is work left to give away
    other = lane.start()
    lane.wait_for_clicks()
    assert partitions(other) == 4

    recoveries = frozen.log.count(RECOVERED)
    frozen.send(signal.SIGCONT)
    wait_until(
        lambda: frozen.process.poll() is not None or frozen.log.count(RECOVERED) > recoveries,
        "the frozen worker has ended or rejoined",
    )
    assert frozen.process.poll() in (None, 70)
    lane.produce(clicks(500, seed=2))
    lane.wait_for_clicks()
    lane.assert_as_if_nothing_had_happened()


def partitions(worker: Worker) -> int:
    """Number of the worker's partitions, from the last such line of its log."""
    lines = [line for line in worker.log.splitlines() if RECOVERED in line or "no partitions" in line]
    if not lines or "no partitions" in lines[-1]:
        return 0
    return lines[-1].partition("partitions=[")[2].partition("]")[0].count(",") + 1
