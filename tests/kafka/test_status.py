"""What a worker on a real Kafka logs about its work and about faulty producers."""

import hashlib
import json
import re
from collections import defaultdict

from confluent_kafka import Producer

from stream.kafka.changelog import POSITION_KEY
from tests.kafka.lane import NOW_MS, Lane, Worker, clicks

WITHIN_S = 8.0
"""How soon after the messages a warning must be in the log."""


def started(lane: Lane) -> Worker:
    worker = lane.start()
    worker.wait_for("partitions recovered")
    return worker


def produce(lane: Lane, partitioner: str, messages: list[tuple[bytes | None, bytes | None]]) -> None:
    """Publish as a producer with this partitioner does."""
    producer = Producer({"bootstrap.servers": lane.broker, "partitioner": partitioner, "linger.ms": 20, "log_level": 2})
    for key, value in messages:
        producer.produce(lane.topics.clicks, value, key)
    assert producer.flush(60) == 0


def test_a_producer_whose_messages_are_all_refused_is_reported_with_the_reason(lane: Lane) -> None:
    """For 2,000 messages with "product" instead of "item_id", the log soon names the reason and the fields seen.

    The 4,000 good clicks before them cause no warning.
    """
    worker = started(lane)
    lane.produce(clicks(4_000))
    lane.wait_for_clicks()
    event = {"product": "i1", "timestamp": NOW_MS, "event_type": "view"}
    lane.produce((b"u%d" % n, json.dumps({"user_id": f"u{n}"} | event).encode()) for n in range(2_000))
    worker.wait_for("fields seen: event_type, product, timestamp, user_id;", deadline_s=WITHIN_S)
    [line] = [line for line in worker.log.splitlines() if " WARNING " in line]
    assert "many messages are dead letters" in line
    assert "commonest_reason=wrong_fields" in line
    assert "item_id" in line.split("detail of one: ")[1].split(";")[0]


def test_two_partitioners_are_reported_and_the_status_line_has_the_figures(lane: Lane) -> None:
    """A Java shop and a backend with librdkafka's default write the same 60 users: a user in two partitions is shown.

    The status line of the same worker has the clicks, the users and no lag.
    """
    worker = started(lane)
    produce(lane, "murmur2_random", clicks(600, users=60, seed=1))
    produce(lane, "consistent_random", clicks(600, users=60, seed=2))
    worker.wait_for("producers put keys into partitions in different ways", deadline_s=WITHIN_S)
    [line] = [line for line in worker.log.splitlines() if "in different ways" in line]
    assert " WARNING " in line
    assert "murmur2 (Java clients)" in line
    assert "crc32 (librdkafka's default)" in line
    lane.wait_for_clicks()
    where: dict[bytes, set[int | None]] = defaultdict(set)
    for message in lane.read(lane.topics.changelog):
        if message.key() != POSITION_KEY:
            where[message.key() or b""].add(message.partition())
    shown = re.search(r" user=(\w{12}) partition=(\d) offset=\d+ other_partition=(\d) ", line)
    assert shown is not None
    [user] = [user for user in where if hashlib.sha256(user).hexdigest()[:12] == shown[1]]
    assert where[user] == {int(shown[2]), int(shown[3])}

    worker.wait_for(" INFO status: ", deadline_s=45.0)
    [status] = [line for line in worker.log.splitlines() if " status: " in line]
    figures = dict(re.findall(r"(\w+)=(\S+)", status))
    assert float(figures["clicks_per_s"]) * 30 > 1_000
    assert (figures["lag"], figures["dead_letters"], figures["reasons"]) == ("0", "0", "none")
    assert int(figures["users"]) == sum(map(len, where.values()))
    assert 0 < int(figures["age_p50_ms"]) <= int(figures["age_p99_ms"]) < 60_000
    assert 0 < float(figures["unknown_items"].rstrip("%")) < 20
