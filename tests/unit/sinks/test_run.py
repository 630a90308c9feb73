"""`eddy sink` waits for what does not answer; with --once it ends. tests/kafka/test_sinks.py has it on real servers."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Event as Flag
from typing import Any

import pytest
import redis
from click.testing import CliRunner
from confluent_kafka import KafkaError, KafkaException

from stream.errors import ConfigError
from stream.events import Partition
from stream.places.redis import RedisSink
from stream.places.sink import Away, Part
from stream.places.url import Url
from stream.sinks import patience, run
from stream.sinks.command import sink
from stream.sinks.patience import Patience
from stream.sinks.run import Copying

RECS = Partition("recs", 0)
LATE = KafkaException(KafkaError(KafkaError._TRANSPORT))


class Message:
    """A message that is no recommendation of this version: it is counted, and its offset is stored."""

    def __init__(self, offset: int) -> None:
        self._offset = offset

    topic, partition, value, key = (lambda self, found=found: found for found in ("recs", 0, b"{}", None))

    def offset(self) -> int:
        return self._offset

    def timestamp(self) -> tuple[int, int]:
        return 1, 0


class Topic:
    """A Source with two messages. `looks` and `takes` have what happens first, instead: an error, or no message."""

    stale = False

    def __init__(self, looks: Sequence[KafkaException] = (), takes: int = 0) -> None:
        self.looks, self.takes, self.left = list(looks), takes, [Message(0), Message(1)]

    @property
    def ended(self) -> bool:
        return not self.left

    def look(self) -> list[Partition]:
        if self.looks:
            raise self.looks.pop()
        return [RECS]

    def seek(self, stored: Mapping[Partition, int]) -> None:
        self.left = [Message(offset) for offset in range(stored.get(RECS, 0), 2)]

    def take(self, most: int, timeout_s: float) -> list[Message]:
        if self.takes:
            self.takes -= 1
            return []
        found, self.left = self.left[:1], self.left[1:]
        return found

    def behind(self, at: Mapping[Partition, int]) -> int:
        return 0

    def close(self) -> None:
        pass


class Place:
    """A sink that is away for the first calls of `open` and of `write`."""

    where = "redis://cache"

    def __init__(self, opens: int = 0, writes: int = 0) -> None:
        self.away = {"open": opens, "write": writes}
        self.stored: dict[Partition, int] = {}

    def open(self) -> None:
        self._answer("open")

    def offsets(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        return dict(self.stored)

    def write(self, part: Part) -> int:
        self._answer("write")
        self.stored[part.partition] = part.end
        return 0

    def close(self) -> None:
        pass

    def _answer(self, call: str) -> None:
        if self.away[call]:
            self.away[call] -= 1
            raise Away("connection refused.")


SILENT: dict[str, tuple[Callable[[], Topic], Callable[[], Place], str]] = {
    "the place at the start": (Topic, lambda: Place(opens=3), r"redis://cache has not .* \(connection refused\)"),
    "the place later": (Topic, lambda: Place(writes=3), r"redis://cache has not answered .* \(connection refused\)"),
    "Kafka at the start": (lambda: Topic([LATE] * 3), Place, r"Kafka has not answered for 60 s \("),
    "Kafka later": (lambda: Topic(takes=3), Place, r"Kafka has not answered for 60 s \(no message came\)"),
}


def copying(source: Topic, place: Place, monkeypatch: pytest.MonkeyPatch, once_s: float) -> Any:
    for module, name, value in ((run, "RETRY_S", 0.0), (patience, "PAUSE_S", 0.0), (run, "ONCE_S", once_s)):
        monkeypatch.setattr(module, name, value)
    return Copying(source, place, {"recs": "recommendations"}, 1, 0.0, Flag())  # type: ignore[arg-type]


@pytest.mark.parametrize("who", SILENT)
def test_once_ends_if_something_does_not_answer(monkeypatch: pytest.MonkeyPatch, who: str) -> None:
    """What cron starts would else wait for ever, each time one process more. The line says who is silent and why."""
    source, place, said = SILENT[who]
    with pytest.raises(ConfigError, match=rf"{said}.*--once waits no longer.*the next run goes on after it"):
        copying(source(), place(), monkeypatch, 0.0).run(once=True)


@pytest.mark.parametrize("who", SILENT)
def test_a_short_silence_is_waited_for(monkeypatch: pytest.MonkeyPatch, who: str) -> None:
    """Nothing is left out afterwards."""
    source, place, _ = SILENT[who]
    there = place()
    done = copying(source(), there, monkeypatch, 60.0).run(once=True)
    assert (done.left_out, done.offsets, there.stored) == (2, {str(RECS): 2}, {RECS: 2})


@pytest.mark.parametrize("who", SILENT)
def test_without_once_the_sink_waits_for_as_long_as_it_takes(monkeypatch: pytest.MonkeyPatch, who: str) -> None:
    """As a service: it goes on when the server is back."""
    source, place, _ = SILENT[who]
    there, stopped = place(), Flag()
    running = copying(source(), there, monkeypatch, 0.0)
    running._stopped = stopped
    tell = there.write

    def write(part: Part) -> int:
        tell(part)
        if part.end == 2:
            stopped.set()
        return 0

    there.write = write  # type: ignore[method-assign]
    assert running.run(once=False).offsets == {str(RECS): 2}


def test_only_a_write_is_an_answer_of_a_place(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A replica can be connected and asked for its offsets, and a poll of Kafka that brings no message writes nothing:
    the log had two lines for each try."""
    caplog.set_level(logging.INFO)
    source, place = Topic(), Place(writes=3)
    begin = source.seek

    def seek(stored: Mapping[Partition, int]) -> None:
        source.takes = 2
        begin(stored)

    source.seek = seek  # type: ignore[method-assign]
    copying(source, place, monkeypatch, 60.0).run(once=True)
    assert ["not answer" in line for line in caplog.messages if "answer" in line] == [True, False]


REDIS_SAYS = {
    "READONLY You can't write against a read only replica. script: 52d1, on @user_script:4.": Away,
    "ERR Error running script (call to f_52d1): @user_script:4: -READONLY You can't write against a replica.": Away,
    "ERR Error running script (call to f_52d1): @user_script:4: -OOM command not allowed": Away,
    "NOREPLICAS Not enough good replicas to write. script: 52d1, on @user_script:4.": Away,
    "MISCONF Errors writing to the AOF file: No space left on device": Away,
    "BUSY Redis is busy running a script.": Away,
    "WRONGTYPE Operation against a key holding the wrong kind of value": ConfigError,
    "ERR unknown command 'EVALSHA'": ConfigError,
}


@pytest.mark.parametrize("text", REDIS_SAYS)
def test_a_redis_that_cannot_write_now_is_away(text: str) -> None:
    """Redis 6 has the word of an error in a script at the end of its text, Redis 7 at the begin."""

    def call() -> None:
        raise redis.ResponseError(text)

    with pytest.raises(REDIS_SAYS[text]):
        RedisSink(Url("redis://cache"))._ask(call)


def test_patience_begins_again_after_an_answer() -> None:
    """Only silence without a break counts; more of it does not move its begin."""
    times_s = iter((0, 50, 59, 70, 129, 130))  # of the calls that look at the clock
    patience = Patience(60.0, lambda: next(times_s))
    patience.silent()
    assert not patience.over
    patience.silent()
    assert not patience.over
    patience.answered()
    assert not patience.over
    patience.silent()
    assert not patience.over
    assert patience.over


def test_kafka_that_does_not_answer_before_the_start_is_not_waited_for_either(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A mistyped --broker is found."""
    monkeypatch.setattr("stream.sinks.patience.ONCE_S", 0.0)
    monkeypatch.setattr("stream.kafka.waiting.ANSWER_S", 0.1)
    monkeypatch.setattr("stream.sinks.start.log_to_stderr", lambda *_: None)
    monkeypatch.setattr(logging.getLogger("stream"), "setLevel", lambda *_: None)
    words = ["parquet", "--once", "--broker", "localhost:1", "--directory", str(tmp_path)]
    error = CliRunner().invoke(sink, words).exception
    assert isinstance(error, ConfigError)
    assert "Kafka at localhost:1 has not answered for 0 s (" in str(error)


@pytest.mark.parametrize("kind", ["redis", "postgres", "parquet", "avro", "webhook"])
def test_the_help_has_how_long_once_waits(kind: str) -> None:
    """The number is written there, because --help imports nothing heavy."""
    text = " ".join(CliRunner().invoke(sink, [kind, "--help"]).output.split())
    assert f"does not answer for {run.ONCE_S:.0f} s" in text
