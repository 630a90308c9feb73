"""A Sink in Kafka: topics in Avro beside the output topics, in Confluent's wire format.

    TOPIC-avro         the messages of TOPIC, each with its key and its timestamp
    TOPIC-avro-value   at the Schema Registry: the subject of their schema

A transaction holds the copies of a part and the offset after it. The offset is one of the consumer group TOPIC-avro,
which no process joins. The transactional id is TOPIC-avro, too: the latest process that opens the sink fences those
before it, so only one process can write to a topic.

Kafka deletes the offsets of such a group when none was committed for a week (offsets.retention.minutes). So all offsets
of a topic are committed with each transaction, and now and then those of topics without messages. If they are deleted
nevertheless, the topic is refused, because its messages would be written a second time.

Sources: KIP-98, as stream/kafka/delivery.py, whose producer is used; Confluent's documentation of the wire format.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from io import BytesIO
from typing import Any, NamedTuple

import msgspec
from confluent_kafka import KafkaException
from fastavro import parse_schema, schemaless_writer

from stream.access.messages import read_messages
from stream.access.refusal import Admin, refused
from stream.behaviour import Behaviour
from stream.errors import ConfigError, Fenced, NoAnswer, NoRegistry
from stream.events import Partition
from stream.kafka.changelog import Changelog
from stream.kafka.delivery import Delivery, Outcome, Record, Undecided
from stream.kafka.topics import DEFAULT_LIMIT, FRAME_BYTES, LIMIT, configs_of
from stream.kafka_config import KafkaConfig
from stream.outputs import EPOCH, avro_schema, flat_avro_schema, flat_values
from stream.places.sink import Away, Event, Moved, Part
from stream.registry.client import Registry
from stream.rekey.topic import create_copy

ANSWER_S = 6.0

TRANSACTION_S = 30.0
"""Kafka rolls back the open transaction of a killed process after so many seconds, or when the next one starts."""

HANG_S = 10.0
"""A producer is replaced if a call takes longer."""

REFRESH_S = 3600.0
"""After so many seconds without a transaction the offsets of a topic are committed again."""

UNFIT = (ValueError, OverflowError)
"""Errors of an event that Avro cannot hold, such as an integer of more than 64 bits."""


class Form(NamedTuple):
    """How an event is written.

    schema  name of the output -> Avro schema
    values  event -> field -> value, as the schema has it
    """

    schema: Callable[[str], dict[str, Any]]
    values: Callable[[Event], dict[str, Any]]


NESTED = Form(avro_schema, msgspec.to_builtins)
FLAT = Form(flat_avro_schema, flat_values)


@dataclass
class Copy:
    """One topic that is written.

    topic      its name, which is that of the consumer group and of the transactional id, too
    schema     that of its messages, as fastavro reads it
    values     event -> field -> value, as the schema has it
    source     the topic that is copied
    head       the first bytes of each message: the byte 0 and the schema's id
    most_bytes of a message's key and value
    partitions number of its partitions
    member     the argument that stands for the group in a transaction
    stored     the committed offsets of the source
    written_s  when the last transaction was committed; None: not by this process
    """

    source: str
    topic: str
    schema: Any
    values: Callable[[Event], dict[str, Any]]
    head: bytes = b""
    most_bytes: int = 0
    partitions: int = 0
    member: bytes = b""
    delivery: Delivery | None = None
    stored: dict[Partition, int] = field(default_factory=dict)
    written_s: float | None = None

    def records(self, part: Part) -> list[Record]:
        """The messages of a part that Avro and the topic can hold."""
        found = []
        for event, key, time_ms in zip(part.events, part.keys, part.times_ms, strict=True):
            try:
                value = self._value(event)
            except UNFIT:
                continue
            if len(key or b"") + len(value) <= self.most_bytes:
                found.append(Record(self.topic, key, value, None, max(0, time_ms)))
        return found

    def _value(self, event: Event) -> bytes:
        time_ms = event.hour if isinstance(event, Behaviour) else event.timestamp
        EPOCH + timedelta(milliseconds=time_ms)  # OverflowError after the year 9999, on which readers fail
        out = BytesIO()
        out.write(self.head)
        schemaless_writer(out, self.schema, self.values(event))
        return out.getvalue()


class AvroSink:
    """A Sink in topics of the cluster that has the output topics.

    topics  those that it writes. This user needs READ and WRITE on each, READ on the group and WRITE on the
            transactional id of the same name, which `check_access` looks at
    """

    def __init__(
        self,
        broker: str,
        config: KafkaConfig,
        sources: Mapping[str, str],
        suffix: str,
        registry: Registry,
        create: bool = False,
        form: Form = NESTED,
    ) -> None:
        """Raises ConfigError if a copy would have the name of a source.

        sources  topic that is copied -> name of its output, one of stream.outputs.IN_AVRO
        suffix   what the name of a topic gets at its end
        create   create the topics that are missing
        form     how events are written
        """
        self._broker, self._config, self._registry, self._create = broker, config, registry, create
        self._form = form
        self._outputs = sources
        self._copies = {
            topic: Copy(topic, f"{topic}{suffix}", parse_schema(form.schema(output)), form.values)
            for topic, output in sources.items()
        }
        self.topics = [copy.topic for copy in self._copies.values()]
        if not sources.keys().isdisjoint(self.topics):
            raise ConfigError(
                f"--suffix {suffix!r} gives a topic of the JSON messages; give another one, such as -avro"
            )
        self.where = f"{broker} ({', '.join(self.topics)})"

    def open(self) -> None:
        with self._asked():
            self._look()
            self._register()
            asyncio.run(self._start())

    def offsets(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        found: dict[Partition, int] = {}
        for copy in self._copies.values():
            of_it = [partition for partition in partitions if partition.topic == copy.source]
            changelog = Changelog(self._broker, copy.topic, "", self._config)
            with self._asked():
                offsets = changelog.committed(of_it)
                ends = changelog.ends([Partition(copy.topic, number) for number in range(copy.partitions)])
            copy.stored = {partition: offset for partition, offset in offsets.items() if offset is not None}
            copy.written_s = None
            if not copy.stored and any(end for _, end in ends.values()) and self._has_messages(copy):
                raise ConfigError(
                    f"topic {copy.topic} has messages, but its consumer group of the same name has no offsets: they "
                    "were deleted, or expired without a process for longer than offsets.retention.minutes. To copy "
                    "everything again, delete the topic and create it; else set the offsets with "
                    f"kafka-consumer-groups.sh --group {copy.topic} --topic {copy.source} --reset-offsets"
                )
            found |= copy.stored
        return found

    def write(self, part: Part) -> int:
        copy = self._copies[part.partition.topic]
        if copy.stored.get(part.partition) != part.begin:
            raise Moved(part.partition, part.begin)
        records = copy.records(part)
        self._commit(copy, records, {**copy.stored, part.partition: part.end})
        for other in self._copies.values():
            if other.stored and (other.written_s is None or time.monotonic() - other.written_s > REFRESH_S):
                self._commit(other, [], other.stored)
        return len(part.events) - len(records)

    def close(self) -> None:
        pass  # a producer needs no end, and the next `open` replaces it

    def _look(self) -> None:
        """Check, or create, the topics, and look up what they can hold."""
        admin = Admin(self._broker, self._config)
        listed = admin.list_topics(timeout=ANSWER_S).topics
        for copy in self._copies.values():
            if copy.topic not in listed:
                self._make(admin, copy, listed.get(copy.source))
        deadline_s = time.monotonic() + ANSWER_S
        while not listed.keys() >= set(self.topics) and time.monotonic() < deadline_s:
            # until the broker knows the new ones
            listed = admin.list_topics(timeout=ANSWER_S).topics
        limits = configs_of(admin, self._broker, self.topics)
        for copy in self._copies.values():
            copy.partitions = len(listed[copy.topic].partitions) if copy.topic in listed else 0
            copy.most_bytes = int(limits.get(copy.topic, {}).get(LIMIT, DEFAULT_LIMIT)) - FRAME_BYTES

    def _make(self, admin: Admin, copy: Copy, source: Any) -> None:
        """Create a topic with the partitions and the replication of its source. Raises ConfigError without --create."""
        if source is None or not self._create:
            raise ConfigError(
                f"broker {self._broker} has no topic {copy.topic!r} that this user may see; create it, or run once "
                "with --create"
            )
        replicas = min(len(partition.replicas) for partition in source.partitions.values())
        create_copy(admin, self._broker, copy.source, copy.topic, len(source.partitions), replicas)

    def _register(self) -> None:
        """Look up the ids of the schemas, once, so that the registry is needed at the start only."""
        new = [copy for copy in self._copies.values() if not copy.head]
        if new:
            self._registry.check()  # raises for what waiting does not help against
        for copy in new:
            schema = self._form.schema(self._outputs[copy.source])
            number = self._registry.register(f"{copy.topic}-value", msgspec.json.encode(schema).decode())
            copy.head = b"\0" + number.to_bytes(4, "big")

    async def _start(self) -> None:
        """Fence the other producers of all topics, and roll back what they have not committed."""
        starts = []
        for copy in self._copies.values():
            if copy.delivery is not None:
                starts.append(copy.delivery.restart())
                continue
            limits = {copy.topic: copy.most_bytes}
            copy.delivery = Delivery(self._broker, copy.topic, TRANSACTION_S, HANG_S, limits, self._config)
            with closing(Changelog(self._broker, copy.topic, "", self._config).consumer("read_committed")) as consumer:
                copy.member = consumer.consumer_group_metadata()
            starts.append(copy.delivery.start())
        await asyncio.gather(*starts)

    def _has_messages(self, copy: Copy) -> bool:
        """Whether a topic has committed messages. Offsets it has after a transaction that was rolled back, too."""
        return next(read_messages(self._broker, copy.topic, self._config), None) is not None

    def _commit(self, copy: Copy, records: Sequence[Record], offsets: Mapping[Partition, int]) -> None:
        assert copy.delivery is not None
        try:
            with self._asked():
                outcome = asyncio.run(copy.delivery.commit(records, offsets, copy.member))
        except Fenced:
            raise ConfigError(f"another eddy sink writes to {copy.topic}; run one process for a topic") from None
        if outcome is not Outcome.COMMITTED:
            raise Away(f"Kafka rolled back a transaction on {copy.topic}")
        copy.stored, copy.written_s = dict(offsets), time.monotonic()

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """Raise Away or ConfigError for what Kafka and the registry answer."""
        try:
            yield
        except (NoAnswer, NoRegistry, Undecided) as exc:
            raise Away(str(exc)) from exc
        except KafkaException as exc:
            refusal = refused(exc)
            if refusal is None:
                raise Away(exc.args[0].str()) from exc
            names = ", ".join(self.topics)
            raise ConfigError(f"{refusal}. Here group and transactional id are the name of the topic: {names}") from exc
