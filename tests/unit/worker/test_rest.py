"""A partition without clicks: its sessions end by the clock, once, and as the next click would have ended them."""

import asyncio
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from stream.events import Partition, Session
from stream.kafka.changelog import POSITION_KEY, Mark, Position
from stream.kafka.consumer.fetch import Chunk
from stream.kafka.delivery import Outcome, Record, Undecided
from stream.kafka.leaders import Targets
from stream.meter import Meter
from stream.model.runtime import load_model
from stream.sessions import ends
from stream.settings import Topics
from stream.triggers.rules import Rule
from stream.web.alerts import Alerts
from stream.web.hours import LastHours
from stream.wire.json import JsonCodec
from stream.worker.cycles import crowd, cycle
from stream.worker.cycles.cycle import Cycles
from stream.worker.cycles.size import CycleSize
from stream.worker.observe import Observed
from stream.worker.served import open_engine
from tests.changed_model import with_scored_ends
from tests.unit.worker.recovered import CLICKS_0, decided

START_MS = 1_700_000_000_000
HOUR_MS = 3_600_000
TOPICS = Topics(behaviour="behaviour")


def closed(records: Sequence[Record]) -> list[Session]:
    """The ends of sessions among these records."""
    events = [msgspec.json.decode(r.value or b"", type=Session) for r in records if r.topic == TOPICS.sessions]
    return [event for event in events if event.phase == "closed"]


class Kafka:
    """A producer and a changelog: what was committed, with offsets and marks.

    ended  how many sessions each transaction ended that ended any
    fails  how the next transactions end: "lost" (not committed, nobody knows) or "unseen" (committed, nobody knows)
    """

    group, topic = "shop", TOPICS.changelog
    targets = Targets()

    def __init__(self, end: int) -> None:
        self.end, self.written, self.seconds = end, list[Record](), dict[str, float]()
        self.next, self.fails, self.ended = 0, list[str](), list[int]()

    async def start(self) -> None:
        return None

    async def restart(self) -> None:
        return None

    async def commit(self, records: Sequence[Record], offsets: Any, member: bytes, metadata: str = "") -> Outcome:
        how = self.fails.pop(0) if self.fails else ""
        if how != "lost":
            self.written += records
            self.ended += [number] if (number := len(closed(records))) else []
            self.next = offsets.get(CLICKS_0, self.next)
        if how:
            raise Undecided("the producer hangs")
        return Outcome.COMMITTED

    def positions(self, partitions: Sequence[Partition]) -> dict[Partition, Position]:
        return dict.fromkeys(partitions, Position(self.next or None, self.next))

    def marks(self, partitions: Sequence[Partition]) -> dict[Partition, Mark]:
        return {CLICKS_0: self.mark}

    def read(self, partitions: Sequence[Partition], take: Any) -> Mapping[Partition, Mark]:
        return {}

    def ends(self, partitions: Sequence[Partition]) -> dict[Partition, tuple[int, int]]:
        return dict.fromkeys(partitions, (0, self.end))

    @property
    def mark(self) -> Mark:
        values = [record.value for record in self.written if record.key == POSITION_KEY]
        return Mark.decode(values[-1] or b"", CLICKS_0)

    @property
    def alerts(self) -> list[bytes]:
        return [record.value or b"" for record in self.written if record.topic == TOPICS.anomalies]

    @property
    def hours(self) -> list[dict[str, Any]]:
        return [json.loads(record.value or b"") for record in self.written if record.topic == TOPICS.behaviour]

    @property
    def closed(self) -> list[Session]:
        return closed(self.written)


class Worker:
    """Cycles on such a Kafka, with a clock of their own."""

    def __init__(
        self, model_dir: Path, kafka: Kafka, alpha: float = 0.001, rules: Sequence[Rule] = (), hours: bool = False
    ) -> None:
        engine = open_engine(load_model(model_dir, "cpu"), model_dir, 3, 1, alpha, triggers=rules, hours=hours)
        self.arena = engine.arena
        self.meter, self.alerts, self.last_hours = Meter(), Alerts(), LastHours()
        observed = Observed(
            self.meter, engine.model, engine.arena, 1, lambda message: [], alerts=self.alerts, hours=self.last_hours
        )
        self.watch, stubs = SimpleNamespace(answered_s=5_000.0), (kafka, kafka)
        given: Any = (JsonCodec(65_536, 1_000), *stubs, TOPICS)
        limits, watch = dict.fromkeys(msgspec.structs.astuple(TOPICS), 1_000_000), self.watch
        self.cycles = Cycles(  # type: ignore[arg-type]
            engine,
            *given,
            limits,
            CycleSize(1_000, 10.0),
            lambda: START_MS * 2,
            observed.committed,
            watch,
            meter=self.meter,
        )
        self._offsets = Counter[Partition]()

    async def begin(self, *others: Partition) -> None:
        partitions = [CLICKS_0, *others]
        await self.cycles.read(await self.cycles.recover(partitions, 1, b"member"), partitions)

    async def click(self, user: str, minute: float, partition: Partition = CLICKS_0) -> None:
        """A click at a minute after START_MS."""
        click = {"user_id": user, "item_id": "i1", "timestamp": START_MS + int(minute * 60_000)}
        key, value = user.encode(), msgspec.json.encode(click)
        offset = self._offsets[partition]
        record = SimpleNamespace(offset=offset, key=key, value=value, timestamp=START_MS, headers=())
        chunk = Chunk(partition, 1, offset, offset + 1, 0, (record,), 100)  # type: ignore[arg-type]
        self._offsets[partition] += 1
        await decided(self.cycles, chunk)

    async def idle(self, minutes: float) -> None:
        self.watch.answered_s += minutes * 60
        await self.cycles._let_rest()


def test_a_trigger_of_a_rest_is_written_once_and_its_cooldown_survives(model_dir: Path) -> None:
    """The rows and the mark that a rest writes are those of the worker, also where nobody knows how it ended."""
    rule = Rule("left", "abandoned", has=("view",), cooldown_ms=86_400_000, control=0.1)

    async def live(kafka: Kafka) -> Worker:
        worker = Worker(model_dir, kafka, rules=[rule])
        await worker.begin()
        for user, minute in (("ann", 0), ("bob", 3), ("ann", 5)):
            await worker.click(user, minute)
        await worker.idle(31)
        await worker.click("ann", 100)
        kafka.end = 4
        await worker.idle(31)
        return worker

    for fails in ([], ["", "", "", "lost"], ["", "", "", "unseen"]):
        kafka = Kafka(3)
        kafka.fails = list(fails)
        worker = asyncio.run(live(kafka))
        found = [json.loads(record.value or b"") for record in kafka.written if record.topic == TOPICS.triggers]
        assert [one["id"] for one in found] == ["clicks-0-1-end:left", "clicks-0-0-end:left"]  # not ann again
        rows = {r.key: r.value for r in kafka.written if r.topic == TOPICS.changelog and r.key != POSITION_KEY}
        assert rows == worker.arena.rows(CLICKS_0)
        assert kafka.mark.accounts_for(*worker.arena.totals(CLICKS_0), 0)
        assert worker.meter.snapshot().count("triggers") == 2


@pytest.mark.parametrize("how", ["", "lost", "unseen"])
def test_a_partition_at_rest_writes_its_hour_once(model_dir: Path, how: str) -> None:
    """With the second rest, also where nobody knows how its transaction ended; then nothing is open any more."""
    kafka = Kafka(1)

    async def live() -> None:
        worker = Worker(model_dir, kafka, hours=True)
        await worker.begin()
        await worker.click("ann", 0)
        await worker.idle(31)
        assert (len(kafka.closed), kafka.hours) == (1, [])
        kafka.fails = [how]
        for _ in range(3):
            await worker.idle(31)
        [hour] = kafka.hours
        assert (hour["hour"], hour["clicks"], hour["closed"]) == (START_MS // HOUR_MS * HOUR_MS, 1, 1)
        assert kafka.mark.time_ms == hour["hour"] + HOUR_MS
        assert worker.arena.kept[CLICKS_0] == kafka.mark.kept
        if not how:  # else the worker only finds out later that the transaction was committed
            assert worker.last_hours.shown()["time"] == [hour["hour"]]
            assert worker.last_hours.shown()["clicks"] == [1]

    asyncio.run(live())


def test_sessions_end_after_half_an_hour_without_a_click(model_dir: Path) -> None:
    """Once, with what another click would have written; and a click that comes then begins a new session."""
    kafka, other = Kafka(2), Kafka(3)

    async def live() -> None:
        worker, clicked = Worker(model_dir, kafka), Worker(model_dir, other)
        for one in (worker, clicked):
            await one.begin()
            await one.click("ann", 0)
            await one.click("bob", 10.5)
        await worker.idle(29)
        assert kafka.closed == []
        await worker.idle(2)
        assert [(event.user_id, event.timestamp) for event in kafka.closed] == [
            ("ann", START_MS),
            ("bob", START_MS + 630_000),
        ]
        assert (kafka.next, kafka.mark.time_ms >= START_MS + 40 * 60_000) == (2, True)
        await worker.idle(60)
        await worker.idle(60)
        await clicked.click("cid", 60)
        assert kafka.closed == other.closed
        kafka.end = 3
        await worker.click("ann", 100)
        assert len(kafka.closed) == 2

    asyncio.run(live())


def test_the_alert_on_an_end_is_written_at_rest_as_with_a_click(model_dir: Path, tmp_path: Path) -> None:
    """It is the same message, it is counted, and the HTTP port has it."""
    scored = with_scored_ends(model_dir, tmp_path / "tiny" / "1", [[1, 2], [3]])
    kafka, other = Kafka(1), Kafka(2)

    async def live() -> None:
        worker, clicked = (Worker(scored, one, 0.3) for one in (kafka, other))
        for one in (worker, clicked):
            await one.begin()
            await one.click("ann", 0)
        await worker.idle(31)
        await clicked.click("bob", 60)
        for one in (worker, clicked):
            counted = one.meter.snapshot()
            assert counted.counts_by("alerts", "statistic")["end"] == counted.count("sessions_ended") == 1
            assert [alert["id"] for alert in one.alerts.latest(9)] == ["clicks-0-0-end"]

    asyncio.run(live())
    assert len(kafka.alerts) == 1
    assert kafka.alerts == other.alerts
    assert b'"event_type":"session end"' in kafka.alerts[0]


@pytest.mark.parametrize("how", ["", "lost", "unseen"])
def test_very_many_sessions_end_in_several_transactions(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """At rest as with a click, also where nobody knows how one of the transactions ended. Those of one minute end
    together, and a partition's time is in the end that of a rest in one transaction."""
    users = (("ann", 0), ("bob", 0), ("cid", 3), ("dee", 7), ("eve", 9))
    once, kafka, other = Kafka(5), Kafka(5), Kafka(6)

    async def live(kafka: Kafka) -> Worker:
        worker = Worker(model_dir, kafka, hours=True)
        await worker.begin()
        for user, minute in users:
            await worker.click(user, minute)
        return worker

    async def end() -> None:
        await (await live(once)).idle(31)
        for module in (ends, crowd, cycle):
            monkeypatch.setattr(module, "MOST", 1)
        resting, clicked = await live(kafka), await live(other)
        kafka.fails, other.fails = ["", how], ["", how]
        await resting.idle(31)
        for _ in range(4):
            await resting.idle(0)
        await clicked.click("fay", 90)

    asyncio.run(end())
    assert once.ended == [5]
    assert kafka.ended == other.ended == [2, 1, 1, 1]
    assert kafka.closed == other.closed == once.closed
    assert kafka.mark == once.mark


def test_partitions_with_many_sessions_rest_one_after_the_other(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Together they could have too many for one transaction. One that has none is no end of it."""
    monkeypatch.setattr(cycle, "MOST", 1)
    kafka, (one, none, two) = Kafka(2), (Partition("clicks", number) for number in (1, 2, 3))

    async def live() -> None:
        worker = Worker(model_dir, kafka)
        await worker.begin(none, one, two)
        for partition in (one, two):
            await worker.click("ann", 0, partition)
            await worker.click("bob", 0, partition)
        worker.cycles._arrived.clear()
        await worker.idle(31)
        for _ in range(3):
            assert worker.cycles._arrived.is_set()  # it goes on at once
            await worker.idle(0)

    asyncio.run(live())
    assert kafka.ended == [2, 2]


def test_a_click_ends_a_rest_of_several_transactions(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sessions that have not ended yet stay open, until the next rest."""
    for module in (ends, crowd, cycle):
        monkeypatch.setattr(module, "MOST", 1)
    kafka = Kafka(2)

    async def live() -> None:
        worker = Worker(model_dir, kafka)
        await worker.begin()
        await worker.click("ann", 0)
        await worker.click("bob", 20)
        await worker.idle(31)
        kafka.end = 3
        await worker.click("cid", 31)
        await worker.idle(0)
        assert kafka.ended == [1]
        await worker.idle(31)
        await worker.idle(0)
        assert kafka.ended == [1, 1, 1]

    asyncio.run(live())


def test_a_partition_whose_clicks_are_held_back_is_not_at_rest(model_dir: Path) -> None:
    """An open transaction of a producer hides its clicks for a while."""
    kafka = Kafka(5)

    async def live() -> None:
        worker = Worker(model_dir, kafka)
        await worker.begin()
        await worker.click("ann", 0)
        await worker.idle(31)
        assert kafka.closed == []
        kafka.end = 1
        await worker.idle(31)
        assert len(kafka.closed) == 1

    asyncio.run(live())


@pytest.mark.parametrize("how", ["lost", "unseen"])
def test_what_came_of_an_undecided_end_is_learned_from_the_mark(model_dir: Path, how: str) -> None:
    """The group's offset stays, so it does not say whether the transaction was committed."""
    kafka = Kafka(1)

    async def live() -> None:
        worker = Worker(model_dir, kafka)
        await worker.begin()
        await worker.click("ann", 0)
        kafka.fails = [how]
        await worker.idle(31)
        assert len(kafka.closed) == 1
        await worker.click("ann", 45)
        assert len(kafka.closed) == 1

    asyncio.run(live())
