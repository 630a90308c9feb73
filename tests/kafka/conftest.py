"""The tests on a real Kafka (the lane): one broker for all of them, and new topics for each test.

EDDY_TEST_KAFKA=host:port uses that broker; otherwise one is started from Maven's jars. If neither is possible,
the lane is skipped with a clear message. With EDDY_REQUIRE_KAFKA=1 it fails (tests/kafka_lane.py).
"""

import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.apache_kafka import ApacheKafka, KafkaUnavailable
from export.model.untrained import write_untrained
from tests.kafka.lane import Lane
from tests.kafka.secured import cluster, secure, token_url  # noqa: F401, fixtures
from tests.kafka_lane import REQUIRED
from tests.once import once, shared_directory


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "kafka" in getattr(item, "fixturenames", ()):
            item.add_marker("real_kafka")


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """host:port of a real Kafka."""
    given = os.environ.get("EDDY_TEST_KAFKA")
    if given:
        yield given
        return
    try:
        with one_broker(shared_directory(tmp_path_factory)) as address:
            yield address
    except KafkaUnavailable as exc:
        if REQUIRED:
            pytest.fail(f"EDDY_REQUIRE_KAFKA=1, but there is no real Kafka: {exc}", pytrace=False)
        pytest.skip(f"THE KAFKA LANE DID NOT RUN: {exc}. Install Java and Maven or set EDDY_TEST_KAFKA=host:port")


@contextmanager
def one_broker(directory: Path) -> Iterator[str]:
    """The address of one broker for all test processes that share the directory.

    Each user holds a shared lock. The first process starts the broker, and stops it when no other holds the lock.
    """
    started, address = None, directory / "kafka-address"
    with (directory / "kafka-lock").open("w") as lock:
        while True:
            fcntl.flock(lock, fcntl.LOCK_SH)
            if address.exists():
                break
            fcntl.flock(lock, fcntl.LOCK_EX)  # releases the shared lock first: another process may come before us
            if not address.exists():
                started = ApacheKafka()
                address.write_text(started.address)
        try:
            yield address.read_text()
        finally:
            if started is not None:
                fcntl.flock(lock, fcntl.LOCK_EX)
                address.unlink()
                started.stop()


@pytest.fixture
def name() -> str:
    """A prefix for topics and groups that no other test and no earlier run uses."""
    return f"t{uuid.uuid4().hex[:10]}"


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with random weights."""
    items, event_types = [f"i{n}" for n in range(300)], ["view", "cart", "purchase"]
    directory = shared_directory(tmp_path_factory) / "untrained" / "random" / "1"
    return once(directory, lambda path: write_untrained(path, items, event_types, hidden=16))


@pytest.fixture
def lane(kafka: str, name: str, model: Path, tmp_path: Path) -> Iterator[Lane]:
    """Fresh topics on the real Kafka; every worker started on them ends with the test."""
    lane = Lane(kafka, name, model, tmp_path)
    lane.create()
    yield lane
    lane.end_all()
