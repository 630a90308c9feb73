"""How long `eddy sink --once` waits for Kafka and for its place: what cron starts must end. Without --once it waits as
long as it takes, and logs that it does.
"""

import logging
import time
from collections.abc import Callable
from threading import Event

from confluent_kafka import KafkaException

from stream.access.listener import why_silent
from stream.errors import ConfigError
from stream.kafka.waiting import PAUSE_S, REMIND_S

ONCE_S = 60.0
"""How long Kafka or the place may be silent with --once: a broker or a server that restarts is back by then."""

log = logging.getLogger(__name__)


class Patience:
    """Since when something does not answer.

    most_s  for how long it may be silent, s; math.inf = as long as it takes
    """

    def __init__(self, most_s: float, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._most_s, self._clock_s = most_s, clock_s
        self._since_s: float | None = None

    def answered(self) -> None:
        self._since_s = None

    def silent(self) -> None:
        if self._since_s is None:
            self._since_s = self._clock_s()

    @property
    def over(self) -> bool:
        """Whether it is silent for too long."""
        return self._since_s is not None and self._clock_s() - self._since_s >= self._most_s


class Outage:
    """Logs that a place does not answer, now and then, and that it answers again. where: the place, for the log

    Only a write is an answer: a replica, or a database that can only be read, lets itself be connected and asked.
    """

    def __init__(self, where: str, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._where, self._clock_s = where, clock_s
        self._since_s: float | None = None
        self._said_s = 0.0

    def away(self, reason: str) -> None:
        now_s = self._clock_s()
        if self._since_s is None or now_s - self._said_s > REMIND_S:
            self._since_s = now_s if self._since_s is None else self._since_s
            self._said_s = now_s
            log.warning(
                "%s does not answer, eddy sink waits for it: waited_s=%.0f reason=%s",
                self._where,
                now_s - self._since_s,
                reason,
            )

    def answered(self) -> None:
        if self._since_s is not None:
            log.warning("%s answers again: waited_s=%.0f", self._where, self._clock_s() - self._since_s)
            self._since_s = None


def no_answer(who: str, why: str) -> ConfigError:
    """The error of --once, which waits no longer."""
    return ConfigError(
        f"{who} has not answered for {ONCE_S:.0f} s ({why.rstrip('.')}), and --once waits no longer: is it up, and is "
        "the address right? What was written stays, and the next run goes on after it"
    )


def at_start(broker: str, patience: Patience) -> None:
    """Kafka has not answered a question before the start. Raises ConfigError if the patience is over."""
    patience.silent()
    if patience.over:
        raise no_answer(f"Kafka at {broker}", why_silent(broker))


def kafka_away(error: KafkaException, patience: Patience, stopped: Event) -> None:
    """Kafka has not answered: log it and pause. Raises ConfigError if the patience is over."""
    log.warning("Kafka did not answer: error=%s", error.args[0].name())
    patience.silent()
    if patience.over:
        raise no_answer("Kafka", error.args[0].str()) from error
    stopped.wait(PAUSE_S)
