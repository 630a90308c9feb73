"""The parts of `make chaos` that need no Kafka: the checker finds every kind of error, a seed repeats a schedule."""

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import xxhash

from bench.chaos.check import Checker, Topics, rules
from bench.chaos.faults import FEWEST, FIRST, KINDS, MOST, Done, schedule
from bench.chaos.traffic import TRIGGERS, Sent, messages
from bench.chaos.watch import longest_pauses
from tests.oracle import DAY_MS, POSITION, Oracle
from tests.oracle_hours import Hours
from tests.oracle_triggers import Triggers

COUNT, PARTITIONS, K = 300, 2, 5


class Fake(NamedTuple):
    """A Kafka message."""

    at: int
    place: int
    k: bytes | None
    v: bytes | None

    def partition(self) -> int:
        return self.at

    def offset(self) -> int:
        return self.place

    def key(self) -> bytes | None:
        return self.k

    def value(self) -> bytes | None:
        return self.v


class Case(NamedTuple):
    """What was sent, and what a faultless group of workers leaves."""

    sent: list[Sent]
    offsets: list[tuple[int, int] | None]
    topics: dict[str, Any]


TOPICS = ("clicks", "decisions", "alerts", "system_alerts", "sessions", "triggers", "hours", "letters", "changelog")


@pytest.fixture
def case(model_dir: Path) -> Case:
    """A user's messages are all in one partition, and the changelog's rows are the plain loop's."""
    oracle = Oracle(model_dir, k=K)
    oracle.triggers = {at: Triggers(f"clicks-{at}-", rules(TRIGGERS), 90 * DAY_MS) for at in range(PARTITIONS)}
    types = oracle.manifest["event_types"]
    oracle.hours = {at: Hours(f"clicks-{at}", types, oracle.label, 90 * DAY_MS) for at in range(PARTITIONS)}
    sent = list(itertools.islice(messages(7), COUNT))
    offsets: list[tuple[int, int] | None] = []
    ends = [0] * PARTITIONS
    read: dict[str, list[Fake]] = {name: [] for name in TOPICS}
    for one in sent:
        partition = sum(one.key or b"") % PARTITIONS
        offset = ends[partition]
        ends[partition] += 1
        offsets.append((partition, offset))
        read["clicks"].append(Fake(partition, offset, one.key, one.value))
        id_ = f"clicks-{partition}-{offset}"
        if one.reason is not None:
            read["letters"].append(Fake(0, offset, one.key, json.dumps({"id": id_, "reason": one.reason}).encode()))
            continue
        due = oracle.decide("clicks", partition, offset, one.key, one.value)
        assert due is not None
        click = {"event_type": "view", "consent": None, "price": None} | json.loads(one.value or b"")
        item = click["item_id"] if click["item_id"] in oracle.items else "unknown"
        told = None, click["consent"], click["price"]
        oracle.triggers[partition].click(click["user_id"], offset, click["timestamp"], click["event_type"], item, *told)
        oracle.hours[partition].click(click["user_id"], click["timestamp"], click["event_type"])
        read["decisions"].append(Fake(partition, offset, one.key, json.dumps(due.decision).encode()))
        if due.alert is not None:
            read["alerts"].append(Fake(partition, offset, one.key, json.dumps(due.alert).encode()))
        read["system_alerts"] += [Fake(partition, offset, b"", json.dumps(event).encode()) for event in due.system]
    read["sessions"] = [Fake(0, 0, b"", json.dumps(event).encode()) for event in oracle.session_events()]
    lists = {one["id"]: one["items"] for one in (json.loads(message.v or b"") for message in read["decisions"])}
    for event in [event for loop in oracle.triggers.values() for event in loop.events]:
        made = {"items": lists[oracle.decision_id(event["id"].partition(":")[0])]} if event["kind"] == "after" else {}
        read["triggers"].append(Fake(0, 0, b"", json.dumps(event | made).encode()))
    hours = [event for loop in oracle.hours.values() for event in loop.messages()]
    read["hours"] = [Fake(0, 0, event["id"].encode(), json.dumps(event).encode()) for event in hours]
    sums: list[list[int]] = [[] for _ in range(PARTITIONS)]
    for partition, key, row, _ in oracle.rows(99):
        read["changelog"].append(Fake(partition, 0, key, row))
        sums[partition].append(int.from_bytes(row[:8], "little"))
    for partition, checksums in enumerate(sums):
        read["changelog"].append(Fake(partition, 0, POSITION, oracle.mark(partition, ends[partition], checksums)))
    at_end = dict(enumerate(ends))
    return Case(sent, offsets, read | {"committed": at_end, "ends": dict(at_end)})


def errors(model: Path, case: Case) -> list[str]:
    """The errors that the checker finds."""
    checker = Checker(model, "clicks", K, TRIGGERS)
    topics = Topics(**case.topics)
    found = checker.expect(case.sent, case.offsets, topics.clicks)
    found.add(checker.check(topics))
    return found.errors


def resealed(row: Fake) -> Fake:
    """A row whose last number is another one, with a right checksum."""
    assert row.v is not None
    data = row.v[8:-1] + bytes([row.v[-1] ^ 1])
    checksum = xxhash.xxh3_64_intdigest(data, xxhash.xxh3_64_intdigest(row.k or b""))
    return row._replace(v=checksum.to_bytes(8, "little") + data)


def altered(name: str, at: int, **fields: object) -> Callable[[Case], None]:
    def alter(case: Case) -> None:
        event = json.loads(case.topics[name][at].v) | fields
        case.topics[name][at] = case.topics[name][at]._replace(v=json.dumps(event).encode())

    return alter


def swapped(case: Case) -> None:
    """The first user with two decisions has them in the wrong order."""
    decisions, first = case.topics["decisions"], {}
    for n, one in enumerate(decisions):
        if one.k in first:
            decisions[n], decisions[first[one.k]] = decisions[first[one.k]], one
            return
        first[one.k] = n


ERRORS: dict[str, Callable[[Case], object]] = {
    "clicks lost: 1": lambda case: case.topics["decisions"].pop(),
    "clicks twice: 1": lambda case: case.topics["decisions"].append(case.topics["decisions"][-1]),
    "clicks of nothing: 1": altered("decisions", 3, id="clicks-0-100000"),
    "clicks different: 1": altered("decisions", 3, surprise=1.25),
    "alerts lost: 1": lambda case: case.topics["alerts"].pop(),
    "alerts different: 1": altered("alerts", 0, score=99.0),
    "system alerts of nothing: 1": lambda case: case.topics["system_alerts"].append(case.topics["decisions"][0]),
    "sessions lost: 1": lambda case: case.topics["sessions"].pop(),
    "sessions twice: 1": lambda case: case.topics["sessions"].append(case.topics["sessions"][0]),
    "sessions different: 1": altered("sessions", 0, clicks=99),
    "triggers lost: 1": lambda case: case.topics["triggers"].pop(),
    "triggers twice: 1": lambda case: case.topics["triggers"].append(case.topics["triggers"][0]),
    "triggers of nothing: 1": altered("triggers", 0, id="clicks-0-100000:cart"),
    "triggers different: 1": altered("triggers", 0, group="neither"),
    "hours lost: 1": lambda case: case.topics["hours"].pop(),
    "hours twice: 1": lambda case: case.topics["hours"].append(case.topics["hours"][0]),
    "hours of nothing: 1": altered("hours", 0, id="clicks-0/0"),
    "hours different: 1": altered("hours", 0, users=99),
    "dead letters lost: 1": lambda case: case.topics["letters"].pop(),
    "dead letters twice: 1": lambda case: case.topics["letters"].append(case.topics["letters"][0]),
    "dead letters different: 1": altered("letters", 0, reason="other"),
    "users whose decisions are out of order: 1": swapped,
    "partitions whose committed offset is not their end: 1": lambda case: case.topics["committed"].update({0: 1}),
    "rows that differ from the plain loop: 1": lambda case: case.topics["changelog"].pop(0),
    "rows that differ from the plain loop: 2": lambda case: (
        case.topics["changelog"].append(
            case.topics["changelog"][0]._replace(at=1 - case.topics["changelog"][0].at, k=b"nobody")
        )
        or case.topics["changelog"].append(resealed(case.topics["changelog"][0]))
    ),
    "wrong marks: 1": lambda case: case.topics["changelog"].pop(),
    "wrong marks: 2": lambda case: case.topics["changelog"].extend(
        one._replace(v=one.v[:-8])
        for one in case.topics["changelog"][-PARTITIONS:]  # the last count of an open hour
    ),
    "messages that Kafka lost: 1": lambda case: case.topics["clicks"].pop(),
    "messages that nobody sent, or sent once: 1": lambda case: case.topics["clicks"].append(Fake(0, 999, b"a", b"{}")),
}


@pytest.mark.parametrize("line", ERRORS)
def test_the_checker_names_and_counts_each_kind_of_error(model_dir: Path, case: Case, line: str) -> None:
    """One thing is changed in what faultless workers leave."""
    ERRORS[line](case)
    assert any(found.startswith(line) for found in errors(model_dir, case)), errors(model_dir, case)


def test_the_checker_finds_nothing_in_what_faultless_workers_leave(model_dir: Path, case: Case) -> None:
    """The case has clicks, bad messages and alerts, and an offset that an idempotent producer did not learn."""
    case.offsets[5] = (0, -1)
    assert case.topics["alerts"]
    assert {json.loads(one.v)["rule"] for one in case.topics["triggers"]} == {"cart", "back", "more", "hot", "cheaper"}
    assert len({json.loads(one.v)["hour"] for one in case.topics["hours"]}) > 24
    assert errors(model_dir, case) == []


def test_the_checker_shares_no_code_with_the_worker() -> None:
    """It imports no module of stream."""
    code = "import sys, bench.chaos.check; print([name for name in sys.modules if name.split('.')[0] == 'stream'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("brokers", [1, 3])
def test_a_seed_gives_the_same_faults_and_every_kind(brokers: int) -> None:
    """The number of workers stays within its limits."""
    faults = schedule(5, 200, brokers, 4.0, 0.3)
    assert faults == schedule(5, 200, brokers, 4.0, 0.3)
    assert {fault.kind for fault in faults} >= set(KINDS)
    assert ("leader kill" in {fault.kind for fault in faults}) == (brokers == 3)
    steps = [(fault.kind == "join") - (fault.kind == "leave") for fault in faults]
    assert all(FEWEST <= workers <= MOST for workers in itertools.accumulate(steps, initial=FIRST))


def test_a_pause_belongs_to_the_first_fault_that_began_in_it() -> None:
    """A later pause belongs to the fault before it; one before all faults belongs to none."""
    faults = [Done("kill", 10.0), Done("stop", 12.0), Done("freeze", 20.0)]
    assert longest_pauses([[0.0, 9.0, 15.0, 19.0, 19.5, 30.0], [11.0, 13.0]], faults) == [6.0, 4.0, 10.5]
