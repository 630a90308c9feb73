"""Checks what workers left on the topics against what was sent, from bytes alone.

It imports nothing of the worker. What it shares with it are formats: the JSON of docs/events.md, the mark and the rows
of docs/delivery.md, and the model directory, which the plain loop of tests/oracle.py reads for itself: one click at a
time, one call of each graph, rows as dictionaries. The loop repeats its one row until it has a batch of the model's
`batch_multiple`; the kernels then give each row the same bits in every batch, so rows are compared bit by bit.
"""

import itertools
import json
import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from bench.chaos.traffic import Sent
from tests.oracle import DAY_MS, POSITION, Event, Oracle, event_name, read
from tests.oracle_hours import Hours
from tests.oracle_triggers import Rule, Triggers

LISTS_EVERY = 50
"""The loop makes the list of one click in so many: it costs more than all the rest."""

SHOWN = 5
FORGET_MS = 90 * DAY_MS
UNKNOWN = "unknown"


class Message(Protocol):
    """A Kafka message, as confluent_kafka gives it."""

    def partition(self) -> int: ...

    def offset(self) -> int: ...

    def key(self) -> bytes | None: ...

    def value(self) -> bytes | None: ...


class Topics(NamedTuple):
    """All messages of the topics (read_committed, in offset order within a partition), and the group's offsets.

    committed  partition of the clicks -> committed offset
    ends       partition of the clicks -> offset after the last message
    """

    clicks: Sequence[Message]
    decisions: Sequence[Message]
    alerts: Sequence[Message]
    system_alerts: Sequence[Message]
    sessions: Sequence[Message]
    triggers: Sequence[Message]
    hours: Sequence[Message]
    letters: Sequence[Message]
    changelog: Sequence[Message]
    committed: Mapping[int, int]
    ends: Mapping[int, int]


@dataclass
class Found:
    """What a check found: counts, and one line for each kind of error."""

    counts: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)

    def add(self, other: "Found") -> None:
        """Take over what another check found."""
        self.counts.update(other.counts)
        self.errors += other.errors

    def wrong(self, name: str, which: Iterable[object]) -> None:
        """Count errors of a kind, also if there are none."""
        shown = list(which)
        self.counts[name] += len(shown)
        if shown:
            self.errors.append(f"{name}: {len(shown)}, such as {', '.join(map(str, shown[:SHOWN]))}")


class Checker:
    """The expected results of the messages that were sent, and comparisons with them.

    model, topic  the model directory and the name of the clicks topic
    k             the workers' --k
    triggers      the text of the workers' --triggers
    """

    def __init__(self, model: Path, topic: str, k: int, triggers: str) -> None:
        self._oracle = Oracle(model, k=k, lists_every=LISTS_EVERY)
        self._topic, self._rules = topic, rules(triggers)
        self._items = frozenset(self._oracle.items)
        self._next: Counter[int] = Counter()
        self._decisions: dict[str, Event] = {}
        self._alerts: dict[str, Event] = {}
        self._system: dict[str, Event] = {}
        self._letters: dict[str, str] = {}

    # -- what is expected ---------------------------------------------------------------------------------------------

    def expect(
        self, sent: Sequence[Sent], offsets: Sequence[tuple[int, int] | None], clicks: Sequence[Message]
    ) -> Found:
        """Compare the clicks topic with what was sent, and decide on the clicks that were not there at the last call.

        offsets  where Kafka acknowledged each sent message; None: not acknowledged. Offset -1: not known
        """
        found = Found()
        where = {at: one for one, at in zip(sent, offsets, strict=True) if at is not None and at[1] >= 0}
        unknown = {(one.key, one.value): one for one, at in zip(sent, offsets, strict=True) if at is None or at[1] < 0}
        lost = dict(where)
        not_sent: list[str] = []
        for message in sorted(clicks, key=lambda m: (m.partition(), m.offset())):
            at, content = (message.partition(), message.offset()), (message.key(), message.value())
            one = lost.pop(at, None) or unknown.pop(content, None)
            if one is None or (one.key, one.value) != content:
                not_sent.append("{}-{}".format(*at))
            elif at[1] >= self._next[at[0]]:
                self._next[at[0]] = at[1] + 1
                self._decide(*at, one)
        found.wrong("messages that Kafka lost", ["{}-{}".format(*at) for at in lost] + list(map(str, unknown)))
        found.wrong("messages that nobody sent, or sent once", not_sent)
        found.counts["clicks"], found.counts["bad messages"] = len(self._decisions), len(self._letters)
        found.counts["users"] = len(self._oracle.users)
        return found

    def _decide(self, partition: int, offset: int, one: Sent) -> None:
        id_ = f"{self._topic}-{partition}-{offset}"
        if one.reason is not None:
            self._letters[id_] = one.reason
            return
        expected = self._oracle.decide(self._topic, partition, offset, one.key, one.value)
        assert expected is not None, "the generator made a message that its own rules refuse"
        self._decisions[expected.decision["id"]] = expected.decision
        if expected.alert is not None:
            self._alerts[id_] = expected.alert
        self._system.update((event_name(event), event) for event in expected.system)
        click = read(one.key, one.value)
        assert click is not None
        if partition not in self._oracle.triggers:
            name, types = f"{self._topic}-{partition}", self._oracle.manifest["event_types"]
            self._oracle.triggers[partition] = Triggers(f"{name}-", self._rules, FORGET_MS)
            self._oracle.hours[partition] = Hours(name, types, self._oracle.label, FORGET_MS)
        known = click["item_id"] if click["item_id"] in self._items else UNKNOWN
        told = None, click.get("consent"), click.get("price")
        user, time_ms, event_type = click["user_id"], click["timestamp"], click["event_type"]
        self._oracle.triggers[partition].click(user, offset, time_ms, event_type, known, *told)
        self._oracle.hours[partition].click(user, time_ms, event_type)

    # -- comparisons --------------------------------------------------------------------------------------------------

    def check(self, topics: Topics) -> Found:
        """Compare all topics of a group of workers with what is expected."""
        found = Found()
        found.counts["decisions"] = len(topics.decisions)
        found.counts["session events"], found.counts["triggers"] = len(topics.sessions), len(topics.triggers)
        found.counts["hours"] = len(topics.hours)
        self._events(found, "clicks", topics.decisions, self._decisions, _same)
        self._events(found, "alerts", topics.alerts, self._alerts, _same)
        self._events(found, "system alerts", topics.system_alerts, self._system, _same)
        sessions = {event_name(event): event for event in self._oracle.session_events()}
        self._events(found, "sessions", topics.sessions, sessions, _same)
        self._events(found, "triggers", topics.triggers, self._triggers(), _same_trigger)
        hours = {event_name(event): event for loop in self._oracle.hours.values() for event in loop.messages()}
        self._events(found, "hours", topics.hours, hours, _same)
        self._events(found, "dead letters", topics.letters, self._letters, lambda event, due: event["reason"] == due)
        found.wrong("users whose decisions are out of order", self._out_of_order(topics.decisions))
        behind = {p: (topics.committed.get(p), end) for p, end in topics.ends.items() if topics.committed.get(p) != end}
        found.wrong("partitions whose committed offset is not their end", behind.items())
        rows, marks = latest(topics.changelog)
        found.counts["rows"] = len(rows)
        found.wrong("rows that differ from the plain loop", self._wrong_rows(rows))
        found.wrong("wrong marks", self._wrong_marks(rows, marks, topics.ends))
        return found

    def compare(self, topics: Topics, decisions: Sequence[Message], changelog: Sequence[Message]) -> Found:
        """Compare the decisions and rows of a disturbed group with those of an undisturbed worker, bit by bit.

        A worker deletes the rows of forgotten users bit by bit, so one of the two may still have such a row.
        """
        found, rows, others = Found(), latest(topics.changelog)[0], latest(changelog)[0]
        one = Counter(message.value() for message in topics.decisions)
        one.subtract(Counter(message.value() for message in decisions))
        found.wrong("decisions that differ from the undisturbed worker's", [value for value, n in one.items() if n])
        forgotten = {(at, key) for at, key, _, gone in self._oracle.rows(0) if gone}
        found.counts["rows of the undisturbed worker"] = len(others)
        different = [at for at in rows.keys() | others.keys() if rows.get(at) != others.get(at)]
        found.wrong(
            "rows that differ from the undisturbed worker",
            [at for at in different if at not in forgotten or (at in rows and at in others)],
        )
        return found

    def _triggers(self) -> dict[str, Event]:
        """The triggers so far. Those after a click have the list of its decision, where the loop has made it."""
        events = [dict(event) for _, loop in sorted(self._oracle.triggers.items()) for event in loop.events]
        for event in events:
            about = self._decisions.get(self._oracle.decision_id(event["id"].partition(":")[0]), {})
            event.update({"items": about["items"]} if "items" in about else {})
        return {event_name(event): event for event in events}

    def _events(
        self,
        found: Found,
        name: str,
        messages: Sequence[Message],
        expected: Mapping[str, object],
        same: Callable[[Event, object], bool],
    ) -> None:
        events: Counter[str] = Counter()
        differ: list[str] = []
        for message in messages:
            event = json.loads(message.value() or b"{}")
            name_of = event_name(event)
            events[name_of] += 1
            if name_of in expected and not same(event, expected[name_of]):
                differ.append(name_of)
        found.wrong(f"{name} lost", sorted(expected.keys() - events.keys()))
        found.wrong(f"{name} twice", [id_ for id_, count in events.items() if count > 1])
        found.wrong(f"{name} of nothing", sorted(events.keys() - expected.keys()))
        found.wrong(f"{name} different", differ)

    def _out_of_order(self, decisions: Sequence[Message]) -> list[str]:
        """Users whose decisions are in more than one partition, or not in the order of their clicks."""
        seen: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
        for message in decisions:
            event = json.loads(message.value() or b"{}")
            _, partition, offset = event["id"].partition("@")[0].rsplit("-", 2)
            seen[event["user_id"]].append((message.partition(), int(partition), int(offset)))
        return [
            user
            for user, ats in seen.items()
            if len({at[:2] for at in ats}) > 1 or any(a[2] > b[2] for a, b in itertools.pairwise(ats))
        ]

    def _wrong_rows(self, rows: Mapping[tuple[int, bytes], bytes]) -> Iterator[str]:
        written = dict(rows)
        mark = int.from_bytes(next(iter(rows.values()), bytes(16))[8:16], "little")
        for partition, key, row, may_be_gone in self._oracle.rows(mark):
            found = written.pop((partition, key), row if may_be_gone else None)
            if found != row:
                offsets = [found and int.from_bytes(found[16:24], "little"), int.from_bytes(row[16:24], "little")]
                yield "{} in partition {}: at offset {}, should be at {}".format(key.decode(), partition, *offsets)
        yield from (f"{key!r} in partition {partition} never clicked" for partition, key in written)

    def _wrong_marks(
        self, rows: Mapping[tuple[int, bytes], bytes], marks: Mapping[int, bytes], ends: Mapping[int, int]
    ) -> Iterator[str]:
        """Marks that do not say: the offset after the last click, the number of rows, the sum of their checksums, and
        what is kept of the partition."""
        for partition, end in ends.items():
            sums = [int.from_bytes(row[:8], "little") for (number, _), row in rows.items() if number == partition]
            expected = self._oracle.mark(partition, end, sums) if end else None
            if marks.get(partition) != expected:
                yield f"partition {partition}: {marks.get(partition)!r}, should be {expected!r}"


def latest(changelog: Sequence[Message]) -> tuple[dict[tuple[int, bytes], bytes], dict[int, bytes]]:
    """The rows of a changelog, (partition, user) -> bytes, and the marks, partition -> bytes."""
    rows: dict[tuple[int, bytes], bytes] = {}
    marks: dict[int, bytes] = {}
    for message in changelog:
        key, value = message.key() or b"", message.value()
        if key == POSITION:
            marks[message.partition()] = value or b""
        elif value is None:
            rows.pop((message.partition(), key), None)
        else:
            rows[message.partition(), key] = value
    return rows, marks


def surplus(changelog: Sequence[Message]) -> int:
    """How many records of a changelog are older versions of others: what compaction has not deleted yet."""
    return len(changelog) - len({(message.partition(), message.key()) for message in changelog})


def _same(event: Event, due: object) -> bool:
    """True if an event has the expected values in every field that the loop has made."""
    assert isinstance(due, dict)
    return {name: event.get(name) for name in due} == due


def _same_trigger(event: Event, due: object) -> bool:
    """As `_same`; the loop has made the begin of the reason only, and does not know the names of all items."""
    assert isinstance(due, dict)
    reason = str(event.get("reason"))
    return _same(event, due | {"reason": reason}) and reason.startswith(due["reason"].removesuffix(UNKNOWN))


def rules(text: str) -> list[Rule]:
    """The rules of a file of --triggers as the plain loop takes them, with times in ms."""
    units = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
    default: Rule = {"consent": False, "control": 0.0, "without": [], "events": [], "over": "1d", "most": 10_000}
    found = [default | one for one in tomllib.loads(text)["trigger"]]
    for one in found:
        one |= {key: int(one[key][:-1]) * units[one[key][-1]] for key in ("after", "cooldown", "over") if key in one}
    return found
