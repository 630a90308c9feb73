"""Counts of the demo: clicks, decisions, hits compared with popularity, and what was said compared with the truth.

A hit: the user's next valid click is on one of the k items that were recommended at the previous click. Popularity is
judged in the same way on the same clicks, with the k items that have the most clicks in the stream so far.

Threads: the feed calls `sent` and increments `broken`. Everything else runs in the reader's thread.
"""

from collections import Counter, deque
from collections.abc import Iterable
from typing import NamedTuple

from stream.demo.judged.carts import Carts
from stream.demo.judged.following import Following
from stream.demo.judged.intent import Intents
from stream.demo.judged.sessions import Sessions
from stream.demo.simulate import Simulated
from stream.events import Anomaly, DeadLetter, Recommendation, SystemAlert, click_of

LATENCIES = 100_000
TRUTHS = 200_000
RECENT = 50


class Judged(NamedTuple):
    """A click, the items recommended at it, and the user's next item.

    rank  of the next item among the recommended ones, 1 = first; 0 = not recommended
    """

    user_id: str
    item_id: str
    items: list[str]
    next_item: str
    rank: int


class Alert(NamedTuple):
    """An alert, and its cause in the simulator. An empty cause means a false alarm."""

    anomaly: Anomaly
    truth: str


class Popularity:
    """The k items with the most clicks so far. Of items with equal counts, the one that had the count first."""

    def __init__(self, k: int) -> None:
        self._k = k
        self._count: Counter[str] = Counter()
        self.top: frozenset[str] = frozenset()

    def add(self, item_id: str) -> None:
        self._count[item_id] += 1
        if item_id in self.top:
            return
        if len(self.top) < self._k:
            self.top |= {item_id}
            return
        last = min(self.top, key=self._count.__getitem__)
        if self._count[item_id] > self._count[last]:
            self.top = self.top - {last} | {item_id}


class Tally:
    """Counts of one demo. k is the number of recommendations per click."""

    def __init__(self, k: int) -> None:
        self.clicks = 0
        self.broken = 0
        self.decisions = 0
        self.recommendations = 0
        self.users: set[str] = set()
        self.judged = 0
        self.hits = 0
        self.popular_hits = 0
        self.alerts = 0
        self.true_alerts = 0
        self.unusual: set[tuple[str, str]] = set()  # user and truth of each bot and thief who has clicked
        self.found: set[tuple[str, str]] = set()  # those with an alert
        self.system_alerts = 0
        self.dead_letters: Counter[str] = Counter()
        self.simulated_ms = 0
        self.latencies_ms: deque[float] = deque(maxlen=LATENCIES)
        self.last_judged: Judged | None = None
        self.last_alerts: dict[str, Alert] = {}  # one per user, newest last: one bot must not fill the page
        self.following = Following()
        self.intents = Intents()
        self.carts = Carts()
        self._sessions = Sessions(self.intents, self.carts)
        self._waiting: dict[tuple[str, int], tuple[float, Simulated]] = {}
        self._truth: dict[tuple[str, int], str] = {}
        self._before: dict[str, tuple[str, list[str], frozenset[str]]] = {}
        self._popularity = Popularity(k)

    @property
    def undecided(self) -> int:
        """Number of sent clicks whose decision has not been read yet."""
        return len(self._waiting)

    @property
    def unreported(self) -> int:
        """Number of sent broken messages whose dead letter has not been read yet."""
        return self.broken - sum(self.dead_letters.values())

    def sent(self, simulated: Simulated, now_s: float) -> None:
        """Count a valid click that will be sent now.

        now_s  of any monotonic clock, the same as in `decided`
        """
        key = (simulated.click.user_id, simulated.timestamp)
        if simulated.truth:
            self._truth[key] = simulated.truth
            self.unusual.add((simulated.click.user_id, simulated.truth))
            if len(self._truth) > TRUTHS:
                del self._truth[next(iter(self._truth))]
        self._waiting[key] = now_s, simulated
        self.clicks += 1

    def decided(self, decision: Recommendation, now_s: float) -> None:
        """Count a recommendation that was read. A second one for the same click is no decision."""
        self.recommendations += 1
        found = self._waiting.pop((decision.user_id, decision.timestamp), None)
        if found is None:
            return
        sent_s, simulated = found
        self.decisions += 1
        self.simulated_ms = max(self.simulated_ms, decision.timestamp)
        self.latencies_ms.append((now_s - sent_s) * 1000)
        self.users.add(decision.user_id)
        self._judge(decision)
        self._popularity.add(decision.item_id)
        self._before[decision.user_id] = (decision.item_id, decision.items, self._popularity.top)
        partition = int(click_of(decision.id).rsplit("-", 2)[1])
        self.following.decided(partition, simulated, decision)
        self._sessions.decided(partition, simulated, decision)

    def alerted(self, anomaly: Anomaly) -> None:
        """Count an alert that was read."""
        truth = self._truth.get((anomaly.user_id, anomaly.timestamp), "")
        self.alerts += 1
        self.true_alerts += bool(truth)
        if truth:
            self.found.add((anomaly.user_id, truth))
        self.last_alerts.pop(anomaly.user_id, None)
        self.last_alerts[anomaly.user_id] = Alert(anomaly, truth)
        if len(self.last_alerts) > RECENT:
            del self.last_alerts[next(iter(self.last_alerts))]

    def alerted_on_many(self, alert: SystemAlert) -> None:
        """Count an alert on many users that was read."""
        self.system_alerts += alert.phase == "opened"

    def rejected(self, letter: DeadLetter) -> None:
        """Count a dead letter that was read."""
        self.dead_letters[letter.reason] += 1

    def counts(self, seconds: float, provider: str) -> dict[str, object]:
        """The counts as `eddy demo --json` prints them.

        seconds   for which clicks were sent
        provider  execution provider of the worker
        """
        p50, p99 = percentiles(self.latencies_ms, (0.5, 0.99))
        return {
            "clicks": self.clicks,
            "decisions": self.decisions,
            "recommendations": self.recommendations,
            "anomalies": self.alerts,
            "anomalies_true": self.true_alerts,
            "bots_and_thieves": len(self.unusual),
            "bots_and_thieves_found": len(self.found),
            "system_alerts": self.system_alerts,
            "dead_letters": sum(self.dead_letters.values()),
            "dead_letters_by_reason": dict(self.dead_letters.most_common()),
            "hit_rate": _rate(self.hits, self.judged),
            "popularity_hit_rate": _rate(self.popular_hits, self.judged),
            "judged": self.judged,
            "next_action": self.following.counts(),
            "intent": self.intents.counts(),
            "triggers": dict(sorted(self.carts.by_rule.items())) | {"of the control group": self.carts.control},
            "abandoned_carts": self.carts.counts(),
            "users": len(self.users),
            "clicks_per_user": round(self.decisions / max(1, len(self.users)), 2),
            "seconds": round(seconds, 2),
            "clicks_per_s": round(self.clicks / seconds, 1) if seconds > 0 else 0.0,
            "latency_p50_ms": round(p50, 1),
            "latency_p99_ms": round(p99, 1),
            "provider": provider,
        }

    def _judge(self, decision: Recommendation) -> None:
        """Judge the items that were recommended at the user's previous click."""
        before = self._before.get(decision.user_id)
        if before is None:
            return
        item_id, items, popular = before
        rank = items.index(decision.item_id) + 1 if decision.item_id in items else 0
        self.judged += 1
        self.hits += rank > 0
        self.popular_hits += decision.item_id in popular
        self.last_judged = Judged(decision.user_id, item_id, items, decision.item_id, rank)


def percentiles(values: Iterable[float], parts: tuple[float, ...]) -> list[float]:
    """The quantile of the values for each part, by nearest rank; zeros if there are no values."""
    ordered = sorted(values)
    if not ordered:
        return [0.0 for _ in parts]
    return [ordered[min(len(ordered) - 1, int(part * len(ordered)))] for part in parts]


def _rate(hits: int, judged: int) -> float:
    return round(hits / judged, 4) if judged else 0.0
