"""The embedded broker stores and returns messages, and reports clearly why it cannot start."""

from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer

from stream.demo.broker import EmbeddedBroker, find_library
from stream.errors import ConfigError


def test_what_is_produced_is_consumed() -> None:
    """A topic given to the broker has its partitions and keeps each message's key and value."""
    with EmbeddedBroker({"clicks": 3}) as broker:
        producer = Producer({"bootstrap.servers": broker.address})
        for index in range(30):
            producer.produce("clicks", key=b"user-%d" % index, value=b"%d" % index)
        assert producer.flush(20) == 0
        consumer = Consumer({"bootstrap.servers": broker.address, "group.id": "test", "auto.offset.reset": "earliest"})
        assert len(consumer.list_topics("clicks", timeout=20).topics["clicks"].partitions) == 3
        consumer.subscribe(["clicks"])
        seen: set[tuple[bytes | None, bytes | None]] = set()
        for _ in range(200):
            seen |= {(message.key(), message.value()) for message in consumer.consume(30, 0.1) if not message.error()}
            if len(seen) == 30:
                break
        consumer.close()
        assert seen == {(b"user-%d" % index, b"%d" % index) for index in range(30)}


@pytest.mark.parametrize(
    ("package", "library"),
    [
        ("site/confluent_kafka", "site/confluent_kafka.libs/librdkafka-0cb9.so.1"),
        ("site/confluent_kafka", "site/confluent_kafka/.dylibs/librdkafka.1.dylib"),
    ],
)
def test_the_library_is_found_in_each_wheel(tmp_path: Path, package: str, library: str) -> None:
    """Linux and macOS wheels keep librdkafka in different directories."""
    (tmp_path / package).mkdir(parents=True)
    (tmp_path / library).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / library).touch()
    assert find_library(tmp_path / package) == str(tmp_path / library)


def test_a_missing_library_is_an_error_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without librdkafka the demo prints one line with the remedy."""
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)
    with pytest.raises(ConfigError, match="confluent-kafka") as error:
        find_library(tmp_path)
    assert "\n" not in str(error.value)
