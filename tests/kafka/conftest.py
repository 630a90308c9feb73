"""The tests on a real Kafka (the lane): one broker for all of them, and new topics for each test.

EDDY_TEST_KAFKA=host:port uses that broker; otherwise one is started from Maven's jars. If neither is possible,
the lane is skipped with a clear message. With EDDY_REQUIRE_KAFKA=1 it fails (tests/kafka_lane.py).
"""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from bench.apache_kafka import ApacheKafka, KafkaUnavailable
from bench.tcp_proxy import TcpProxy
from export.model.untrained import write_untrained
from tests.kafka.apicurio import Apicurio, Running
from tests.kafka.brokers import one_broker, one_server
from tests.kafka.lane import Lane
from tests.kafka.secured import (  # noqa: F401, fixtures
    certificates,
    cluster,
    own_cluster,
    secure,
    token_url,
    write_certificates,
)
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
        with one_broker(
            shared_directory(tmp_path_factory), "plain", lambda session_s: ApacheKafka(session_s=session_s)
        ) as broker:
            yield broker.address
    except KafkaUnavailable as exc:
        if REQUIRED:
            pytest.fail(f"EDDY_REQUIRE_KAFKA=1, but there is no real Kafka: {exc}", pytrace=False)
        pytest.skip(f"THE KAFKA LANE DID NOT RUN: {exc}. Install Java and Maven or set EDDY_TEST_KAFKA=host:port")


@pytest.fixture(scope="session")
def registry(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The Schema Registry of all processes. Without `kafka` no test needs it."""
    shared = shared_directory(tmp_path_factory)
    certificate = once(shared / "certificates", write_certificates) / "broker.pem"

    def start() -> Apicurio:
        return Apicurio(shared / "apicurio.log", certificate)

    try:
        with (
            one_server(shared, "registry", start, lambda one: [one.url, one.tls]) as (url, tls),
            TcpProxy(urlsplit(url).netloc) as proxy,
        ):
            yield Running(url, tls, proxy)
    except KafkaUnavailable as exc:
        if REQUIRED:
            pytest.fail(f"EDDY_REQUIRE_KAFKA=1, but there is no Schema Registry: {exc}", pytrace=False)
        pytest.skip(f"NO TEST ON A SCHEMA REGISTRY DID RUN: {exc}")


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
