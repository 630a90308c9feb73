"""Chunks of clicks -> everything that one transaction will hold."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from stream.engine.engine import Cycle, Engine
from stream.errors import BadClick
from stream.events import Click, Origin
from stream.kafka.changelog import POSITION_KEY
from stream.kafka.delivery import Record
from stream.kafka.transport import Chunk
from stream.settings import Topics
from stream.wire.dead_letter import dead_letter
from stream.wire.fit import fit_anomaly, fit_recommendation
from stream.wire.json import JsonCodec

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """A processed batch: everything its transaction will hold, and the cycle to commit after it."""

    cycle: Cycle
    records: list[Record]
    offsets: dict[int, int]


def process(
    engine: Engine,
    codec: JsonCodec,
    topics: Topics,
    limits: Mapping[str, int],
    chunks: list[Chunk],
    expected: Mapping[int, int],
    now_ms: int,
) -> Batch:
    """Decode and step. Touches neither the arena nor Kafka, so a batch can be dropped at any time.

    limits  topic -> the most bytes that key and value of a record may have together
    """
    engine.refresh()
    decode = codec.decode
    clicks: list[Click] = []
    origins: list[Origin] = []
    records: list[Record] = []
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
                key, letter = dead_letter(origin, record, exc, limits[topics.dead_letters])
                records.append(Record(topics.dead_letters, key, letter))
        offsets[partition] = chunk.records[-1].offset + 1
    cycle = engine.process(clicks, origins)
    if cycle.repeated:
        log.warning("clicks below their user's row skipped: clicks=%d", cycle.repeated)
    records += _decisions(cycle, topics, limits)
    records += [Record(topics.changelog, key, row, partition) for partition, key, row in cycle.rows]
    records += [Record(topics.changelog, POSITION_KEY, b"%d" % next_, p) for p, next_ in offsets.items()]
    return Batch(cycle, records, offsets)


def _decisions(cycle: Cycle, topics: Topics, limits: Mapping[str, int]) -> list[Record]:
    """The recommendations and anomalies of a cycle, each cut to what its topic takes."""
    records: list[Record] = []
    lists_cut = items_cut = 0
    for decision in cycle.recommendations:
        key = decision.user_id.encode()
        value, cut = fit_recommendation(decision, limits[topics.recommendations] - len(key))
        records.append(Record(topics.recommendations, key, value))
        lists_cut += cut > 0
        items_cut += cut
    for alert in cycle.anomalies:
        key = alert.user_id.encode()
        records.append(Record(topics.anomalies, key, fit_anomaly(alert, limits[topics.anomalies] - len(key))))
    if lists_cut:
        log.warning(
            "recommendations cut, larger than their topic takes: topic=%s bytes=%d lists=%d items=%d; "
            "raise the topic's max.message.bytes or lower --k",
            topics.recommendations,
            limits[topics.recommendations],
            lists_cut,
            items_cut,
        )
    return records
