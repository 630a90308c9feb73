"""The reader with which the tests and benchmarks look at topics."""

import threading
import uuid
from typing import Any

import pytest
from confluent_kafka import Consumer, Message, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from bench import readers


class Watched:
    """A consumer that tells when it has come to an end for the first time."""

    def __init__(self, consumer: Consumer, ended: threading.Event) -> None:
        self._consumer, self._ended = consumer, ended

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consumer, name)

    def consume(self, *of: Any) -> list[Message]:
        found: list[Message] = self._consumer.consume(*of)
        if any(message.error() is not None for message in found):
            self._ended.set()
        return found


def test_a_transaction_that_is_still_open_is_waited_for(kafka: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As right after a commit, before Kafka has written its marker. One that stays open is not waited for for ever."""
    topic, admin = f"readers-{uuid.uuid4().hex}", AdminClient({"bootstrap.servers": kafka})
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(timeout=10)
    producer = Producer({"bootstrap.servers": kafka, "transactional.id": topic})
    producer.init_transactions(10)
    producer.begin_transaction()
    producer.produce(topic, b"one")
    producer.flush(10)
    with monkeypatch.context() as patch:
        patch.setattr(readers, "MARKER_S", 0.2)
        assert readers.read_topic(kafka, topic) == []

    ended, of_kafka = threading.Event(), readers._consumer
    monkeypatch.setattr(readers, "_consumer", lambda *of: Watched(of_kafka(*of), ended))
    commits = threading.Thread(target=lambda: ended.wait(10) and producer.commit_transaction(10))
    commits.start()
    assert [message.value() for message in readers.read_topic(kafka, topic)] == [b"one"]
    commits.join()
