"""Checks that alerts on Kafka, with a worker killed midway, are byte for byte those of the offline engine.

1. Episodes of every kind that adds clicks are injected into the later clicks of a log, as in `python -m bench.anomaly`.
2. The clicks are sent to a real Kafka and processed by two workers. One is killed with kill -9 and restarted.
3. The clicks topic is read back, and the engine of `bench.anomaly` processes each partition in batches of other sizes.
   The records of `anomalies` and `system-alerts` must have the same keys and the same bytes, once each.

Exit code 1 if a byte differs.

    python -m bench.anomaly.delivered
    python -m bench.anomaly.delivered --logs taobao --json
"""

import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

import msgspec
from confluent_kafka import Message, Producer
from rich.progress import Progress

from bench.anomaly.clicks import Clicks, apply
from bench.anomaly.command import Measured, options, run
from bench.anomaly.injections import KINDS, inject, left_out
from bench.anomaly.logs import Log
from bench.apache_kafka import ApacheKafka, KafkaUnavailable
from bench.command import stop
from bench.groups import KILL_AT, Run, disturbed
from bench.readers import read_topic
from bench.report import RESULTS, Figures
from stream.events import Origin
from stream.kafka.topics import create_topics
from stream.model.runtime import load_model
from stream.wire.json import JsonCodec, encode
from stream.worker.served import anomalies, open_engine, system_alerts

RESULT = RESULTS / "delivered_alerts.json"
PARTITIONS = 2
ALPHA = 0.0001
"""The worker's default."""

BATCH = 173
"""Clicks in a batch of the offline engine; the workers' batches have other sizes."""

Records = Counter[tuple[bytes | None, bytes | None]]
"""Key and value of each record, and how often it is there."""


def with_episodes(log: Log, which: str) -> Clicks:
    """The later clicks of a log with the strong episodes of all kinds that only add clicks."""
    clicks = log.later
    for kind in KINDS:
        if left_out(log, kind) is None and not len((injection := inject(log, which, kind, "strong", 0)).changed):
            clicks = apply(clicks, injection).clicks
    return clicks


def messages(log: Log, clicks: Clicks) -> Iterator[tuple[bytes, bytes]]:
    """Key and value of each click's message. Items and event types that the log does not have get new names."""
    columns = (clicks.user, clicks.item, clicks.event_type, clicks.time_ms)
    for user, item, event_type, time_ms in zip(*(column.tolist() for column in columns), strict=True):
        click = {
            "user_id": f"u{user}",
            "item_id": log.items[item] if item < len(log.items) else f"unknown-{item}",
            "event_type": log.event_types[event_type] if event_type < len(log.event_types) else "unknown",
            "timestamp": time_ms,
        }
        yield click["user_id"].encode(), msgspec.json.encode(click)


def publish(broker: str, pairs: Iterable[tuple[bytes, bytes]]) -> None:
    """Send messages to the topic clicks, and wait until all are there."""
    producer = Producer({"bootstrap.servers": broker, "linger.ms": 20, "enable.idempotence": True})
    for key, value in pairs:
        while True:
            try:
                producer.produce("clicks", value, key)
                break
            except BufferError:
                producer.poll(0.1)
    if producer.flush(60):
        stop("clicks could not be sent within a minute")


def offline(model: Path, read: list[Message]) -> tuple[Records, Records]:
    """The records that the offline engine makes of the clicks on the topic: alerts on single users, and on many."""
    engine, codec = open_engine(load_model(model, "cpu"), model, 1, 1, ALPHA), JsonCodec(2**20, 2**62)
    of_users, of_many = Records(), Records()
    in_order = sorted(read, key=lambda message: (message.partition(), message.offset()))
    for _, partition in groupby(in_order, lambda message: message.partition()):
        theirs = list(partition)
        for part in (theirs[at : at + BATCH] for at in range(0, len(theirs), BATCH)):
            clicks = [codec.decode(m.key(), m.value(), m.timestamp()[1]) for m in part]
            origins = [Origin(m.topic(), m.partition(), m.offset()) for m in part]
            cycle = engine.process(engine.encoder.columns(clicks, origins), now_ms=0)
            of_users.update((a.user_id.encode(), encode(a)) for a in anomalies(engine, clicks, origins, cycle))
            many = system_alerts(engine, clicks, origins, cycle)
            of_many.update((f"{alert.partition} {alert.sign}".encode(), encode(alert)) for alert in many)
            engine.commit(cycle)
    return of_users, of_many


def delivered(broker: str, topic: str) -> Records:
    return Records((message.key(), message.value()) for message in read_topic(broker, topic))


def measure(log: Log, model: Path, which: str) -> Figures:
    """Run the workers and the offline engine on one log, and compare the records."""
    logs = Path(tempfile.mkdtemp(prefix="eddy-delivered-"))
    clicks = with_episodes(log, which)
    try:
        with ApacheKafka() as kafka:
            workers = Run(kafka.address, model, "killed", logs)
            create_topics(kafka.address, workers.topics, PARTITIONS, 1)
            facts = disturbed(workers, lambda: publish(kafka.address, messages(log, clicks)), len(clicks))
            expected = offline(model, read_topic(kafka.address, "clicks"))
            found = [
                delivered(kafka.address, topic) for topic in (workers.topics.anomalies, workers.topics.system_alerts)
            ]
    except KafkaUnavailable as exc:
        stop(str(exc))
    shutil.rmtree(logs, ignore_errors=True)
    figures: Figures = {"clicks": len(clicks), **facts}
    for name, want, came in zip(("alerts", "system_alerts"), expected, found, strict=True):
        figures |= {
            name: want.total(),
            f"{name}_missing": (want - came).total(),
            f"{name}_surplus": (came - want).total(),
        }
    return figures


def failures(found: Figures) -> tuple[str, ...]:
    """One line for each kind of alerts of which a byte differs."""
    names = [f"{alerts}_{what}" for alerts in ("alerts", "system_alerts") for what in ("missing", "surplus")]
    return tuple(f"{name} is {found[name]}, but must be 0" for name in names if found[name])


def table(name: str, found: Figures) -> str:
    lines = [f"{name}: {found['clicks']:,} clicks, a worker killed at {found['killed_at_click']:,}"]
    for kind in ("alerts", "system_alerts"):
        lines += [f"{kind}: {found[kind]}, missing {found[f'{kind}_missing']}, surplus {found[f'{kind}_surplus']}"]
    return "\n".join(lines)


def main() -> int:
    given = options("bench.anomaly.delivered", __doc__, RESULT).parse_args()

    def measured(log: Log, model: Path, _: Progress) -> Measured:
        found = measure(log, model, given.set)
        conditions = {
            "log": log.what,
            "set": given.set,
            "partitions": PARTITIONS,
            "alpha": ALPHA,
            "offline_batch": BATCH,
        }
        conditions["killed"] = f"one of two workers, kill -9 at {KILL_AT:.0%}, restarted"
        return Measured(found, conditions, table(log.name, found), failures(found))

    return run("bench.anomaly.delivered", given, measured)


if __name__ == "__main__":
    sys.exit(main())
