"""The triggers of a partition, from a plain loop that shares no code with the worker."""

import hashlib
import math
import struct
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from scipy.stats import nbinom

Event = dict[str, Any]
Rule = dict[str, Any]
"""A rule as the file has it, with times in ms."""

GAP_MS, MINUTE_MS, HOUR_MS = 1_800_000, 60_000, 3_600_000


@dataclass
class User:
    """A user's row."""

    clicks: int = 0
    last_ms: int = 0
    seen_ms: int = 0
    consent: bool | None = None
    recent: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    fired_ms: dict[str, int] = field(default_factory=dict)
    offset: int = 0
    revision: int = 0
    session_last_ms: int = 0
    types: list[str] = field(default_factory=list)
    ended: bool = True
    away: set[str] = field(default_factory=set)
    past: list[tuple[str, str, float, float]] = field(default_factory=list)
    """Item, event type, ms since the click before, and price (0 = none) of the last clicks, newest first."""

    @property
    def due_ms(self) -> int:
        """When the session ends by the partition's time."""
        return -(-(self.seen_ms + GAP_MS) // MINUTE_MS) * MINUTE_MS

    def clicks_at(self, now_ms: int, rule: Rule) -> list[tuple[str, str, bool, bool, int, float]]:
        """Item and event type of the remembered clicks on known items, newest first; whether each is in the hour before
        `now_ms`, and in the time of the rule before that hour; in which hour it is, counted back; and its price."""
        found, time_ms = [], float(self.seen_ms)
        for item, event_type, gap_ms, price in self.past:
            age_ms = now_ms - time_ms
            if item != "unknown":
                found.append(
                    (
                        item,
                        event_type,
                        age_ms <= HOUR_MS,
                        HOUR_MS < age_ms <= HOUR_MS + rule["over"],
                        math.ceil(age_ms / HOUR_MS),
                        price,
                    )
                )
            time_ms -= gap_ms
        return found

    def away_ms(self, after_ms: int) -> int:
        """The full hour of the partition's time at which the user is away."""
        seen_ms = -(-self.seen_ms // MINUTE_MS) * MINUTE_MS
        return -(-(seen_ms + after_ms) // HOUR_MS) * HOUR_MS


class Triggers:
    """Decides on clicks in the order of their partition."""

    def __init__(self, prefix: str, rules: list[Rule], forget_ms: int) -> None:
        """prefix: "topic-partition-" """
        self._prefix, self._rules, self._forget_ms = prefix, rules, forget_ms
        self._away = {str(rule["name"]) for rule in rules if rule["kind"] == "away"}
        self._waiting: set[str] = set()  # users whose session has not ended, or who are not away by each rule
        self.users: dict[str, User] = {}
        self.events: list[Event] = []
        self.now_ms = 0

    def forget(self, name: str) -> None:
        self.users.pop(name, None)
        self._waiting.discard(name)

    def kept(self, name: str) -> tuple[list[int], list[int], int]:
        """What the user's row has: hashes of the rules with a cooldown, times of their last triggers, the consent."""
        user = self.users[name]
        needed = {rule["name"] for rule in self._rules if rule["cooldown"] > rule.get("after", 0)}
        hashes = {key: int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "little") for key in needed}
        pairs = sorted((hashes[key], ms // 1000) for key, ms in user.fired_ms.items() if key in needed)
        pairs += [(0, 0)] * (8 - len(pairs))
        return [one[0] for one in pairs], [one[1] for one in pairs], {None: 0, False: 1, True: 2}[user.consent]

    def rest(self) -> None:
        if any(not user.ended for user in self.users.values()):
            was_ms, self.now_ms = self.now_ms, (self.now_ms // MINUTE_MS + 31) * MINUTE_MS
            self._pass(None, False, was_ms)

    def click(
        self,
        name: str,
        offset: int,
        time_ms: int,
        event_type: str,
        item: str,
        event_id: str | None,
        consent: bool | None,
        price: float | None = None,
    ) -> None:
        was_ms, self.now_ms = self.now_ms, max(self.now_ms, time_ms)
        user = self.users.get(name, User())
        begins = self._forgotten(user, user.last_ms, self.now_ms) or not user.clicks
        repeated = not begins and event_id is not None and event_id in user.ids
        starts = begins or time_ms - user.last_ms >= GAP_MS
        self._pass(None if repeated else name, starts and not repeated, was_ms)
        if repeated:
            user.last_ms = max(user.last_ms, time_ms)
            return
        if begins:
            user = self.users[name] = User()
        if starts:
            user.offset, user.revision, user.types, user.session_last_ms = offset, 0, [], 0
        elif user.ended:
            user.revision += 1
        user.ended, user.seen_ms, user.away = False, self.now_ms, set()
        self._waiting.add(name)
        gap_ms = 0.0
        if user.clicks and time_ms >= user.last_ms:  # as a row keeps it
            gap_ms = round(math.expm1(min(round(math.log1p(time_ms - user.last_ms) * 3_000), 0xFFFD) / 3_000))
        [paid] = struct.unpack("f", struct.pack("f", price or 0.0))  # as a row keeps it
        user.past = [(item, event_type, gap_ms, paid), *user.past][:16]
        user.clicks += 1
        user.last_ms, user.session_last_ms = max(user.last_ms, time_ms), max(user.session_last_ms, time_ms)
        user.recent = [item, *user.recent][:16]
        user.ids = [event_id, *user.ids][:16] if event_id is not None else user.ids
        user.types.append(event_type)
        user.consent = user.consent if consent is None else consent
        for rule in sorted(self._rules, key=lambda rule: str(rule["name"])):
            if rule["kind"] == "after" and event_type in rule["events"]:
                self._fire(rule, name, self.now_ms, f"{self._prefix}{offset}", None, f"{event_type} of {item}")

    def _forgotten(self, user: User, last_ms: int, now_ms: int) -> bool:
        limit_ms = self._forget_ms if user.clicks > 1 else self._forget_ms // 3
        return now_ms - last_ms > limit_ms

    def _pass(self, own: str | None, starts: bool, was_ms: int) -> None:
        """The partition's time has moved on. own: the user of the click that did it. starts: it starts a session"""
        due: list[tuple[int, int, str, str, Rule]] = []
        for name in list(self._waiting):
            user = self.users[name]
            if not user.ended and (user.due_ms <= self.now_ms or (name == own and starts)):
                user.ended = True
                ends = [rule for rule in self._rules if rule["kind"] == "abandoned"]
                due += [(user.due_ms, user.offset, rule["name"], name, rule) for rule in ends]
            for rule in self._rules:
                if rule["kind"] == "away" and name != own and rule["name"] not in user.away:
                    away_ms = user.away_ms(rule["after"])
                    if user.clicks and away_ms // HOUR_MS <= self.now_ms // HOUR_MS:
                        user.away.add(rule["name"])
                        due.append((away_ms, user.offset, rule["name"], name, rule))
            if user.ended and user.away == self._away:
                self._waiting.remove(name)
        for time_ms, offset, _, name, rule in sorted(due, key=lambda one: one[:3]):
            user = self.users[name]
            id_ = f"{self._prefix}{offset}-end" + (f"-{user.revision}" if user.revision else "")
            if rule["kind"] == "away":
                if not self._forgotten(user, user.session_last_ms, time_ms):
                    self._fire(rule, name, time_ms, id_, user, "no click for")
            elif {*rule["has"]} & {*user.types} and not {*rule["without"]} & {*user.types}:
                self._fire(rule, name, time_ms, id_, user, "a session of")

        if was_ms and self.now_ms // HOUR_MS > was_ms // HOUR_MS:
            looks = {"trending": self._watching, "price_drop": self._cheaper}
            rules, hour_ms = [rule for rule in self._rules if rule["kind"] in looks], (was_ms // HOUR_MS + 1) * HOUR_MS
            told = [one for rule in rules for one in looks[rule["kind"]](rule, hour_ms)]
            fired: Counter[str] = Counter()
            for _, _, name, rule, reason, items in sorted(told, key=lambda one: one[:2]):
                if fired[rule["name"]] >= rule["most"]:
                    continue
                were = len(self.events)
                self._fire(rule, name, hour_ms, f"{self._prefix[:-1]}/{hour_ms}/{name}", None, reason, items)
                fired[rule["name"]] += len(self.events) - were

    def _clicks_at(self, rule: Rule, hour_ms: int) -> dict[str, list[tuple[str, str, bool, bool, int, float]]]:
        """User -> remembered clicks at an hour, of those who are not forgotten."""
        return {
            name: user.clicks_at(hour_ms, rule)
            for name, user in self.users.items()
            if user.clicks and not self._forgotten(user, user.session_last_ms, hour_ms)
        }

    def _cheaper(self, rule: Rule, hour_ms: int) -> list[tuple[int, str, str, Rule, str, list[str]]]:
        """Whom a rule about prices concerns at an hour, as `_watching`."""
        users, prices = self._clicks_at(rule, hour_ms), dict[str, list[float]]()
        for clicks in users.values():
            mine = dict[str, float]()
            for item, event_type, now, _, _, price in clicks:
                if now and price and item not in mine and (not rule["events"] or event_type in rule["events"]):
                    mine[item] = price
            for item, price in mine.items():
                prices.setdefault(item, []).append(price)
        median = {item: sorted(of)[len(of) // 2] for item, of in prices.items() if len(of) >= rule["least"]}
        found = []
        for name, clicks in users.items():
            left_out = {one[0] for one in clicks if one[2] or one[1] in rule["without"]}
            last = dict[str, float]()
            for item, event_type, _, before, _, price in clicks:
                if before and price and item not in last and (not rule["events"] or event_type in rule["events"]):
                    last[item] = price
            parts = {item: median[item] / last[item] for item in last if item in median and item not in left_out}
            items = [item for item in parts if parts[item] <= (1 - rule["drop"]) * 1.000001]
            items.sort(key=lambda item: parts[item])
            if items:
                best = items[0]
                reason = f"the price of {best} fell from {last[best]:.2f} to {median[best]:.2f}"
                found.append((self.users[name].offset, rule["name"], name, rule, reason, items))
        return found

    def _watching(self, rule: Rule, hour_ms: int) -> list[tuple[int, str, str, Rule, str, list[str]]]:
        """Whom a rule about what trends concerns at an hour: offset, the rule's name, user, rule, reason, items."""
        users = self._clicks_at(rule, hour_ms)

        def counts(event_type: str) -> bool:
            return not rule["events"] or event_type in rule["events"]

        now: dict[str, set[tuple[str, int]]] = {}
        before: dict[str, set[tuple[str, int]]] = {}
        for name, clicks in users.items():
            now[name] = {(one[0], one[4]) for one in clicks if one[2] and counts(one[1])}
            before[name] = {(one[0], one[4]) for one in clicks if one[3] and counts(one[1])}
        of_now, of_before = (Counter(item for each in per.values() for item, _ in each) for per in (now, before))
        tested = [item for item, users_ in of_now.items() if users_ >= rule["least"]]
        strength: dict[str, float] = {}
        if of_before.total():
            ratio = of_now.total() / of_before.total()
            for item in tested:
                p = float(nbinom.sf(of_now[item] - 1, of_before[item] + 0.5, 1 / (1 + ratio)))
                often = of_now[item] / of_now.total() >= rule["times"] * of_before[item] / of_before.total()
                if p <= rule["significance"] / len(tested) and often:
                    strength[item] = p
        found = []
        for name, clicks in users.items():
            against = {item for item, event_type, *_ in clicks if event_type in rule["without"]}
            left_out = {item for item, _ in now[name]} | against
            watched = {item for item, _ in before[name] if item in strength} - left_out
            items = sorted(watched, key=lambda item: (strength[item], item))
            if items:
                best = items[0]
                reason = (
                    f"{best} trends: {of_now[best]} of {of_now.total()} clicks in the hour, and {of_before[best]} of "
                    f"{of_before.total()} in the "
                )
                found.append((self.users[name].offset, rule["name"], name, rule, reason, items))
        return found

    def _fire(
        self,
        rule: Rule,
        name: str,
        time_ms: int,
        about: str,
        session: User | None,
        reason: str,
        items: list[str] | None = None,
    ) -> None:
        user, key = self.users[name], rule["name"]
        if rule["consent"] and user.consent is not True:
            return
        if key in user.fired_ms and time_ms // 1000 - user.fired_ms[key] // 1000 < rule["cooldown"] // 1000:
            return
        user.fired_ms[key] = time_ms
        digest = hashlib.sha256(f"{key}\0{name}".encode()).digest()
        event = {
            "id": f"{about}:{key}",
            "user_id": name,
            "rule": key,
            "kind": rule["kind"],
            "timestamp": time_ms,
            "group": "control" if int.from_bytes(digest[:8], "little") / 2**64 < rule["control"] else "treated",
            "reason": reason,
        }
        if session is not None:
            known = [item for item in session.recent[: len(session.types)] if item != "unknown"]
            event["items"] = list(dict.fromkeys(known))
        elif items is not None:
            event["items"] = items
        self.events.append(event)
