"""The expected decisions on the clicks of a partition, from a plain loop that shares no code with the worker.

One click at a time: JSON by Python's own module, the user's row as a dictionary, one call of each graph, the
p-value by counting, the events as dictionaries. Only the formats are shared: the model directory, a state row's bytes
and the JSON of the events. No rules for the lists and no exploration.
"""

import json
import math
import struct
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
import xxhash

from tests.oracle_ahead import Ahead, Counts
from tests.oracle_alerts import NAMES, Alerts, Behaviour, Found
from tests.oracle_hours import Hours
from tests.oracle_population import Partition, Seen, form_of
from tests.oracle_rates import Rates
from tests.oracle_sessions import Session, Sessions
from tests.oracle_triggers import Triggers

RECENT = 16
DAY_MS = 86_400_000
POSITION = b"\xffposition"

Event = dict[str, Any]


class Expected(NamedTuple):
    """The expected events of one click: its decision, the alert if it is an anomaly, and those on the partition."""

    decision: Event
    alert: Event | None
    system: list[Event]


def event_name(event: Event) -> str:
    """What tells an event apart from the others on its topic: two alerts on a partition can be of one click, and a
    session begins and ends, maybe several times."""
    if "started" in event:
        return f"{event['id']} {event['phase']} {event.get('revision', 0)}"
    return f"{event['id']} {event['sign']}" if "sign" in event else str(event["id"])


@dataclass
class User:
    """A user's row."""

    state: dict[str, Any]
    clicks: int = 0
    last_ms: int = 0
    offset: int = -1
    recent: list[int] = field(default_factory=list)
    event_ids: list[str] = field(default_factory=list)
    past: list[list[int]] = field(default_factory=list)
    kept: Behaviour = field(default_factory=Behaviour)
    seen: Seen = field(default_factory=Seen)
    counts: Counts = field(default_factory=lambda: Counts([]))


class Moved(NamedTuple):
    """A row on its way from an anonymous id to a user."""

    user: User
    session: Session


def foreign(partition: int, offset: int) -> int:
    """What a row has for an offset of the partition where it was."""
    return offset if offset >= 2**48 else (partition + 1) * 2**48 + offset


class Oracle:
    """Decides on clicks in the order of their partition.

    k, exclude_recent, alpha, forget_after_days  as the worker's settings
    lists_every  make the list for one click in this many (by its offset); everything else is made for every click
    """

    def __init__(
        self,
        model: Path,
        k: int = 20,
        exclude_recent: int = 1,
        alpha: float = 0.0001,
        forget_after_days: float = 90,
        lists_every: int = 1,
    ) -> None:
        self.manifest = json.loads((model / "manifest.json").read_text())
        self.items = json.loads((model / "items.json").read_text())
        self.label = f"{self.manifest['name']}/{self.manifest['version']}"
        self._number = {item: i for i, item in enumerate(self.items)}
        self._forms = {form_of(item) for item in self.items}
        self._alerts = Alerts(model, self.manifest, alpha)
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._step, self._surprise, self._score = (
            ort.InferenceSession(str(model / name), options, providers=["CPUExecutionProvider"])
            for name in ("step.onnx", "surprise.onnx", "score.onnx")
        )
        self._surprise_inputs = [value.name for value in self._surprise.get_inputs()]
        self._score_inputs = [value.name for value in self._score.get_inputs() if value.name != "k"]
        self._ahead = Ahead(model, self.manifest) if "ahead" in self.manifest else None
        self._k, self._exclude, self._alpha = k, exclude_recent, alpha
        self._forget_ms = forget_after_days * DAY_MS
        self._lists_every = lists_every
        self.users: dict[tuple[int, str], User] = {}
        self._time_ms: dict[int, int] = {}
        self.partitions: defaultdict[int, Partition] = defaultdict(Partition)
        self.rates: defaultdict[int, Rates] = defaultdict(lambda: Rates(self._alerts.held_out))
        self.sessions: dict[int, Sessions] = {}
        self.triggers: dict[int, Triggers] = {}  # for the rows, if the worker has rules; whoever asks must keep them
        self.hours: dict[int, Hours] = {}  # for the marks, if the worker counts them; as the triggers

    def decide(
        self, topic: str, partition: int, offset: int, key: bytes | None, value: bytes | None
    ) -> Expected | None:
        """Return the expected events of a message; None if it is no click, or one with an event id that was there."""
        click = read(key, value)
        if click is None:
            return None
        now_ms = self._time_ms[partition] = max(click["timestamp"], self._time_ms.get(partition, 0))
        sessions = self._sessions(topic, partition)
        sessions.time(now_ms)
        user = self.users.get((partition, click["user_id"]))
        if user is None or self.forgotten(user, now_ms):
            user = self.users[partition, click["user_id"]] = User(self._zeros())
            if self._ahead is not None:
                user.counts = self._ahead.new()
        if click.get("event_id") in user.event_ids:
            user.last_ms = max(user.last_ms, click["timestamp"])
            user.offset = offset
            return None
        if "event_id" in click:
            user.event_ids = [click["event_id"], *user.event_ids][:RECENT]

        item = self._number.get(click["item_id"], len(self.items))
        types = self.manifest["event_types"]
        event_type = types.index(click["event_type"]) if click["event_type"] in types else len(types)
        before, history = user.state, user.clicks
        gap_ms = click["timestamp"] - user.last_ms
        bucket = 0 if not history else 1 + sum(max(0, gap_ms) >= edge for edge in self.manifest["gap_edges_ms"])
        gap_ms = -1 if not history else -2 if gap_ms < 0 else gap_ms  # -2: late, so the time between is not known
        columns = {"item": item, "event_type": event_type, "gap": bucket}
        surprise, event_surprise = self._run(
            self._surprise, {name: (columns | before)[name] for name in self._surprise_inputs}
        )
        after = self._after(columns, before)
        user.state = {tensor["name"]: value for tensor, value in zip(self.manifest["state"], after, strict=True)}
        user.clicks += 1
        user.last_ms = max(user.last_ms, click["timestamp"])
        user.offset = offset
        user.recent = [item, *user.recent][:RECENT]
        newest = remembered(click["item_id"], click["event_type"], gap_ms, click.get("price"))
        user.past = [newest, *user.past][:RECENT]

        starts = history == 0 or gap_ms >= 1_800_000
        sessions.click(click["user_id"], starts, event_type, click, now_ms, offset)
        of_session = sessions.of[click["user_id"]]
        ahead = {}
        if self._ahead is not None:
            at_ms, first = click["timestamp"], history == 0
            ahead = self._ahead.click(user.counts, of_session, user.recent, event_type, gap_ms, at_ms, starts, first)
            of_session.told = self._ahead.ended(user.counts)
        rates = self.rates[partition]

        def correct(starts: bool, nats: float) -> float:
            found, user.kept.passed = rates.click(user.kept.passed, starts, nats, click["timestamp"], offset)
            return found

        found = self._alerts.judge(
            user.kept, surprise, event_surprise, click["event_type"], item, gap_ms, history, click, offset, correct
        )
        if self._alerts.scores_ends:
            sessions.item(click["user_id"], item, float(surprise))
            self._alerts.end(user.kept, sessions.of[click["user_id"]], click, self.items, rates.corrected)
        opens = of_session.made[-1].opens = found.episode == offset
        led = f"alerts: {next(iter(found.statistics))}" if found.episode is not None and found.statistics else None
        signs = self._signs(user.recent, click, gap_ms) | ({"twins"} if user.kept.twin else set())
        known = click["item_id"] if item < len(self.items) else None
        many = self.partitions[partition].click(
            user.seen, history == 0, signs, led, opens, click["timestamp"], offset, known
        )
        common = {
            "id": f"{topic}-{partition}-{offset}",
            "user_id": click["user_id"],
            "item_id": click["item_id"],
            "timestamp": click["timestamp"],
            "surprise": _rounded(surprise),
            "p_value": found.p_value,
            "model": self.label,
        }
        named = {"id": self.decision_id(common["id"])}
        decision = common | named | ahead | (self._list(user) if offset % self._lists_every == 0 else {})
        events = [*many.events, *rates.events]
        system = [self._system(topic, partition, offset, click, event) for event in events]
        if found.episode is None:
            return Expected(decision, None, system)
        common["episode"] = sessions._id(found.episode)
        if many.part_of is not None:
            common["part_of"] = f"{topic}-{partition}-{many.part_of}"
        return Expected(decision, self._alert(common, click["event_type"], found, before), system)

    def decision_id(self, click: str) -> str:
        """The id of the decision on a click with this id."""
        return f"{click}@{self.label}"

    def _sessions(self, topic: str, partition: int) -> Sessions:
        bought = self.manifest.get("ahead", {}).get("intent") or "purchase"
        types, scored = self.manifest["event_types"], self._alerts.scores_ends
        return self.sessions.setdefault(partition, Sessions(f"{topic}-{partition}-", types, self.label, scored, bought))

    def _signs(self, recent: list[int], click: Event, gap_ms: int) -> set[str]:
        """The signs of a click but for alerts and twins. recent: the last items, newest first, the click's included."""
        signs = set() if click["event_type"] in self.manifest["event_types"] else {"unknown event types"}
        if recent[0] == len(self.items) and form_of(click["item_id"]) not in self._forms:
            signs.add("new form of ids")
        elif len(recent) > 1 and gap_ms != -1 and gap_ms < 1_800_000 and recent[0] == recent[1] == len(self.items):
            signs.add("unknown items")
        return signs

    def _system(self, topic: str, partition: int, offset: int, click: Event, event: Event) -> Event:
        """The event of an alert on a partition."""
        opened = event.pop("opened")
        if event["phase"] == "opened" and event["sign"] != "drift":
            event["reason"] += f"{click['event_type']} of {click['item_id']}"
            event |= {"item_id": click["item_id"], "event_type": click["event_type"]}
        return event | {
            "id": f"{topic}-{partition}-{offset}",
            "episode": f"{topic}-{partition}-{opened}",
            "partition": partition,
            "model": self.label,
        }

    def quiet(self, partition: int, name: str, until_ms: int, statistics: list[str]) -> None:
        """Apply a request to keep alerts on a user back."""
        user = self.users.get((partition, name))
        if user is not None and user.clicks:
            user.kept.quiet_until_s, user.kept.quiet = until_ms // 1000, statistics

    def rest(self) -> None:
        """No click comes for half an hour: all sessions end, and each partition's time is that of the last end."""
        for partition, sessions in self.sessions.items():
            if sessions.is_open:
                self._time_ms[partition] = (self._time_ms[partition] // 60_000 + 31) * 60_000
                sessions.time(self._time_ms[partition])

    def session_events(self) -> list[Event]:
        """The begins and ends of the sessions of all partitions so far; those of a partition are in order."""
        return [event for _, sessions in sorted(self.sessions.items()) for event in sessions.events]

    def end_alerts(self) -> list[Event]:
        """The alerts on ends of sessions of all partitions so far; those of a partition are in order."""
        return [event for _, sessions in sorted(self.sessions.items()) for event in sessions.alerts]

    def forget(self, partition: int, name: str) -> None:
        """Apply a request to forget a user. A session of the user has no end."""
        self.users.pop((partition, name), None)
        if partition in self.sessions:
            self.sessions[partition].of.pop(name, None)

    def leave(self, partition: int, name: str) -> "Moved | None":
        """Take the row of an anonymous id out of its partition; None if there is none, or if it is forgotten."""
        user = self.users.get((partition, name))
        known = user is not None and not self.forgotten(user, self._time_ms.get(partition, 0))
        session = self.sessions[partition].of.get(name) if partition in self.sessions else None
        self.forget(partition, name)
        if user is None or session is None or not known:
            return None
        session.offset = foreign(partition, session.offset)
        session.episode = 1 + foreign(partition, session.episode - 1) if session.episode > 0 else session.episode
        user.kept.episode = foreign(partition, user.kept.episode) if user.kept.unusual_ms else 0
        user.seen = Seen()
        return Moved(user, session)

    def arrive(self, topic: str, partition: int, offset: int, name: str, moved: "Moved") -> None:
        """Give the row to a user who has none."""
        now_ms = self._time_ms.get(partition, 0)
        has = self.users.get((partition, name))
        if has is not None and not self.forgotten(has, now_ms):
            return
        self.users[partition, name], (user, session) = moved.user, moved
        user.offset = offset - 1
        session.seen_ms = 0 if session.ended else max(now_ms, user.last_ms)
        self._sessions(topic, partition).of[name] = session

    def forgotten(self, user: User, now_ms: int) -> bool:
        """A user without a click for so long starts with a new row; one with a single click after a third of it."""
        limit_ms = self._forget_ms if user.clicks > 1 else self._forget_ms // 3
        return bool(self._forget_ms) and now_ms - user.last_ms > limit_ms

    def layout(self) -> np.dtype[np.void]:
        """The fields of a row, without the bytes that fill it up."""
        fields: list[Any] = [
            ("checksum", "<u8"),
            ("model", "<u8"),
            ("offset", "<i8"),
            ("last_ms", "<i8"),
            ("seen_ms", "<i8"),
            ("clicks", "<u4"),
        ]
        fields += [("recent", "<i4", RECENT), ("held", "<i4", RECENT)]
        for tensor in self.manifest["state"]:
            fields.append((tensor["name"], np.dtype(tensor["dtype"]).newbyteorder("<"), tuple(tensor["shape"])))
        fields += [
            ("item_nats", "<i2", 10),
            ("event_nats", "<i2", 10),
            ("gap_ms", "<i4", 10),
            ("session", "<i4"),
            ("category_run", "<i4"),
            ("twins", "<i4"),
            ("gaps", "<i4"),
            ("gap_logs", "<i8"),
            ("gap_squares", "<i8"),
            ("excess_nats", "<i8"),
        ]
        fields += [("episode_offset", "<i8"), ("unusual_ms", "<i8"), ("alerted_nats", "<f4")]
        fields += [("levels_passed", "<i4")]
        fields += [("population_window_ms", "<i8"), ("population_signs", "<i4")]
        fields += [("quiet_until_s", "<u4"), ("quiet_statistics", "<i4")]
        fields += [("session_offset", "<i8"), ("session_start_ms", "<i8"), ("session_last_ms", "<i8")]
        fields += [("session_revision", "<i4"), ("session_types", "<i4", len(self.manifest["event_types"]) + 1)]
        fields += [("session_path_types", "<u2", 12), ("session_path_clicks", "<u2", 12), ("session_runs", "<i4")]
        fields += [("session_reached_ms", "<i4", len(self.manifest["event_types"]) + 1), ("session_items", "<i4")]
        fields += [("session_item_bits", "<u8", 2), ("session_categories", "<u8")]
        fields += [("session_value", "<f8"), ("session_alerts", "<i4")]
        if self._alerts.scores_ends:
            fields += [("session_vector", "<u8"), ("end_episode", "<i8"), ("session_peak", "<f4")]
            fields += [("end_nats", "<f4"), ("session_item", "<i4")]
        if self._ahead is not None:
            fields += [("session_forecast", "<f4", 4), ("ahead_sessions", "<i4")]
            fields += [("ahead_types", "<i4", len(self.manifest["event_types"]) + 1)]
        fields += [("past", "<u4", (RECENT, 4))]
        fields += [("trigger_hashes", "<u4", 8), ("trigger_times_s", "<u4", 8), ("consent", "u1")]
        return np.dtype(fields)

    def rows(self, model_mark: int) -> Iterator[tuple[int, bytes, bytes, bool]]:
        """(partition, key, row, whether it may be gone: the user is forgotten by now) of every user.

        model_mark  the second field of a row: it identifies model and layout
        """
        layout = self.layout()
        for (partition, name), user in self.users.items():
            row = np.zeros((), layout)
            row["model"], row["offset"] = model_mark, user.offset
            row["last_ms"], row["clicks"] = user.last_ms, user.clicks
            row["recent"] = user.recent + [-1] * (RECENT - len(user.recent))
            row["held"] = -1
            for part, value in user.state.items():
                row[part] = value
            for part in ("item_nats", "event_nats", "gap_ms"):
                values = getattr(user.kept, part)
                row[part][: len(values)] = values
            row["session"], row["category_run"] = user.kept.session, user.kept.run
            row["twins"] = user.kept.twins
            logs = user.kept.gap_logs
            row["gaps"], row["gap_logs"], row["gap_squares"] = len(logs), sum(logs), sum(one * one for one in logs)
            row["excess_nats"] = user.kept.excess
            row["episode_offset"], row["unusual_ms"] = user.kept.episode, user.kept.unusual_ms
            row["alerted_nats"] = user.kept.alerted
            row["levels_passed"] = user.kept.passed
            row["population_window_ms"] = user.seen.window_ms
            row["population_signs"] = user.seen.bits()
            row["quiet_until_s"] = user.kept.quiet_until_s
            row["quiet_statistics"] = sum(1 << [*NAMES, "end"].index(name) for name in user.kept.quiet)
            session = self.sessions[partition].of[name] if user.clicks else Session(types=[0])
            row["session_offset"], row["session_start_ms"] = session.offset, session.start_ms
            row["session_last_ms"], row["seen_ms"] = session.last_ms, session.seen_ms
            row["session_revision"], row["session_types"] = session.revision, session.types
            for part, value in session.kept.items():
                row[part] = value
            if self._alerts.scores_ends:
                row["session_vector"], row["end_episode"] = session.vector, session.episode
                row["session_peak"], row["end_nats"], row["session_item"] = session.peak, session.nats, session.item
            if self._ahead is not None:
                row["session_forecast"], row["ahead_sessions"] = user.counts.told, user.counts.sessions
                row["ahead_types"] = user.counts.types
            row["past"][: len(user.past)] = user.past
            if partition in self.triggers:
                kept = self.triggers[partition].kept(name)
                row["trigger_hashes"], row["trigger_times_s"], row["consent"] = kept
            key, data = name.encode(), row.tobytes()[8:]
            data += bytes(-len(data) % 8)
            data += b"".join(xxhash.xxh3_64(text.encode()).digest()[::-1] for text in user.event_ids)
            checksum = xxhash.xxh3_64(data, seed=xxhash.xxh3_64(key).intdigest()).intdigest()
            row_bytes = checksum.to_bytes(8, "little") + data
            yield partition, key, row_bytes, self.forgotten(user, self._time_ms.get(partition, 0))

    def mark(self, partition: int, next_: int, checksums: list[int]) -> bytes:
        """The value of the changelog's row POSITION: next offset, number and sum of the checksums, and what is kept."""
        mark = b"%d %d %016x" % (next_, len(checksums), sum(checksums) % 2**64)
        mark += b" %d" % self._time_ms.get(partition, 0)
        if partition not in self.partitions:
            return mark
        mark += b" " + self.rates[partition].kept() + self.partitions[partition].kept()
        return mark + (self.hours[partition].kept() if partition in self.hours else b"")

    def _zeros(self) -> dict[str, Any]:
        return {t["name"]: np.zeros(t["shape"], t["dtype"]) for t in self.manifest["state"]}

    def _run(self, session: ort.InferenceSession, inputs: dict[str, Any], **plain: Any) -> list[Any]:
        """Run a graph on one row. The graph needs batches of a multiple of some number, so the row is repeated."""
        times = self.manifest["batch_multiple"]
        feeds = {name: np.stack([np.asarray(value)] * times) for name, value in inputs.items()}
        return [output[0] for output in session.run(None, feeds | plain)]

    def _after(self, click: dict[str, int], before: dict[str, Any]) -> list[Any]:
        """The state after a click. step.onnx takes clicks (B, T) and states (B, ...); its results are (B, T, ...)."""
        times = self.manifest["batch_multiple"]
        feeds = {name: np.full((times, 1), value) for name, value in click.items()}
        feeds |= {name: np.stack([value] * times) for name, value in before.items()}
        return [output[0, 0] for output in self._step.run(None, feeds)]

    def _top(self, state: dict[str, Any], count: int) -> list[tuple[int, float]]:
        """The likeliest items and their log-probabilities, best first."""
        k = np.array([min(count, len(self.items))], np.int64)
        items, log_probs = self._run(self._score, {name: state[name] for name in self._score_inputs}, k=k)
        return list(zip(items.tolist(), log_probs, strict=True))

    def _list(self, user: User) -> Event:
        left_out = user.recent[: self._exclude]
        best = [(i, logp) for i, logp in self._top(user.state, self._k + self._exclude) if i not in left_out][: self._k]
        return {"items": [self.items[i] for i, _ in best], "log_probs": [_rounded(logp) for _, logp in best]}

    def _alert(self, common: Event, event_type: str, found: Found, before: dict[str, Any]) -> Event:
        likely = self._top(before, 3)
        likely_items, item = [self.items[i] for i, _ in likely], common["item_id"]
        others = " or ".join(one for one in likely_items if one != item)
        expected = f", which was expected, as was {others}" if item in likely_items else f" where {others} was expected"
        return common | {
            "event_type": event_type,
            "reason": f"{found.sentence} (p-value {found.p_value:.2g}); {event_type} of {item}{expected}",
            "score": round(-math.log10(found.p_value), 4),
            "threshold": self._alpha,
            "statistics": found.statistics,
            "pool": found.pool,
            "pool_size": found.pool_size,
            "expected": [
                {"item_id": self.items[i], "probability": float(np.exp(np.float64(logp)).round(5))}
                for i, logp in likely
            ],
        }


def remembered(item: str, event_type: str, gap_ms: int, price: float | None) -> list[int]:
    """What a row keeps of a click: the low and high half of the item's hash, event type and gap, and the price."""
    code = {-1: 0xFFFF, -2: 0xFFFE}.get(gap_ms, min(0xFFFD, round(math.log1p(max(0, gap_ms)) * 3000)))
    hash_, of_type = (xxhash.xxh3_64_intdigest(text.encode()) for text in (item, event_type))
    [bits] = struct.unpack("<I", struct.pack("<f", price if price and price < 1e38 else 0.0))
    return [hash_ % 2**32, hash_ >> 32, of_type % 2**16 * 2**16 + code, bits]


def read(key: bytes | None, value: bytes | None) -> Event | None:
    """The click in a message as the tests write it: ids are text, the time is in ms. None for any other message."""
    try:
        click = json.loads(value or b"")
        known = isinstance(click["user_id"], str) and isinstance(click["item_id"], str)
        if not known or click["user_id"].encode() != key or int(click["timestamp"]) <= 0:
            return None
    except (ValueError, TypeError, KeyError):
        return None
    return {"event_type": "view"} | click


def _rounded(nats: np.float32) -> float:
    return float(np.float64(nats).round(5))
