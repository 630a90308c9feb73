"""The loop of `eddy sink webhook`: a message -> a request -> its offset, committed when the receiver has it.

    1  take the next message of a partition
    2  post it, and repeat that until the receiver has it or refuses it
    3  commit the offset after it

A process that is killed between 2 and 3 posts the message again, with the same Idempotency-Key. With a limit per
minute, what is above it is counted, and one message at the end of the minute stands for it. Until then its offsets are
not committed, so that a process that is killed leaves nothing out that no message has named.
"""

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from enum import Enum
from threading import Event as Flag
from typing import Any

import msgspec
from confluent_kafka import KafkaException
from msgspec import Struct

from stream.events import Partition
from stream.log_lines import printable
from stream.outputs import OUTPUTS
from stream.places.chat import Form, opens
from stream.places.webhook import Later, Webhook
from stream.sinks.group import GroupSource
from stream.sinks.patience import ONCE_S, Outage, Patience, kafka_away, no_answer

TAKE_S = 0.1
COMMIT_S = 1.0
"""How often the offsets of messages are committed that are not posted."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
LONGEST_ASKED_S = 3600.0
"""A receiver may ask for a longer pause, up to this one."""

MINUTE_S = 60.0

log = logging.getLogger(__name__)


class Posted(Struct):
    """What one process has done.

    written     output -> messages that the receiver has
    later       alerts of episodes that were open already, which were not to be posted
    over_limit  messages above the limit per minute, for which others stand
    refused     messages that the receiver refuses
    left_out    messages that are no output of this Eddy version
    offsets     partition -> the offset of the next message
    """

    written: dict[str, int]
    later: int
    over_limit: int
    refused: int
    left_out: int
    offsets: dict[str, int]


class Minute:
    """Counts the messages of a minute, which begins with its first one. most: math.inf = without a limit"""

    def __init__(self, most: float, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock_s = most, clock_s
        self._began_s, self._count = -math.inf, 0

    @property
    def over(self) -> bool:
        return self._clock_s() - self._began_s >= MINUTE_S

    @property
    def full(self) -> bool:
        return self._count >= self._most and not self.over

    def count(self) -> None:
        if self.over:
            self._began_s, self._count = self._clock_s(), 0
        self._count += 1


class Reached(Enum):
    """Whether the receiver has an event. NOT: the event must be posted again, here or by another process."""

    YES, REFUSED, NOT = range(3)


class Posting:
    """Posts the messages of topics to a webhook until it is stopped."""

    def __init__(
        self,
        source: GroupSource,
        webhook: Webhook,
        outputs: Mapping[str, str],
        form: Form,
        only_opened: bool,
        minute: Minute,
        stopped: Flag,
        seen: Callable[[str], None] = lambda line: None,
    ) -> None:
        """
        outputs      topic -> name of its output
        only_opened  of an episode, post only the alert that opens it
        minute       with a limit if the form has a body for what is left out
        stopped      set from a signal handler: then `run` returns after the request that is under way
        seen         called with a line on how far it is, at most once a second
        """
        self._source, self._webhook, self._outputs, self._form = source, webhook, outputs, form
        self._only_opened, self._minute, self._stopped, self._seen = only_opened, minute, stopped, seen
        self._posted = Posted(dict.fromkeys(outputs.values(), 0), 0, 0, 0, 0, {})
        self._at: dict[Partition, int] = {}
        self._held: dict[Partition, int] = {}  # the ends of messages above the limit, and of those after them
        self._over: Counter[str] = Counter()  # key of the first of them -> how many
        self._assigned = 0
        self._outage = Outage(webhook.where)
        self._kafka = self._place = Patience(math.inf)
        self._longest_s = LONGEST_ASKED_S
        self._committed_s = self._seen_s = 0.0

    def run(self, once: bool) -> Posted:
        """Post until stopped. once: until the messages are posted that the topics had at the start.

        Raises ConfigError if waiting does not help; with once, also if Kafka or the receiver is silent for ONCE_S.
        """
        self._kafka, self._place = (Patience(ONCE_S if once else math.inf) for _ in range(2))
        self._longest_s = ONCE_S if once else LONGEST_ASKED_S
        try:
            while not self._stopped.is_set() and not (once and self._source.ended):
                try:
                    if self._source.stale:
                        self._source.resume()
                    self._next()
                except KafkaException as exc:
                    kafka_away(exc, self._kafka, self._stopped)
            self._stand_for_the_rest()
        finally:
            self._source.close()
            self._webhook.close()
        at = self._source.starts | self._at
        self._posted.offsets = {str(partition): offset for partition, offset in sorted(at.items())}
        return self._posted

    def _next(self) -> None:
        """Take a message if there is one, and post what is due."""
        if self._kafka.over:
            raise no_answer("Kafka", "no message came")
        if self._minute.over:
            self._stand_for_the_rest()
        assigned = self._source.assigned
        messages = self._source.take(1, TAKE_S)
        if messages:
            self._kafka.answered()
        else:
            self._kafka.silent()
        if assigned == self._source.assigned:
            for message in messages:
                self._message(message)
        if time.monotonic() - self._committed_s >= COMMIT_S:
            self._commit()
        self._tell()

    def _message(self, message: Any) -> None:
        self._forget_what_is_read_again()
        partition, end = Partition(message.topic(), message.partition()), message.offset() + 1
        output, key = self._outputs[partition.topic], f"{partition}-{message.offset()}"
        try:
            event: Any = msgspec.json.decode(message.value() or b"", type=OUTPUTS[output])
        except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
            self._posted.left_out += 1
            log.warning("message left out, it is no %s of this Eddy version: message=%s error=%s", output, key, exc)
            self._done(partition, end)
            return
        if self._only_opened and not opens(event):
            self._posted.later += 1
            self._done(partition, end)
        elif self._held or self._minute.full:
            self._over[key] += 1
            self._held[partition] = end
        else:
            reached = self._post(self._form.body(event, message.value()), key, event.id)
            if reached is not Reached.NOT:
                self._posted.written[output] += reached is Reached.YES
                self._done(partition, end)
                self._commit()

    def _stand_for_the_rest(self) -> None:
        """Post the message that stands for those above the limit."""
        self._forget_what_is_read_again()
        if not self._held:
            return
        assert self._form.left_out is not None
        key, count = next(iter(self._over)), self._over.total()
        if self._post(self._form.left_out(count), f"{key}-and-more", f"{key} and more") is Reached.NOT:
            return
        self._posted.over_limit += count
        held = dict(self._held)
        self._held.clear()
        self._over.clear()
        for partition, end in held.items():
            self._done(partition, end)
        self._commit()

    def _forget_what_is_read_again(self) -> None:
        """After partitions came or went: here or in another process, what was held is read again."""
        if self._assigned != self._source.assigned:
            self._assigned = self._source.assigned
            self._held.clear()
            self._over.clear()

    def _post(self, body: bytes, key: str, name: str) -> Reached:
        """Post until the receiver has the event or refuses it. name: of the event, for the log"""
        assigned, pause_s = self._source.assigned, FIRST_PAUSE_S
        while assigned == self._source.assigned:
            try:
                refusal = self._webhook.post(body, key)
            except Later as exc:
                self._outage.away(str(exc))
                self._place.silent()
                if self._place.over:
                    raise no_answer(self._webhook.where, str(exc)) from exc
                self._source.pause(min(max(pause_s, exc.pause_s), self._longest_s))
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                if self._stopped.is_set():
                    return Reached.NOT
                continue
            self._place.answered()
            self._outage.answered()
            self._minute.count()
            if refusal is None:
                return Reached.YES
            self._posted.refused += 1
            log.warning(
                "%s refuses an event, it is left out: id=%s message=%s answer=%s",
                self._webhook.where,
                printable(name),
                key,
                refusal,
            )
            return Reached.REFUSED
        return Reached.NOT

    def _done(self, partition: Partition, end: int) -> None:
        """A message needs not be read again; while messages are held, only after them."""
        if self._held:
            self._held[partition] = end
            return
        self._at[partition] = end
        self._source.done(partition, end)

    def _commit(self) -> None:
        self._committed_s = time.monotonic()
        self._source.commit()

    def _tell(self) -> None:
        if time.monotonic() - self._seen_s >= 1:
            self._seen_s = time.monotonic()
            counts = ", ".join(f"{count:,} {output}" for output, count in self._posted.written.items())
            self._seen(f"{counts} written, {self._source.behind(self._source.starts | self._at):,} behind")
