"""How a worker waits for Kafka: as long as it takes, with a line in the log, and with time limits that stand still.

    start    `wait` returns when Kafka has answered for the first time
    running  a thread asks Kafka every few seconds, and logs the begin, the duration and the end of an outage

A broker that is down, restarts or is cut off is no error of a worker: it waits, and continues where it was. So the time
limits of calls that wait for Kafka are measured with `answered_s`, a clock that counts only while Kafka answers. A call
that exceeds its limit on this clock hangs for another reason. A broker that refuses (a password, a certificate, a
protocol) is an error: waiting does not help.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NoReturn, Protocol, TypeVar

from confluent_kafka import KafkaError, KafkaException

from stream.access.credentials import token_outage
from stream.access.listener import why_silent
from stream.access.refusal import Admin
from stream.errors import ConfigError
from stream.events import Partition
from stream.kafka_config import KafkaConfig

ASK_S = 2.0
"""How often Kafka is asked."""

ANSWER_S = 5.0
"""How long one answer may take."""

PAUSE_S = 0.2
"""Pause before Kafka is asked again at start: some errors come at once."""

PATIENCE_S = 60.0
"""How long a read that fails is repeated while Kafka answers."""

PASSING = {
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError.UNSTABLE_OFFSET_COMMIT,
}
"""A broker answers with these for a while after its start, or when a partition gets another leader. librdkafka calls
only errors of transactions retriable."""

REMIND_S = 25.0
"""How often the log says that the worker still waits. With the time of one question it is about every 30 s."""

T = TypeVar("T")

log = logging.getLogger(__name__)


class Watch(Protocol):
    """What code that waits for Kafka has to know of it.

    answered_s  a clock in s that counts only while Kafka answers
    breaks      how often a connection to Kafka was lost, as far as it was noticed
    """

    @property
    def answered_s(self) -> float: ...
    @property
    def breaks(self) -> int: ...


class NoWatch:
    """For a program that does not wait for Kafka longer than its time limits."""

    breaks = 0

    @property
    def answered_s(self) -> float:
        return time.monotonic()


class KafkaWatch:
    """A Watch that asks whether Kafka answers. `wait` and `start` are called once; other threads read the properties.

    ask      True if a connection was lost since the last call; raises KafkaException or TimeoutError without an answer,
             and may raise ConfigError if Kafka refuses this client
    refusal  why Kafka refuses this client; None if it does not
    reason   why there is no answer, for the log
    """

    def __init__(
        self,
        broker: str,
        ask: Callable[[], bool],
        refusal: Callable[[], ConfigError | None],
        reason: Callable[[], str],
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._broker = broker
        self._ask = ask
        self._refusal = refusal
        self._reason = reason
        self._clock_s = clock_s
        self._answer_s: float | None = None  # when the latest answer came; None during an outage
        self.answered_s = 0.0
        self.breaks = 0
        self._began_s = clock_s()  # of the outage
        self._said_s: float | None = None  # when the log said so
        self._refusals = 0

    @property
    def out(self) -> bool:
        """True during an outage."""
        return self._answer_s is None

    def wait(self, silent: Callable[[], None] = lambda: None) -> None:
        """Return when Kafka answers. Raises ConfigError if it refuses this client.

        silent  called after each question without an answer; what it raises ends the waiting
        """
        with ThreadPoolExecutor(1, "kafka-watch") as thread:  # signals are handled meanwhile
            while True:
                refusal = thread.submit(self.check).result()
                if refusal is not None:
                    raise refusal
                if not self.out:
                    return
                silent()
                time.sleep(PAUSE_S)

    def start(self, end: Callable[[ConfigError], None]) -> None:
        """Ask from now on, in a thread that the end of the process does not wait for.

        end  called if Kafka refuses this client twice in a row: credentials may reach a broker after its start
        """

        def watch() -> NoReturn:
            while True:
                time.sleep(ASK_S)
                refusal = self.check()
                self._refusals = 0 if not self.out else self._refusals + (refusal is not None)
                if refusal is not None and self._refusals > 1:
                    end(refusal)

        threading.Thread(target=watch, name="kafka-watch", daemon=True).start()

    def check(self) -> ConfigError | None:
        """Ask once, and log what has changed. Returns why Kafka refuses this client, if it does."""
        try:
            self.breaks += self._ask()
        except (KafkaException, TimeoutError):
            self.breaks += not self.out
            return self._silent(self._clock_s())
        now_s = self._clock_s()
        if self._answer_s is not None:
            self.answered_s += min(now_s - self._answer_s, ASK_S + ANSWER_S)  # less than passed if we were frozen
        elif self._said_s is not None:
            log.info("Kafka answers again: broker=%s waited_s=%.0f", self._broker, now_s - self._began_s)
        self._answer_s, self._said_s = now_s, None
        return None

    def _silent(self, now_s: float) -> ConfigError | None:
        if self._answer_s is not None:
            self._began_s, self._answer_s = self._answer_s, None
        if self._said_s is not None and now_s - self._said_s < REMIND_S:
            return None
        refusal = self._refusal()
        if refusal is not None:
            return refusal
        log.warning(
            "Kafka does not answer, Eddy waits for it: broker=%s waited_s=%.0f reason=%s",
            self._broker,
            now_s - self._began_s,
            self._reason(),
        )
        self._said_s = self._clock_s()
        return None


def watch_kafka(broker: str, topic: str, config: KafkaConfig) -> KafkaWatch:
    """A watch on the cluster at `broker`. Raises ConfigError if librdkafka cannot use the configuration.

    topic  is asked for once Kafka has answered. The first question is for all topics, because the question for a topic
           that does not exist makes some brokers create it
    """
    admin = Admin(broker, config)
    topics: list[str] = []

    def ask() -> bool:
        if topics:
            admin.list_topics(*topics, timeout=ANSWER_S)
        else:
            admin.described(ANSWER_S, gives_up=False)
        topics[:] = [topic]
        return admin.forget()

    return KafkaWatch(broker, ask, admin.refusal, lambda: token_outage(config) or why_silent(broker))


class NoLeader(KafkaException):
    """Partitions that have no leader now. Who does not wait for one treats it as any error of Kafka that passes."""

    def __init__(self, partitions: Sequence[Partition]) -> None:
        self.partitions = partitions
        self.names = ", ".join(map(str, partitions))
        has = "has" if len(partitions) == 1 else "have"
        super().__init__(KafkaError(KafkaError.LEADER_NOT_AVAILABLE, f"{self.names} {has} no leader"))


async def in_daemon(name: str, call: Callable[..., Any], *arguments: Any) -> Any:
    """Run a call in a thread that the end of the process does not wait for: it may wait for a broker."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[Any] = loop.create_future()

    def settle(value: Any, error: BaseException | None) -> None:
        if not result.done():
            result.set_result(value) if error is None else result.set_exception(error)

    def run() -> None:
        value, error = None, None
        try:
            value = call(*arguments)
        except BaseException as exc:
            error = exc
        with suppress(RuntimeError):  # the loop is closed: the process ends
            loop.call_soon_threadsafe(settle, value, error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await result


def patiently(watch: Watch, read: Callable[[Sequence[Partition]], T], partitions: Sequence[Partition]) -> T:
    """Read, and repeat it until Kafka has answered for PATIENCE_S: a broker's restart often causes the rebalance.

    Raises NoLeader at once: how long it lasts has no limit (stream/kafka/leaders.py).
    """
    deadline, said = watch.answered_s + PATIENCE_S, set[str]()
    while True:
        try:
            return read(partitions)
        except NoLeader:
            raise
        except KafkaException as exc:
            error = exc.args[0]
            passes = error.retriable() or error.code() < 0 or error.code() in PASSING
            if not passes or watch.answered_s > deadline:
                raise
            if error.name() not in said:
                said.add(error.name())
                log.warning("recovery reads again: error=%s detail=%s", error.name(), error.str())
            time.sleep(PAUSE_S)
