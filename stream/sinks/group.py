"""A Source whose partitions Kafka divides among the processes of a consumer group, and which keeps its offsets there.

    1  join the group; Kafka gives partitions to this process, and may take them away in each call of `take` or `pause`
    2  `resume` reads on at the committed offsets. A new group commits where it begins first, so that no later start of
       it begins elsewhere
    3  `done` names a message that needs not be read again, and `commit` commits these offsets

The rule that must not break: an offset is committed only after all messages before it are done. A process that is
killed between 2 and 3 gets the message again, or the process does that gets its partition.
"""

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from threading import Event as Flag
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from stream.access.begin import Begin
from stream.access.refusal import refused
from stream.events import Partition
from stream.kafka_config import KafkaConfig
from stream.sinks.source import ANSWER_S, Source

POLL_S = 0.5

SESSION_MS = 10_000
"""So long after the end of a killed process, its partitions go to another one."""

COMMIT_S = 6.0
"""How long the answer to a commit is waited for."""

LEAVE_S = 8.0
"""How long the end of a process waits for Kafka."""

LOOK_MS = 30_000
"""How often it is looked whether a topic has more partitions."""

log = logging.getLogger(__name__)


class GroupSource(Source):
    """The messages of the partitions that this process has; `resume` comes before `take`, and when it is `stale`.

    assigned  counts how often partitions came or went. A message that was taken before that may be taken again, here or
              in another process
    starts    partition -> where it was read on at the last `resume`
    """

    def __init__(
        self, broker: str, topics: Sequence[str], config: KafkaConfig, stopped: Flag, group: str, begin: Begin
    ) -> None:
        """
        begin  where a new group begins
        Raises ConfigError if librdkafka cannot use the configuration.
        """
        own = {
            "group.id": group,
            "session.timeout.ms": SESSION_MS,
            "topic.metadata.refresh.interval.ms": LOOK_MS,
        }
        super().__init__(broker, topics, config, stopped, own)
        self._group, self._begin = group, begin
        self._done: dict[Partition, int] = {}
        self._new = self._joined = False
        self._stale = True  # until it has joined
        self._committing: threading.Thread | None = None
        self._behind = 0
        self.assigned = 0
        self.starts: dict[Partition, int] = {}

    @property
    def ended(self) -> bool:
        """True if all messages were taken that the partitions of this process had when it got them."""
        return not self._stale and super().ended

    @property
    def stale(self) -> bool:
        """True if the caller must resume: the partitions are other ones, or Kafka has deleted the next messages."""
        return self._stale

    def resume(self) -> None:
        """Read on at the committed offsets; the first time: join the group.

        Raises ConfigError if a topic does not exist or a partition ends before its offset, and KafkaException if Kafka
        does not answer.
        """
        if not self._joined:
            self._join()
            return
        self.commit()
        stored = self._committed(self.partitions)
        fresh = [partition for partition in self.partitions if partition not in stored]
        if fresh and self._new:
            found = self._begin(fresh)
            begins = {one: found[one] if one in found else self._range(one, 0)[0] for one in fresh}
            self._commit(begins)
            stored |= begins
        self._new = False
        self._ends = None  # of the partitions that there were
        self.seek(stored)
        self.starts = stored
        log.info("begins to read: group=%s partitions=%d", self._group, len(self.partitions))

    def done(self, partition: Partition, end: int) -> None:
        """All messages of a partition before the offset `end` need not be read again."""
        self._done[partition] = end

    def commit(self) -> None:
        """Commit what is done. If Kafka does not answer, a later call does. Raises ConfigError if Kafka refuses it."""
        assigned = self.assigned
        try:
            self._commit(self._done)
        except KafkaException as exc:
            refusal = refused(exc)
            if refusal is not None:
                raise refusal from exc
            log.warning("offsets could not be committed yet: group=%s error=%s", self._group, exc.args[0].name())
            return
        if assigned == self.assigned:
            self._done.clear()

    def pause(self, most_s: float) -> None:
        """Wait, and stay in the group meanwhile. It ends early if partitions come or go, or when stopped."""
        until_s, assigned = time.monotonic() + most_s, self.assigned
        paused = [TopicPartition(*partition) for partition in self.partitions]
        self._consumer.pause(paused)
        while assigned == self.assigned and not self._stopped.is_set() and time.monotonic() < until_s:
            # no message comes, but if one did, it would have to be read again
            self._stale = bool(self.take(1, min(POLL_S, max(0.0, until_s - time.monotonic())))) or self._stale
        if assigned == self.assigned:
            self._consumer.resume(paused)

    def behind(self, at: Mapping[Partition, int]) -> int:
        """As of every Source; the last number while a commit has no answer: librdkafka may then block this question."""
        if self._committing is None:
            self._behind = super().behind(at)
        return self._behind

    def close(self) -> None:
        """Commit what is done, and leave the group: the other processes have its partitions at once.

        Without an answer of Kafka, librdkafka may wait for minutes; this waits for LEAVE_S at most.
        """
        leaving = threading.Thread(target=super().close, name="leave-group", daemon=True)  # `_taken` commits
        leaving.start()
        leaving.join(LEAVE_S)
        if leaving.is_alive():
            log.warning("Kafka does not answer, so the last offsets may not be committed: group=%s", self._group)

    def _join(self) -> None:
        self._new = not self._committed(self.look())
        self.partitions = []
        self._consumer.subscribe(self._topics, on_assign=self._given, on_revoke=self._taken, on_lost=self._lost)
        self._joined, self._stale = True, False

    def _given(self, consumer: Any, given: list[TopicPartition]) -> None:
        self.partitions = [Partition(of.topic, of.partition) for of in given]
        consumer.assign([])  # `resume` assigns them: here nothing may be raised
        self._forget()
        self._stale = True

    def _taken(self, consumer: Any, _: list[TopicPartition]) -> None:
        if self._done:
            # in this callback a commit of another thread is held up, so `_commit` would wait in vain; librdkafka gives
            # the partitions back when this one is answered
            with suppress(KafkaException):  # then the next process reads again what is done
                consumer.commit(offsets=_offsets(self._done), asynchronous=True)
        self._lost(consumer, _)

    def _lost(self, consumer: Any, _: list[TopicPartition]) -> None:
        self.partitions = []
        consumer.unassign()
        self._forget()

    def _forget(self) -> None:
        self.assigned += 1
        self._done.clear()
        self._ends = None

    def _committed(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        found = self._consumer.committed([TopicPartition(*partition) for partition in partitions], timeout=ANSWER_S)
        for of in found:
            if of.error is not None:
                raise KafkaException(of.error)
        return {Partition(of.topic, of.partition): of.offset for of in found if of.offset >= 0}

    def _commit(self, offsets: dict[Partition, int]) -> None:
        """Commit these offsets. Raises KafkaException, also if there is no answer within COMMIT_S.

        It happens in a thread: librdkafka waits without a limit if a broker dies after the request, and no signal would
        be handled meanwhile.
        """
        if not offsets:
            return
        errors: list[KafkaException] = []

        def ask() -> None:
            try:
                for of in self._consumer.commit(offsets=_offsets(offsets), asynchronous=False):
                    if of.error is not None:
                        raise KafkaException(of.error)
            except KafkaException as exc:
                errors.append(exc)

        offsets = dict(offsets)
        self._wait_for_commit()  # of an earlier one, whose offsets are lower
        self._committing = threading.Thread(target=ask, name="commit", daemon=True)
        self._committing.start()
        self._wait_for_commit()
        if errors:
            raise errors[0]

    def _wait_for_commit(self) -> None:
        if self._committing is not None:
            self._committing.join(COMMIT_S)
            if self._committing.is_alive():
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
            self._committing = None


def _offsets(of: Mapping[Partition, int]) -> list[TopicPartition]:
    return [TopicPartition(*partition, offset) for partition, offset in of.items()]
