"""Chunks of clicks -> everything that one transaction will hold."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from stream.engine.columns import Columns
from stream.engine.engine import Cycle, Engine
from stream.errors import BadClick
from stream.events import Click, Origin
from stream.kafka.changelog import POSITION_KEY
from stream.kafka.delivery import Record
from stream.kafka.transport import Chunk
from stream.settings import Topics
from stream.wire.dead_letter import dead_letter
from stream.wire.json import JsonCodec, encode
from stream.worker.served import anomalies, recommendations

log = logging.getLogger(__name__)


class Refused(NamedTuple):
    """A message that became a dead letter: where it was read, aiokafka's record, and why."""

    origin: Origin
    record: Any
    why: BadClick


@dataclass(frozen=True)
class Batch:
    """A processed batch: its clicks, the cycle to commit after them, what its transaction holds, what was refused."""

    clicks: Columns
    cycle: Cycle
    records: list[Record]
    offsets: dict[int, int]
    refused: list[Refused]


def process(
    engine: Engine, codec: JsonCodec, topics: Topics, chunks: list[Chunk], expected: Mapping[int, int], now_ms: int
) -> Batch:
    """Decode and step. Touches neither the arena nor Kafka, so a batch can be dropped at any time."""
    engine.refresh()
    decode = codec.decode
    clicks: list[Click] = []
    origins: list[Origin] = []
    records: list[Record] = []
    refused: list[Refused] = []
    offsets: dict[int, int] = {}
    for chunk in chunks:
        partition = chunk.partition
        lowest = offsets.get(partition, expected[partition])
        if chunk.begin != lowest or chunk.records[0].offset < lowest:
            raise RuntimeError(
                f"{topics.clicks}-{partition}: decided up to {lowest}, but read on from {chunk.begin} "
                f"({chunk.records[0].offset}): clicks would be left out or repeated"
            )
        for record in chunk.records:
            origin = Origin(topics.clicks, partition, record.offset)
            try:
                clicks.append(decode(record.key, record.value, now_ms))
                origins.append(origin)
            except BadClick as exc:
                refused.append(Refused(origin, record, exc))
                letter = encode(dead_letter(origin, record, exc))
                records.append(Record(topics.dead_letters, record.key, letter))
        offsets[partition] = chunk.records[-1].offset + 1
    columns = engine.encoder.columns(clicks, origins)
    cycle = engine.process(columns, now_ms)
    if len(cycle.applied) < len(clicks):
        log.warning("clicks below their user's row skipped: clicks=%d", len(clicks) - len(cycle.applied))
    recommended, alerts = recommendations(engine, clicks, origins, cycle), anomalies(engine, clicks, origins, cycle)
    records += [Record(topics.recommendations, r.user_id.encode(), encode(r)) for r in recommended]
    records += [Record(topics.anomalies, a.user_id.encode(), encode(a)) for a in alerts]
    records += [Record(topics.changelog, key, row, partition.number) for partition, key, row in cycle.staged.changelog]
    records += [Record(topics.changelog, POSITION_KEY, b"%d" % next_, p) for p, next_ in offsets.items()]
    return Batch(columns, cycle, records, offsets, refused)
