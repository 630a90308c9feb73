"""One run: workers and traffic, faults, then the checks, before and after a compaction of the changelog."""

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic, ResourceType

from bench.chaos.check import Checker, Found, Topics, surplus
from bench.chaos.cluster import Cluster
from bench.chaos.faults import FIRST, Done, Fault, Hand
from bench.chaos.traffic import TRIGGERS, Traffic
from bench.chaos.watch import Watch, longest_pauses
from bench.chaos.workers import K, RunFailed, Supervisor
from bench.readers import progress, read_topic
from stream.kafka.topics import create_topics
from stream.settings import Topics as Names

PARTITIONS = 4
DRAIN_S, COMPACTED_S, FLOWING_S = 180.0, 90.0, 60.0
CLICKS = "clicks"

CHANGELOG = {"cleanup.policy": "compact", "segment.bytes": str(1 << 20), "min.cleanable.dirty.ratio": "0.2"}
"""Small segments, so that a long run is compacted while its workers recover."""

SQUEEZE = {"segment.ms": "200", "min.cleanable.dirty.ratio": "0.001"}
"""With these, everything but the last records is compacted."""


def names(group: str) -> Names:
    """The topics of a group; all groups read the same clicks."""
    words = ("recommendations", "anomalies", "dead", "states", "system", "sessions", "triggers", "behaviour")
    return Names(CLICKS, *(f"{group}-{word}" for word in words))


@dataclass
class Run:
    """The parts of a run. `phase` is called with a line when a new part of the run begins."""

    cluster: Cluster
    model: Path
    logs: Path
    seed: int
    rate: float
    phase: Callable[[str], None]
    faults: list[Done] = field(default_factory=list)
    found: dict[str, Found] = field(default_factory=dict)
    exits: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.traffic = Traffic(self.cluster.direct, CLICKS, self.seed, self.rate)
        self._checker = Checker(self.model, CLICKS, K, TRIGGERS)
        self._triggers = self.logs / "triggers.toml"
        self._triggers.write_text(TRIGGERS)

    def disturbed(self, schedule: list[Fault], each: Callable[[Done], None]) -> dict[str, Any]:
        """Do the faults under load, then let the workers decide everything and stop. Returns the pauses by kind.

        each  called after each fault
        """
        self._create("chaos")
        supervisor = self._supervisor("chaos")
        watch = Watch(self.cluster.direct, names("chaos").recommendations, PARTITIONS)
        try:
            with watch:
                for _ in range(FIRST):
                    supervisor.add()
                self.traffic.start()
                self._flows(supervisor, watch, "all partitions have decisions")
                for done in Hand(self.cluster, supervisor, CLICKS, PARTITIONS).do(schedule):
                    self.faults.append(done)
                    each(done)
                self._flows(supervisor, watch, "all partitions have decisions again")
                self.phase("the workers decide on all clicks that are left")
                self.traffic.end()
                self._drain(supervisor, "chaos")
                self._stop(supervisor)
                return pauses(self.faults, longest_pauses(watch.arrivals, self.faults))
        finally:
            self.traffic.end()
            supervisor.end_all()
            self.exits += supervisor.exits

    def undisturbed(self) -> None:
        """One worker of another group decides on the same clicks."""
        self.phase("an undisturbed worker decides on the same clicks")
        self._create("undisturbed")
        supervisor = self._supervisor("undisturbed")
        try:
            supervisor.add()
            self._drain(supervisor, "undisturbed")
            self._stop(supervisor)
        finally:
            supervisor.end_all()

    def check(self, when: str) -> None:
        """Compare everything that the disturbed workers wrote with what is due; the result is `found[when]`."""
        self.phase(f"checking, {when}")
        topics, undisturbed = self._read("chaos"), names("undisturbed")
        decisions, changelog = (
            read_topic(self.cluster.direct, name) for name in (undisturbed.recommendations, undisturbed.changelog)
        )
        found = self.found[when] = self._checker.expect(self.traffic.sent, self.traffic.offsets, topics.clicks)
        found.errors += self.traffic.failed
        found.add(self._checker.check(topics))
        found.add(self._checker.compare(topics, decisions, changelog))

    def compact(self) -> None:
        """Compact the changelog and let a worker recover from it, twice: after it was stopped, and after kill -9.

        Kafka compacts closed segments only, and closes one when a record comes. Bad messages make a worker write marks
        into the changelog, and leave all rows as they are.
        """
        self.phase("compacting the changelog")
        self._configure(names("chaos").changelog, SQUEEZE)
        supervisor = self._supervisor("chaos-compacted", "chaos")
        try:
            worker = supervisor.add()
            end = time.monotonic() + COMPACTED_S
            while surplus(read_topic(self.cluster.direct, names("chaos").changelog)) > 8 * PARTITIONS:
                if time.monotonic() > end:
                    raise RunFailed(f"the changelog was not compacted within {COMPACTED_S:.0f} s")
                self._nudge()
                self._drain(supervisor, "chaos")
                supervisor.tend_for(0.5)
            supervisor.kill(worker, 0.0)
            self._nudge()
            self._drain(supervisor, "chaos")
            self._stop(supervisor)
        finally:
            supervisor.end_all()
            self.exits += supervisor.exits

    # -- parts --------------------------------------------------------------------------------------------------------

    @staticmethod
    def _flows(supervisor: Supervisor, watch: Watch, what: str) -> None:
        now = time.monotonic()
        supervisor.tend_until(lambda: watch.flows_since(now), what, FLOWING_S)

    def _create(self, group: str) -> None:
        new = NewTopic(names(group).changelog, PARTITIONS, self.cluster.copies, config=CHANGELOG)
        self.cluster.admin.create_topics([new])[new.topic].result(30)
        create_topics(self.cluster.direct, names(group), PARTITIONS, self.cluster.copies)

    def _configure(self, topic: str, values: dict[str, str]) -> None:
        entries = [
            ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in values.items()
        ]
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
        for future in self.cluster.admin.incremental_alter_configs([resource]).values():
            future.result(30)

    def _supervisor(self, logs: str, group: str | None = None) -> Supervisor:
        group = group or logs
        return Supervisor(self.cluster.address, self.model, group, names(group), self._triggers, self.logs / logs)

    def _nudge(self) -> None:
        for partition in range(PARTITIONS):
            self.traffic.send_bad(partition)
        self.traffic.end()

    def _drain(self, supervisor: Supervisor, group: str) -> None:
        with progress(self.cluster.direct, group, CLICKS) as look:

            def all_decided() -> bool:
                committed, ends = look()
                return committed == ends

            limit_s = DRAIN_S + len(self.traffic.sent) / self.rate  # slower than they were sent is wrong
            supervisor.tend_until(all_decided, f"{group}: all clicks are decided", limit_s)

    def _stop(self, supervisor: Supervisor) -> None:
        supervisor.tend_until(lambda: all(not w.ended for w in supervisor.workers), "all workers run", 60)
        for worker in list(supervisor.workers):
            supervisor.remove(worker)

    def _read(self, group: str) -> Topics:
        broker, topics = self.cluster.direct, names(group)
        consumer = Consumer({"bootstrap.servers": broker, "group.id": group, "log_level": 0})
        try:
            where = [TopicPartition(CLICKS, partition) for partition in range(PARTITIONS)]
            committed = {at.partition: at.offset for at in consumer.committed(where, timeout=30)}
            ends = {at.partition: consumer.get_watermark_offsets(at, timeout=30)[1] for at in where}
        finally:
            consumer.close()
        written = (topics.recommendations, topics.anomalies, topics.system_alerts, topics.sessions, topics.triggers)
        written += (topics.behaviour, topics.dead_letters)
        return Topics(*(read_topic(broker, name) for name in (CLICKS, *written, topics.changelog)), committed, ends)

    def keep_sent(self) -> None:
        """Write what was sent beside the logs, one JSON object a line."""
        with (self.logs / "sent.jsonl").open("w") as file:
            for one, at in zip(self.traffic.sent, self.traffic.offsets, strict=True):
                texts = [text and text.decode("latin-1") for text in (one.key, one.value)]
                file.write(json.dumps([*(at or (None, None)), *texts, one.reason]) + "\n")


def pauses(faults: list[Done], longest: list[float]) -> dict[str, Any]:
    """For each kind of fault: how many there were, and the median and the longest of their pauses, seconds."""
    by_kind: dict[str, list[float]] = defaultdict(list)
    for fault, seconds in zip(faults, longest, strict=True):
        by_kind[fault.kind].append(seconds)
    return {
        kind: {
            "faults": len(found),
            "median_pause_s": round(sorted(found)[len(found) // 2], 2),
            "longest_pause_s": round(max(found), 2),
        }
        for kind, found in sorted(by_kind.items())
    }
