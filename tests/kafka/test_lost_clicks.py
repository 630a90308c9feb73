"""Clicks that Kafka deletes before a worker has read them are counted and logged, never skipped silently."""

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from tests.kafka.lane import Lane, Worker, click_id, clicks, wait_until
from tests.kafka.scrape import free_port, value, wait_for_phase


@pytest.fixture
def single(kafka: str, name: str, model: Path, tmp_path: Path) -> Iterator[Lane]:
    """Topics of one partition: the n-th click has offset n."""
    lane = Lane(kafka, name, model, tmp_path, partitions=1)
    lane.create()
    yield lane
    lane.end_all()


def delete_up_to(lane: Lane, offset: int) -> None:
    """Delete the first clicks, as retention does."""
    admin = AdminClient({"bootstrap.servers": lane.broker})
    for future in admin.delete_records([TopicPartition(lane.topics.clicks, 0, offset)]).values():
        future.result()


def lost(worker: Worker) -> list[tuple[int, int, int]]:
    """(first offset, last offset, count) of each report in the worker's log."""
    found = re.findall(r"WARNING clicks lost .* offsets=(\d+)\.\.(\d+) count=(\d+)", worker.log)
    return [(int(first), int(last), int(count)) for first, last, count in found]


def decided_offsets(lane: Lane) -> list[int]:
    return sorted(int(click_id(m).rpartition("-")[2]) for m in lane.read(lane.topics.recommendations))


def test_clicks_deleted_under_a_running_worker_are_counted_and_logged(single: Lane) -> None:
    """If retention deletes clicks before a slow worker reads them, one warning has their offsets, and the next click is
    decided."""
    single.produce(clicks(500))
    worker = single.start(session_timeout_s=60, hang_s=60)
    single.wait_for_clicks()
    worker.send(signal.SIGSTOP)
    single.produce(clicks(1, seed=1))  # answers a fetch that the broker may still hold
    single.produce(clicks(999, seed=2))
    delete_up_to(single, 1_200)
    worker.send(signal.SIGCONT)
    single.produce(clicks(100, seed=3))
    single.wait_for_clicks()
    [(first, last, count)] = lost(worker)
    assert (first in (500, 501), last, count) == (True, 1_199, 1_200 - first)
    assert decided_offsets(single) == [*range(first), *range(1_200, 1_600)]
    assert worker.end(signal.SIGTERM) == 0, worker.log


def test_clicks_deleted_while_no_worker_ran_are_counted_and_logged_once(single: Lane) -> None:
    """The next start reports the lost clicks, also if no click is left, and goes on; the start after that reports
    nothing."""
    single.produce(clicks(500))
    worker = single.start()
    single.wait_for_clicks()
    assert worker.end(signal.SIGTERM) == 0, worker.log
    single.produce(clicks(300, seed=1))
    delete_up_to(single, 800)
    port = free_port()
    worker = single.start(http_port=port)
    single.wait_for_clicks()
    assert lost(worker) == [(500, 799, 300)]
    wait_for_phase(port, "assigned")
    wait_until(lambda: value(port, "eddy_lag", partition="0") == 0, "the lag is known", 10)
    assert worker.end(signal.SIGTERM) == 0, worker.log
    single.produce(clicks(100, seed=2))
    worker = single.start()
    single.wait_for_clicks()
    assert lost(worker) == []
    assert decided_offsets(single) == [*range(500), *range(800, 900)]


def test_new_group_on_an_old_topic_has_lost_nothing(single: Lane) -> None:
    """A group that has never read the topic begins at the first click in Kafka, and reports no lost click."""
    single.produce(clicks(300))
    delete_up_to(single, 200)
    worker = single.start()
    single.wait_for_clicks()
    assert lost(worker) == []
    assert decided_offsets(single) == list(range(200, 300))
