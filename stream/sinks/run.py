"""The loop of every sink: stored offsets -> messages -> data and offset in one step.

    1  connect to the sink and read the stored offsets
    2  let Kafka's consumer begin there
    3  collect messages, and write those of each partition with the offset after them
    4  if the outcome of a write is unknown, or the offset is another one than expected: from 1

A process that is killed anywhere continues at 1. What it has collected and not written is read again.
"""

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from threading import Event as Flag
from typing import Any

import msgspec
from confluent_kafka import KafkaException
from msgspec import Struct

from stream.events import Partition
from stream.outputs import OUTPUTS
from stream.places.sink import Away, Moved, Part, Sink
from stream.sinks.patience import ONCE_S, Outage, Patience, kafka_away, no_answer
from stream.sinks.source import Source

TAKE = 1_000
TAKE_S = 0.1
RETRY_S = 1.0

log = logging.getLogger(__name__)


class Done(Struct):
    """What one process has done.

    written   output -> messages that were written
    left_out  messages that are no output of this Eddy version, or that the sink cannot hold
    offsets   partition -> the stored offset
    """

    written: dict[str, int]
    left_out: int
    offsets: dict[str, int]


class Copying:
    """Copies topics to a sink until it is stopped."""

    def __init__(
        self,
        source: Source,
        sink: Sink,
        outputs: Mapping[str, str],
        rows: int,
        every_s: float,
        stopped: Flag,
        seen: Callable[[str], None] = lambda line: None,
    ) -> None:
        """
        outputs  topic -> name of its output
        rows     write after so many messages at the latest
        every_s  write after so many seconds at the latest; 0 = what one call to Kafka gives
        stopped  set from a signal handler: what was collected is written, then `run` returns
        seen     called with a line on how far it is, at most once a second
        """
        self._source, self._sink, self._outputs = source, sink, outputs
        self._rows, self._every_s, self._stopped, self._seen = rows, every_s, stopped, seen
        self._stored: dict[Partition, int] = {}
        self._written = Counter(dict.fromkeys(outputs.values(), 0))
        self._left_out = 0
        self._seen_s = 0.0
        self._outage = Outage(sink.where)
        self._kafka = self._place = Patience(math.inf)

    def run(self, once: bool) -> Done:
        """Copy until stopped. once: until the messages are written that the topics had at the start.

        Raises ConfigError if waiting does not help; with once, also if Kafka or the sink is silent for ONCE_S.
        """
        self._kafka, self._place = (Patience(ONCE_S if once else math.inf) for _ in range(2))
        try:
            while not self._stopped.is_set() and not (once and self._source.ended):
                try:
                    self._resume()
                    while not self._source.stale:
                        self._copy(once)
                        if self._stopped.is_set() or (once and self._source.ended):
                            break
                except Away as exc:
                    self._kafka.answered()  # it is not asked meanwhile
                    self._place.silent()
                    if self._place.over:
                        raise no_answer(self._sink.where, str(exc)) from exc
                    self._outage.away(str(exc))
                    self._stopped.wait(RETRY_S)
                except Moved as exc:
                    log.warning("%s: it goes on at the stored one; does another eddy sink write there?", exc)
                except KafkaException as exc:
                    kafka_away(exc, self._kafka, self._stopped)
        finally:
            self._sink.close()
            self._source.close()
        stored = {str(partition): offset for partition, offset in sorted(self._stored.items())}
        return Done(dict(self._written), self._left_out, stored)

    def _resume(self) -> None:
        partitions = self._source.look()
        self._sink.close()
        self._sink.open()
        self._stored = self._sink.offsets(partitions)
        self._source.seek(self._stored)

    def _copy(self, once: bool) -> None:
        """Collect messages and write them."""
        messages = self._collect(once)
        by_partition: dict[Partition, list[Any]] = {}
        for message in messages:
            by_partition.setdefault(Partition(message.topic(), message.partition()), []).append(message)
        for partition, of_it in by_partition.items():
            part, unreadable = self._part(partition, of_it)
            unfit = self._sink.write(part)
            self._place.answered()
            self._outage.answered()
            self._stored[partition] = part.end
            self._written[part.output] += len(part.events) - unfit
            self._left_out += unreadable + unfit
            if unfit:
                log.warning("messages left out, the sink cannot hold them: partition=%s count=%d", partition, unfit)
        self._tell()

    def _collect(self, once: bool) -> list[Any]:
        if self._kafka.over:
            raise no_answer("Kafka", "no message came")
        deadline_s = time.monotonic() + self._every_s
        found = self._take(self._rows)
        while (
            len(found) < self._rows
            and time.monotonic() < deadline_s
            and not (self._stopped.is_set() or self._source.stale or self._kafka.over)
            and not (once and self._source.ended)
        ):
            found += self._take(self._rows - len(found))
            self._tell()
        return found

    def _take(self, most: int) -> list[Any]:
        found = self._source.take(min(TAKE, most), TAKE_S)
        if found:
            self._kafka.answered()
        else:
            self._kafka.silent()
        return found

    def _part(self, partition: Partition, messages: list[Any]) -> tuple[Part, int]:
        """The messages of a partition, and how many of them cannot be read."""
        output = self._outputs[partition.topic]
        events: list[Any] = []
        read: list[Any] = []  # the messages of the events
        wrong = []
        for message in messages:
            try:
                events.append(msgspec.json.decode(message.value() or b"", type=OUTPUTS[output]))
                read.append(message)
            except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
                wrong.append((message.offset(), exc))
        if wrong:
            log.warning(
                "messages left out, they are no %s of this Eddy version: partition=%s count=%d offset=%d error=%s",
                output,
                partition,
                len(wrong),
                *wrong[0],
            )
        first, end = messages[0].offset(), messages[-1].offset() + 1
        begin = self._stored.get(partition)
        raw, keys = [message.value() for message in read], [message.key() for message in read]
        times_ms = [message.timestamp()[1] for message in read]
        return Part(output, partition, begin, first, end, events, raw, keys, times_ms), len(wrong)

    def _tell(self) -> None:
        if time.monotonic() - self._seen_s >= 1:
            self._seen_s = time.monotonic()
            counts = ", ".join(f"{count:,} {output}" for output, count in self._written.items())
            self._seen(f"{counts} written, {self._source.behind(self._stored):,} behind")
