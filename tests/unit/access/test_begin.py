"""Where a new group begins, for answers of Kafka that a test on a real one cannot order."""

from typing import Any, NamedTuple

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from stream.access.begin import _undecided, metadata
from stream.events import Partition

CLICKS = Partition("clicks", 0)
OURS = metadata("recommendations")


class Now:
    """A future that has a result, or raises."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def result(self) -> Any:
        if isinstance(self._value, Exception):
            raise self._value
        return self._value


class Listed(NamedTuple):
    valid: list[Any]
    errors: list[Any]


class Named(NamedTuple):
    group_id: str


class Offset(NamedTuple):
    offset: int


class Committed(NamedTuple):
    topic_partitions: list[TopicPartition]


class Described(NamedTuple):
    members: list[str]


class Kafka:
    """An Admin with one group. It decides a click after each question."""

    def __init__(self, committed: int, found: Any = None, errors: tuple[Any, ...] = (), workers: int = 0) -> None:
        self.end, self._workers = committed, workers
        self._found, self._errors = found, list(errors)

    def list_consumer_groups(self, request_timeout: float) -> Now:
        self.end += 1
        return Now(Listed([] if self._errors else [Named("before")], self._errors))

    def list_consumer_group_offsets(self, asked: Any, require_stable: bool, request_timeout: float) -> dict[str, Now]:
        self.end += 1
        assert require_stable
        return {"before": Now(self._found or Committed([TopicPartition(*CLICKS, self.end, OURS)]))}

    def describe_consumer_groups(self, groups: list[str], request_timeout: float) -> dict[str, Now]:
        return {name: Now(Described(["worker"] * self._workers)) for name in groups}

    def list_offsets(self, asked: Any, isolation_level: Any, request_timeout: float) -> dict[TopicPartition, Now]:
        self.end += 1
        return {TopicPartition(*CLICKS): Now(Offset(self.end))}


def begins(kafka: Any) -> dict[Partition, int]:
    return _undecided(kafka, OURS, [CLICKS])


def test_a_group_that_goes_on_meanwhile_is_seen() -> None:
    """The end of the partition is read after its offset, so the offset is not taken for one of another topic."""
    assert begins(Kafka(100)) == {CLICKS: 102}


@pytest.mark.parametrize("wrap", [KafkaException, lambda error: error])
def test_a_broker_that_has_not_answered_for_its_groups_is_asked_again(wrap: Any) -> None:
    """Else its groups would not be seen, and their clicks would be decided again."""
    with pytest.raises(KafkaException) as failed:
        begins(Kafka(100, errors=(wrap(KafkaError(KafkaError._TIMED_OUT)),)))
    assert failed.value.args[0].retriable()


def test_a_broker_without_groups_has_none() -> None:
    """The embedded broker does not know the request."""
    assert begins(Kafka(100, errors=(KafkaError(KafkaError._UNSUPPORTED_FEATURE),))) == {}


def test_offsets_that_may_not_be_read_are_none_and_other_errors_are_asked_again() -> None:
    forbidden = KafkaException(KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED))
    assert begins(Kafka(100, forbidden)) == {}
    with pytest.raises(KafkaException) as failed:
        begins(Kafka(100, KafkaException(KafkaError(KafkaError.COORDINATOR_LOAD_IN_PROGRESS))))
    assert failed.value.args[0].retriable()


def test_offsets_of_other_applications_and_of_a_topic_that_was_deleted_are_no_reason() -> None:
    other = Committed([TopicPartition(*CLICKS, 5, "something else")])
    beyond = Committed([TopicPartition(*CLICKS, 5_000, OURS)])
    assert begins(Kafka(100, other)) == begins(Kafka(100, beyond)) == {}


def test_workers_of_the_group_before_that_still_run_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Both groups write decisions on the same clicks to the same topic, which no reader expects."""
    assert begins(Kafka(100, workers=2)) == {CLICKS: 102}
    [line] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert line == (
        "another group still has workers, so each click is decided twice until they are stopped: group=before workers=2"
    )
    caplog.clear()
    assert begins(Kafka(100)) == {CLICKS: 102}
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
