"""What is said of a topic that is not there."""

from types import SimpleNamespace

import pytest

from stream.access import publish
from stream.access.publish import partitions_of
from stream.errors import ConfigError
from stream.kafka_config import PLAINTEXT

TOPICS = {"shop-events": SimpleNamespace(partitions={1: None, 0: None}), "__shop-event": SimpleNamespace(partitions={})}


@pytest.fixture(autouse=True)
def admin(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = SimpleNamespace(topics=TOPICS)
    monkeypatch.setattr(publish, "Admin", lambda *_: SimpleNamespace(described=lambda answer_s: answer))


def missing(topic: str) -> str:
    with pytest.raises(ConfigError) as error:
        partitions_of("k:9092", topic, PLAINTEXT)
    return str(error.value)


def test_a_mistyped_topic_is_refused_with_the_nearest_one_there() -> None:
    """A command that only reads would else advise to create an empty topic. Topics of Kafka itself are not meant."""
    assert "no topic 'shop-event' that this user may see; did you mean 'shop-events'? Else name" in missing(
        "shop-event"
    )


def test_another_topic_is_refused_without_a_guess() -> None:
    """With what to do in each case: another name, a new topic, a right."""
    error = missing("clicks")
    assert "did you mean" not in error
    for part in ("may see; name another one", "eddy topics create", "give this user a right on it (docs/security.md)"):
        assert part in error


def test_the_partitions_are_in_order() -> None:
    """As numbers."""
    assert partitions_of("k:9092", "shop-events", PLAINTEXT) == [0, 1]
