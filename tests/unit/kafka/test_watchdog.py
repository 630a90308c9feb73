"""The log lines about a group or cluster with a problem are enough to act on and not too many; the exit codes."""

import logging
import os
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    InconsistentGroupProtocolError,
    KafkaError,
    NodeNotReadyError,
    TopicAuthorizationFailedError,
    for_code,
)

from stream.errors import ConfigError
from stream.kafka.watchdog import (
    EXIT_OPERATOR,
    EXIT_WORKER,
    NO_COORDINATOR,
    REBALANCES_PER_MINUTE,
    Brief,
    NoCoordinatorYet,
    Rebalances,
    Repeats,
    end_app,
    set_asked_to_end,
)


def test_a_group_that_keeps_rebalancing_is_noticed() -> None:
    """More rebalances in a minute than a rolling restart causes are too many; over a longer time they are not."""
    quick, slow = Rebalances(), Rebalances()
    assert [quick.note(float(at)) for at in range(REBALANCES_PER_MINUTE + 1)] == [False] * REBALANCES_PER_MINUTE + [
        True
    ]
    assert not any(slow.note(at * 30.0) for at in range(20))


def record(name: str, message: str, at_s: float, *arguments: object) -> logging.LogRecord:
    made = logging.LogRecord(name, logging.ERROR, "", 0, message, arguments, None)
    made.created = at_s
    return made


def test_a_missing_coordinator_is_an_error_only_after_the_grace_time() -> None:
    """For the first group of a cluster it is an INFO line. Later, or for a different reason, it is an error."""
    began, missing = time.time(), GroupCoordinatorNotAvailableError()
    lower = NoCoordinatorYet(grace_s=30.0)
    lines = [
        record("aiokafka", NO_COORDINATOR, began + 1, missing),
        record("aiokafka", NO_COORDINATOR, began + 60, missing),
        record("aiokafka", NO_COORDINATOR, began + 1, NodeNotReadyError()),
        record("aiokafka", "something else: %s", began + 1, missing),
    ]
    assert all(map(lower.filter, lines))
    assert [line.levelname for line in lines] == ["INFO", "ERROR", "ERROR", "ERROR"]
    assert "GroupCoordinatorNotAvailable" in lines[0].getMessage()


def test_repeated_library_messages_come_once_in_ten_seconds() -> None:
    """A lost broker is logged at intervals, and Eddy's own lines are never suppressed."""
    repeats = Repeats("aiokafka", 10.0)
    assert repeats.filter(record("aiokafka.conn", "gone", 1.0))
    assert not repeats.filter(record("aiokafka.conn", "gone", 2.0))
    assert repeats.filter(record("aiokafka.conn", "back", 2.0))
    assert repeats.filter(record("aiokafka.conn", "gone", 12.0))
    assert all(repeats.filter(record("stream.worker.cycles.cycle", "same", 1.0)) for _ in range(3))


def test_what_kafkas_clients_log_is_left_out_unless_it_stays_while_kafka_answers() -> None:
    """One outage is a dozen messages of aiokafka, and the watch says it in one. An error that stays is logged."""
    watch = SimpleNamespace(out=False)
    brief = Brief(cast(Any, watch), after_s=10.0)
    assert not brief.filter(record("aiokafka.conn", "gone", 1.0))
    assert not brief.filter(record("aiokafka.conn", "gone", 9.0))
    assert brief.filter(record("aiokafka.conn", "gone", 12.0))
    watch.out = True
    assert not brief.filter(record("aiokafka.conn", "gone", 13.0))
    assert not brief.filter(record("stream.kafka.delivery", "repeated", 13.0))
    assert brief.filter(record("stream.kafka.waiting", "does not answer", 13.0))
    watch.out = False
    assert not brief.filter(record("aiokafka.conn", "gone", 100.0))
    broken = record("aiokafka.conn", "gone", 101.0)
    broken.exc_info = (ValueError, ValueError("a bug"), None)
    assert brief.filter(broken)


def code_of_end(monkeypatch: pytest.MonkeyPatch, error: Exception, app: object | None = None) -> object:
    """The exit code with which an error ends a worker."""

    def exit(number: int) -> None:
        raise SystemExit(number)

    monkeypatch.setattr(os, "_exit", exit)
    with pytest.raises(SystemExit) as ended:
        end_app(app or SimpleNamespace(), error)
    return ended.value.code


@pytest.mark.parametrize(("asked", "code"), [(False, EXIT_WORKER), (True, 0)])
def test_a_worker_that_was_asked_to_end_exits_with_0_whatever_fails(
    monkeypatch: pytest.MonkeyPatch, asked: bool, code: int
) -> None:
    """After SIGTERM an error of Kafka is no reason to start the worker again."""
    app = SimpleNamespace()
    if asked:
        set_asked_to_end(app)
    assert code_of_end(monkeypatch, TimeoutError("no answer"), app) == code


@pytest.mark.parametrize(
    "error", [ConfigError("wrong"), TopicAuthorizationFailedError(), InconsistentGroupProtocolError()]
)
def test_an_error_that_a_person_must_correct_exits_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    """One line, and not 70: a supervisor would start the worker again and again."""
    assert code_of_end(monkeypatch, error) == EXIT_OPERATOR
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_worker_without_memory_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is no bug of Eddy: one line without a stack trace, and another start may help."""
    assert code_of_end(monkeypatch, MemoryError("Unable to allocate 3.75 MiB")) == EXIT_WORKER
    assert "Unable to allocate 3.75 MiB; give it more memory" in caplog.text
    assert caplog.records[-1].exc_info is None


def test_a_worker_whose_place_another_one_took_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """aiokafka does not know the error of a fenced instance id (82). It is no bug of Eddy: one line, no stack trace."""
    assert code_of_end(monkeypatch, KafkaError(repr(for_code(82)()))) == EXIT_WORKER
    assert "worker fenced: Kafka has refused this member" in caplog.text
    assert caplog.records[-1].exc_info is None
