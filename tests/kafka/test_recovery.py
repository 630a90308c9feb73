"""What a user relies on when partitions change hands, and when the changelog is not what the workers wrote."""

import hashlib
import signal

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from tests.kafka.lane import Lane, Worker, clicks, wait_until
from tests.oracle import POSITION

RECOVERED = "partitions recovered"
LONG_SESSION = 60


def recovered(worker: Worker) -> int:
    """How many partitions a worker has since its last recovery."""
    lines = [line for line in worker.log.splitlines() if RECOVERED in line]
    return lines[-1].partition("partitions=[")[2].partition("]")[0].count(",") + 1 if lines else 0


def kept(worker: Worker) -> list[int]:
    """How many partitions each recovery of a worker kept without reading them."""
    lines = [line for line in worker.log.splitlines() if RECOVERED in line]
    return [int(line.partition(" kept=")[2].split()[0]) for line in lines]


def set_config(admin: AdminClient, topic: str, name: str, value: str) -> None:
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin.incremental_alter_configs([resource])[resource].result(30)


def refusal(lane: Lane) -> str:
    """The last line of a worker that ends with exit code 2."""
    worker = lane.start()
    assert worker.process.wait(timeout=60) == 2, worker.log
    return worker.log.strip().splitlines()[-1]


def test_stopped_worker_hands_over_at_once(lane: Lane) -> None:
    """With a session of a minute the other worker has all partitions in seconds, and reads only those it had not."""
    lane.produce(clicks(1_000))
    first, second = (lane.start(session_timeout_s=LONG_SESSION, worker_id=name) for name in ("a", "b"))
    wait_until(lambda: recovered(first) == recovered(second) == 2, "each worker has half of the partitions")
    lane.wait_for_clicks()
    assert first.end(signal.SIGTERM) == 0, first.log
    wait_until(lambda: recovered(second) == 4, "the second worker has all partitions", LONG_SESSION / 2)
    assert kept(second)[-1] == 2
    lane.produce(clicks(1_000, seed=1))
    lane.wait_for_clicks(deadline_s=30)
    lane.assert_as_if_nothing_had_happened()


def test_worker_that_stays_in_the_group_comes_back_to_its_partitions(lane: Lane) -> None:
    """A rolling restart under the same id moves nothing: the other worker sees no rebalance."""
    options: dict[str, object] = {"session_timeout_s": LONG_SESSION, "stay_in_group": True}
    first, second = (lane.start(worker_id=name, **options) for name in ("a", "b"))
    wait_until(lambda: recovered(first) == recovered(second) == 2, "each worker has half of the partitions")
    before = second.log.count(RECOVERED)
    assert first.end(signal.SIGTERM) == 0, first.log
    lane.produce(clicks(500))
    again = lane.start(worker_id="a", **options)
    again.wait_for(RECOVERED)
    lane.wait_for_clicks(deadline_s=30)
    assert second.log.count(RECOVERED) == before
    lane.assert_as_if_nothing_had_happened()


def test_changelog_that_lost_rows_is_refused(lane: Lane) -> None:
    """Records deleted from its older half: the states would be wrong without a sign, so the worker names the loss."""
    lane.produce(clicks(1_000))
    worker = lane.start()
    lane.wait_for_clicks()
    assert worker.end(signal.SIGTERM) == 0, worker.log
    rows = [m for m in lane.read(lane.topics.changelog) if m.partition() == 0]
    half = rows[len(rows) // 2].offset()
    admin = AdminClient({"bootstrap.servers": lane.broker})
    set_config(admin, lane.topics.changelog, "cleanup.policy", "delete")
    deleted = [TopicPartition(lane.topics.changelog, 0, half)]

    def delete() -> bool:
        """False while the new policy has not reached the partition."""
        try:
            admin.delete_records(deleted)[deleted[0]].result(30)
        except KafkaException as exc:
            if exc.args[0].code() != KafkaError.POLICY_VIOLATION:
                raise
            return False
        return True

    wait_until(delete, "the policy of the changelog is delete")
    set_config(admin, lane.topics.changelog, "cleanup.policy", "compact")
    line = refusal(lane)
    for words in ("clicks-0 lost or changed rows", "cleanup.policy=compact", "topics repair --accept-lost-rows"):
        assert words in line


def test_broken_row_costs_one_user_the_history(lane: Lane) -> None:
    """One row with a changed byte: its user begins again and is named in the log, everybody else continues."""
    lane.produce(clicks(1_000))
    worker = lane.start()
    lane.wait_for_clicks()
    assert worker.end(signal.SIGTERM) == 0, worker.log
    message = next(m for m in reversed(lane.read(lane.topics.changelog)) if m.value() and m.key() != POSITION)
    broken = bytearray(message.value())
    broken[-9] ^= 0x40
    producer = Producer({"bootstrap.servers": lane.broker, "log_level": 2})
    producer.produce(lane.topics.changelog, bytes(broken), message.key(), message.partition())
    assert producer.flush(30) == 0
    again = lane.start()
    again.wait_for(RECOVERED)
    [line] = [line for line in again.log.splitlines() if " ERROR " in line]
    assert f"rows=1 first_user={hashlib.sha256(message.key()).hexdigest()[:12]}" in line
    before = len(lane.read(lane.topics.recommendations))
    lane.produce(clicks(500, seed=1))
    lane.wait_for_clicks()
    assert len(lane.read(lane.topics.recommendations)) == before + 500
