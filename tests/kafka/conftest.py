"""The lane on a real Kafka: one broker for the whole session, topics of their own for each test.

EDDY_TEST_KAFKA=host:port uses that broker; otherwise one is started from Maven's jars. Where neither is possible the
lane is skipped loudly, and with EDDY_REQUIRE_KAFKA=1 it fails: a lane that silently did not run proves nothing.
"""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.apache_kafka import ApacheKafka, KafkaUnavailable
from export.model.untrained import write_untrained
from tests.kafka.lane import Lane

REQUIRED = os.environ.get("EDDY_REQUIRE_KAFKA") == "1"
RAN = pytest.StashKey[int]()


@pytest.fixture(scope="session")
def kafka() -> Iterator[str]:
    """host:port of a real Kafka."""
    given = os.environ.get("EDDY_TEST_KAFKA")
    if given:
        yield given
        return
    try:
        broker = ApacheKafka()
    except KafkaUnavailable as exc:
        if REQUIRED:
            pytest.fail(f"EDDY_REQUIRE_KAFKA=1, but there is no real Kafka: {exc}", pytrace=False)
        pytest.skip(f"THE KAFKA LANE DID NOT RUN: {exc}. Install Java and Maven or set EDDY_TEST_KAFKA=host:port")
    yield broker.address
    broker.stop()


@pytest.fixture
def name() -> str:
    """A prefix for topics and groups that no other test and no earlier run uses."""
    return f"t{uuid.uuid4().hex[:10]}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.when == "call" and not report.skipped and "kafka" in getattr(item, "fixturenames", ()):
        item.config.stash[RAN] = item.config.stash.get(RAN, 0) + 1
    return report  # type: ignore[return-value]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A required lane of which not one test ran is a failure, whatever the reason (deselected, collected nowhere)."""
    if REQUIRED and session.config.stash.get(RAN, 0) == 0 and session.exitstatus == pytest.ExitCode.OK:
        print("\nEDDY_REQUIRE_KAFKA=1, but no test ran on a real Kafka")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with random weights, which steps states as any other."""
    directory = tmp_path_factory.mktemp("models") / "random" / "1"
    write_untrained(directory, [f"i{n}" for n in range(300)], ["view", "cart", "purchase"], hidden=16)
    return directory


@pytest.fixture
def lane(kafka: str, name: str, model: Path, tmp_path: Path) -> Iterator[Lane]:
    """Fresh topics on the real Kafka; every worker started on them ends with the test."""
    lane = Lane(kafka, name, model, tmp_path)
    lane.create()
    yield lane
    lane.end_all()
