"""A worker waits for Kafka, says so at the right times, and its clock stands still meanwhile."""

import asyncio
import logging
import threading

import pytest
from confluent_kafka import KafkaError, KafkaException

from stream.errors import ConfigError
from stream.events import Partition
from stream.kafka import waiting
from stream.kafka.waiting import ANSWER_S, ASK_S, REMIND_S, KafkaWatch, NoWatch, in_daemon, patiently


class Kafka:
    """A cluster that answers or not, and a clock in s that moves when it is asked."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.answers = True
        self.broken = False
        self.refusal: ConfigError | None = None
        self.watch = KafkaWatch("broker:9092", self.ask, lambda: self.refusal, lambda: "refused", lambda: self.now_s)

    def ask(self) -> bool:
        if self.answers:
            return self.broken
        self.now_s += ANSWER_S
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))

    def check_for(self, seconds: float) -> list[ConfigError | None]:
        found, end = [], self.now_s + seconds
        while self.now_s < end:
            self.now_s += ASK_S
            found.append(self.watch.check())
        return found


@pytest.fixture
def kafka(caplog: pytest.LogCaptureFixture) -> Kafka:
    caplog.set_level(logging.INFO)
    return Kafka()


def test_an_outage_is_logged_when_it_begins_every_30_s_and_when_it_is_over(
    kafka: Kafka, caplog: pytest.LogCaptureFixture
) -> None:
    """One line each, with how long the worker has waited and why; nothing before and after."""
    kafka.check_for(60)
    assert caplog.messages == []
    kafka.answers = False
    kafka.check_for(100)
    kafka.answers = True
    kafka.check_for(60)
    silent = [text for text in caplog.messages if "does not answer" in text]
    assert len(silent) == 1 + int(100 / (REMIND_S + ASK_S + ANSWER_S))
    assert all("reason=refused" in text for text in silent)
    assert caplog.messages[:-1] == silent
    assert "answers again" in caplog.messages[-1]
    assert "waited_s=107" in caplog.messages[-1]


def test_the_clock_of_time_limits_stands_still_in_an_outage(kafka: Kafka) -> None:
    """It counts the time between two answers, and not an outage, however long."""
    kafka.check_for(20)
    before = kafka.watch.answered_s
    assert before == pytest.approx(20, abs=ASK_S)
    kafka.answers = False
    kafka.check_for(600)
    assert kafka.watch.answered_s == before
    assert kafka.watch.out
    kafka.answers = True
    kafka.check_for(20)
    assert kafka.watch.answered_s - before == pytest.approx(20, abs=ASK_S)


def test_a_frozen_process_does_not_count_the_time_of_its_freeze(kafka: Kafka) -> None:
    """After a freeze the limits have not passed only because nobody looked."""
    kafka.check_for(10)
    before = kafka.watch.answered_s
    kafka.now_s += 3600
    kafka.check_for(ASK_S)
    assert kafka.watch.answered_s - before <= ASK_S + ANSWER_S


def test_lost_connections_are_counted(kafka: Kafka) -> None:
    """A restart of a broker that is too short for an outage counts, and an outage counts once."""
    kafka.check_for(10)
    assert kafka.watch.breaks == 0
    kafka.broken = True
    kafka.check_for(ASK_S)
    kafka.broken = False
    assert kafka.watch.breaks == 1
    kafka.answers = False
    kafka.check_for(60)
    kafka.answers = True
    kafka.check_for(10)
    assert kafka.watch.breaks == 2


def test_a_refusal_is_an_error_at_start_and_no_reason_to_wait(kafka: Kafka) -> None:
    """A wrong password is reported at once, as before."""
    kafka.answers, kafka.refusal = False, ConfigError("this user is refused")
    with pytest.raises(ConfigError, match="this user is refused"):
        kafka.watch.wait()


def test_a_running_worker_looks_for_a_refusal_again_at_once(kafka: Kafka, caplog: pytest.LogCaptureFixture) -> None:
    """The caller ends the worker at the second one in a row; no line says that the worker waits."""
    kafka.check_for(10)
    kafka.answers, kafka.refusal = False, ConfigError("this user is refused")
    assert kafka.check_for(10) == [kafka.refusal] * 2
    assert caplog.messages == []


def test_waiting_ends_with_the_first_answer(kafka: Kafka, caplog: pytest.LogCaptureFixture) -> None:
    """At start the worker waits and says so, and goes on when Kafka is there."""
    kafka.answers = False
    threading.Timer(0.3, lambda: setattr(kafka, "answers", True)).start()
    kafka.watch.wait()
    assert "does not answer" in caplog.messages[0]
    assert "answers again" in caplog.messages[-1]


def test_a_call_in_a_daemon_thread_has_a_result_or_an_error() -> None:
    """The event loop gets what the call returns or raises."""

    def fail() -> None:
        raise OSError("gone")

    async def calls() -> int:
        with pytest.raises(OSError, match="gone"):
            await in_daemon("t", fail)
        return int(await in_daemon("t", int, "7"))

    assert asyncio.run(calls()) == 7


@pytest.mark.parametrize(
    ("code", "passes"),
    [
        (KafkaError.NOT_COORDINATOR, True),
        (KafkaError.NOT_LEADER_FOR_PARTITION, True),
        (KafkaError._TRANSPORT, True),
        (KafkaError.GROUP_AUTHORIZATION_FAILED, False),
    ],
)
def test_a_read_is_repeated_if_its_error_passes(code: int, passes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group's coordinator moves to another broker or starts again: that must not end a recovery."""
    monkeypatch.setattr(waiting.time, "sleep", lambda s: None)
    answers: list[Exception | str] = [KafkaException(KafkaError(code)), "offsets"]

    def read(partitions: object) -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    if passes:
        assert patiently(NoWatch(), read, [Partition("clicks", 0)]) == "offsets"
    else:
        with pytest.raises(KafkaException):
            patiently(NoWatch(), read, [Partition("clicks", 0)])
