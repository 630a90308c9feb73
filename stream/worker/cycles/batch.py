"""Converts chunks of messages to all records and offsets of one transaction: `decide`, and then `encode_all`."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from stream.carry.messages import Way
from stream.engine import isolate
from stream.engine.columns import Columns
from stream.engine.engine import Cycle, Engine
from stream.errors import BadClick
from stream.events import Anomaly, Click, Origin, Partition, Recommendation, Session, SystemAlert
from stream.hours.messages import messages
from stream.kafka.changelog import POSITION_KEY, Mark
from stream.kafka.consumer.fetch import Chunk
from stream.kafka.delivery import Record
from stream.settings import Topics
from stream.state.arena import Arena
from stream.state.seen import MINUTE_MS
from stream.state.staged import Staged
from stream.trigger import Trigger
from stream.wire.codec import Codec
from stream.wire.dead_letter import dead_letter
from stream.wire.json import encode
from stream.wire.sizes import fit_anomaly, fit_recommendation, fit_trigger
from stream.worker.cycles.crowd import first_crowd
from stream.worker.cycles.decode import Refused, decode
from stream.worker.served import anomalies, recommendations, sessions, system_alerts, triggers

MODEL_FAILED = BadClick("model_failed", "the model's result for the click is not finite; the state is unchanged")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """A processed batch.

    clicks    the valid clicks
    taken     the same as messages, and their origins
    cycle     the engine's result. It must be committed to the arena after the transaction is committed
    offsets   partition -> offset of the next message to read
    marks     the marks of the partitions in the changelog
    refused   the messages that became dead letters
    dropped   origin of each message that the mapping leaves out -> why
    left_out  optional field -> number of messages whose value in this field was not valid
    chunks, rest  those whose messages are in the batch, and those that another one after it must begin with
    sent, carried  the messages with states that leave; what became of states that came to users -> how many
    seconds   stage of the cycle -> how long it took. `decide` and `encode_all` measure the first three
    records   all records of the transaction. This and what follows are empty before `encode_all`
    alerts    the alerts on single users, in the order of their clicks; those on ends of sessions before that of the
              click with which they end
    system_alerts  the alerts on many users, in the order of their clicks
    triggers  of the rules for marketing, in their order
    """

    clicks: Columns
    taken: tuple[Sequence[Click], Sequence[Origin]]
    cycle: Cycle
    offsets: dict[Partition, int]
    marks: list[Record]
    refused: list[Refused]
    dropped: dict[Origin, str]
    left_out: Mapping[str, int]
    chunks: Sequence[Chunk] = ()
    rest: Sequence[Chunk] = ()
    sent: Sequence[Record] = ()
    carried: Mapping[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    alerts: list[Anomaly] = field(default_factory=list)
    system_alerts: list[SystemAlert] = field(default_factory=list)
    triggers: list[Trigger] = field(default_factory=list)

    @property
    def work_s(self) -> float:
        """How long the work on the clicks took: the part of a cycle that is longer with more of them."""
        return sum(self.seconds.get(stage, 0.0) for stage in ("decode", "engine", "encode"))

    def left_open(self, minutes: Mapping[Partition, int]) -> set[Partition]:
        """The partitions of a batch without clicks of which too many sessions were due by their minutes (`rest`)."""
        times = self.cycle.staged.times
        return {one for one, _ in self.cycle.ended.owners if times[one] < minutes[one] * MINUTE_MS}


def engine_failed(error: Exception) -> BadClick:
    """The reason of a dead letter for a click on which the engine raised an exception."""
    return BadClick("engine_failed", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")


def decide(
    engine: Engine,
    codec: Codec,
    topics: Topics,
    chunks: Sequence[Chunk],
    expected: Mapping[Partition, int],
    now_ms: int,
    way: Way | None = None,
) -> Batch:
    """Decode the messages of the chunks and process the clicks. Runs in the engine thread.

    It changes neither the arena nor Kafka, so a batch can be dropped at any time.

    expected  partition -> offset at which its first chunk must begin
    now_ms    current time of the worker, ms since the epoch. Of a message that Kafka or its producer stamped later, the
              stamp is the current time, up to TRUSTED_MS ahead: else a worker whose clock is behind refuses every click
    way       of the states that go from anonymous ids to users; None = they stay
    Raises RuntimeError if a chunk does not begin at the end of the previous chunk of its partition.
    """
    began_s = time.perf_counter()
    engine.refresh()
    found = decode(engine, codec, chunks, expected, now_ms, way)
    clicks, origins, refused, requests, moves = found.clicks, found.origins, found.refused, found.requests, found.moves
    columns = engine.encoder.columns(clicks, origins, requests.asked)
    crowd = first_crowd(engine.arena, found, columns.time_ms)
    if crowd is not None:
        before, rest_of = crowd.cut(chunks)
        if before:
            batch = decide(engine, codec, topics, before, expected, now_ms, way)
            return replace(batch, rest=[*batch.rest, *rest_of])
        return replace(rest(engine, topics, expected, {crowd.partition: crowd.minute}), rest=chunks)
    decoded_s = time.perf_counter()
    cycle, broken = isolate.process(engine, columns, now_ms)
    stepped_s = time.perf_counter()
    repeats = len(clicks) - len(cycle.decided) - len(cycle.failed) - len(cycle.repeated) - len(broken)
    if repeats:
        log.warning("repeated clicks skipped, their offsets are not above those in the users' rows: clicks=%d", repeats)
    if requests.forget or requests.quiet:
        log.info("requests about users applied: forget=%d quiet=%d", requests.forget, requests.quiet)
    failed = cycle.failed.tolist()
    if failed:
        log.error(
            "the model's result is NaN or infinite, so clicks became dead letters and their states are unchanged: "
            "clicks=%d first=%s item=%s",
            len(failed),
            origins[failed[0]].id,
            clicks[failed[0]].item_id,
        )
    if broken:
        log.error(
            "the engine failed on clicks, so they became dead letters and their states are unchanged: "
            "clicks=%d first=%s item=%s error=%s",
            len(broken),
            origins[min(broken)].id,
            clicks[min(broken)].item_id,
            engine_failed(broken[min(broken)]).detail,
        )
    refused += [Refused(origins[i], codec.keep(found.taken[i]), MODEL_FAILED) for i in failed]
    refused += [Refused(origins[i], codec.keep(found.taken[i]), engine_failed(broken[i])) for i in sorted(broken)]
    marks = _marks(engine.arena, cycle.staged, found.offsets, topics.changelog)
    sent = [] if moves is None else moves.sent(cycle.left)
    carried = {} if moves is None else moves.outcomes(cycle.taken)
    seconds = {"decode": decoded_s - began_s, "engine": stepped_s - decoded_s}
    told = found.offsets, marks, refused, found.dropped, dict(codec.left_out), found.chunks, found.rest
    return Batch(columns, (clicks, origins), cycle, *told, sent, carried, seconds)


def encode_all(engine: Engine, topics: Topics, limits: Mapping[str, int], batch: Batch) -> Batch:
    """The same batch with all records and events. It reads no state: any thread may call it while the engine works.

    limits  topic -> largest size in bytes of a record's key and value together
    """
    began_s = time.perf_counter()
    (clicks, origins), cycle = batch.taken, batch.cycle
    records = [Record(topics.dead_letters, *dead_letter(*each, limits[topics.dead_letters])) for each in batch.refused]
    records += _recommendations(recommendations(engine, clicks, origins, cycle), topics.recommendations, limits)
    alerts = anomalies(engine, clicks, origins, cycle)
    records += _anomalies(alerts, topics.anomalies, limits)
    on_many = system_alerts(engine, clicks, origins, cycle)
    records += [
        Record(topics.system_alerts, f"{alert.partition} {alert.sign}".encode(), encode(alert)) for alert in on_many
    ]
    records += _sessions(sessions(engine, clicks, origins, cycle), topics.sessions)
    wanted = triggers(engine, clicks, cycle)
    records += _triggers(wanted, topics.triggers, limits)
    records += _hours(engine, cycle, topics.behaviour, limits)
    records += batch.sent
    records += _rows(cycle.staged, topics.changelog)
    records += batch.marks
    seconds = {**batch.seconds, "encode": time.perf_counter() - began_s}
    return replace(batch, seconds=seconds, records=records, alerts=alerts, system_alerts=on_many, triggers=wanted)


def rest(engine: Engine, topics: Topics, expected: Mapping[Partition, int], minutes: Mapping[Partition, int]) -> Batch:
    """End the sessions of partitions that have no clicks. Runs in the engine thread.

    expected  partition -> offset at which its next chunk must begin. It stays
    minutes   as in Engine.rest
    Without offsets, if no session was open.
    """
    cycle = engine.rest(minutes)
    offsets = {partition: expected[partition] for partition in cycle.staged.times}
    marks = _marks(engine.arena, cycle.staged, offsets, topics.changelog)
    return Batch(engine.encoder.columns((), ()), ((), ()), cycle, offsets, marks, [], {}, {})


def _sessions(events: list[Session], topic: str) -> list[Record]:
    return [Record(topic, event.user_id.encode(), encode(event)) for event in events]


def _triggers(events: list[Trigger], topic: str, limits: Mapping[str, int]) -> list[Record]:
    keyed = ((event.user_id.encode(), event) for event in events)
    return [Record(topic, key, fit_trigger(event, limits[topic] - len(key))) for key, event in keyed]


def _hours(engine: Engine, cycle: Cycle, topic: str, limits: Mapping[str, int]) -> list[Record]:
    if not cycle.hours:  # also where there is no topic for them
        return []
    manifest = engine.model.manifest
    found = messages(cycle.hours, manifest.event_types, manifest.label, limits[topic])
    return [Record(topic, key, value) for key, value in found]


def _rows(staged: Staged, topic: str) -> list[Record]:
    return [Record(topic, key, row, partition.number) for partition, key, row in staged.changelog]


def _marks(arena: Arena, staged: Staged, offsets: Mapping[Partition, int], topic: str) -> list[Record]:
    """The marks of partitions in the changelog. They are the last records of a transaction."""
    return [
        Record(
            topic,
            POSITION_KEY,
            Mark(
                next_,
                *(staged.totals.get(partition) or arena.totals(partition)),
                staged.times.get(partition) or arena.newest_ms(partition),
                staged.kept.get(partition) or arena.kept.get(partition, b""),
            ).encode(),
            partition.number,
        )
        for partition, next_ in offsets.items()
    ]


def _recommendations(decisions: list[Recommendation], topic: str, limits: Mapping[str, int]) -> list[Record]:
    """Convert recommendations to records. A record that is too large for the topic gets a shorter list."""
    records: list[Record] = []
    lists_cut = items_cut = 0
    for decision in decisions:
        key = decision.user_id.encode()
        value, cut = fit_recommendation(decision, limits[topic] - len(key))
        records.append(Record(topic, key, value))
        lists_cut += cut > 0
        items_cut += cut
    if lists_cut:
        log.warning(
            "recommendations cut to the size limit of their topic: topic=%s bytes=%d lists=%d items=%d; "
            "raise the topic's max.message.bytes or lower --k",
            topic,
            limits[topic],
            lists_cut,
            items_cut,
        )
    return records


def _anomalies(alerts: list[Anomaly], topic: str, limits: Mapping[str, int]) -> list[Record]:
    """Convert alerts to records. A record that is too large for the topic has no expected items."""
    keyed = ((alert.user_id.encode(), alert) for alert in alerts)
    return [Record(topic, key, fit_anomaly(alert, limits[topic] - len(key))) for key, alert in keyed]
