"""The counts of the demo, checked by hand on a few clicks."""

import random
from collections import Counter

from stream.demo.simulate import Simulated
from stream.demo.tally import Popularity, Tally, percentiles
from stream.events import Anomaly, Click, DeadLetter, Recommendation


def send(tally: Tally, user: str, item: str, timestamp: int, truth: str = "") -> None:
    tally.sent(Simulated(timestamp, 0, Click(user, item, timestamp), truth), now_s=1.0)


def decide(tally: Tally, user: str, item: str, timestamp: int, items: list[str], now_s: float = 1.01) -> None:
    id = f"clicks-0-{timestamp}"
    tally.decided(Recommendation(id, user, item, timestamp, items, [0.0] * len(items), 1.0, 0.5, "shop/1"), now_s)


def alert(user: str, timestamp: int) -> Anomaly:
    return Anomaly(
        "id", user, "a", "view", timestamp, "id", "why", 9.0, 0.001, 3.0, 0.001, {}, "2 clicks", 10, [], "shop/1"
    )


def test_a_hit_is_the_users_next_click_among_those_recommended_at_the_click_before() -> None:
    """Another user's clicks in between do not count, and a user's first click is not judged."""
    tally = Tally(k=2)
    steps = [
        ("u", "a", ["b", "c"]),  # judged by nobody
        ("v", "b", ["x", "y"]),  # another user's
        ("u", "c", ["d", "e"]),  # hit at rank 2; popularity held a and b... of u's click: a alone
        ("u", "z", ["d", "e"]),  # miss
        ("v", "x", ["d", "e"]),  # hit at rank 1
    ]
    for timestamp, (user, item, items) in enumerate(steps):
        send(tally, user, item, timestamp)
        decide(tally, user, item, timestamp, items)
    assert (tally.judged, tally.hits) == (3, 2)
    assert tally.last_judged is not None
    assert (tally.last_judged.item_id, tally.last_judged.next_item, tally.last_judged.rank) == ("b", "x", 1)
    assert tally.counts(2.0, "CPU")["hit_rate"] == round(2 / 3, 4)
    assert tally.undecided == 0


def test_popularity_is_judged_on_the_same_clicks_with_what_was_popular_then() -> None:
    """The popularity baseline uses only the stream up to the previous click, as the recommender does."""
    tally = Tally(k=1)
    for timestamp, (user, item) in enumerate([("u", "a"), ("v", "b"), ("v", "b"), ("u", "b"), ("u", "b")]):
        send(tally, user, item, timestamp)
        decide(tally, user, item, timestamp, [])
    # v's second click: a was on top at v's first. u's second: a was on top at u's first. u's third: b is on top.
    assert (tally.judged, tally.popular_hits) == (3, 1)


def test_popularity_equals_a_full_count() -> None:
    """The running top k has the counts of the true top k after every click."""
    rng, popularity, count = random.Random(1), Popularity(5), Counter[str]()
    for _ in range(3000):
        item = str(int(rng.expovariate(0.1)))
        popularity.add(item)
        count[item] += 1
        best = sorted(count.values(), reverse=True)[:5]
        assert sorted((count[item] for item in popularity.top), reverse=True) == best


def test_a_second_decision_on_a_click_is_not_counted() -> None:
    """A duplicate does not replace a missing decision: decisions count clicks, recommendations count messages."""
    tally = Tally(k=1)
    send(tally, "u", "a", 1)
    send(tally, "u", "a", 2)
    decide(tally, "u", "a", 1, [])
    decide(tally, "u", "a", 1, [])
    counts = tally.counts(1.0, "CPU")
    assert (counts["clicks"], counts["decisions"], counts["recommendations"]) == (2, 1, 2)
    assert tally.undecided == 1


def test_an_alert_is_true_if_the_simulator_says_so() -> None:
    """The truth of a click is looked up by its user and time, before or after its decision."""
    tally = Tally(k=1)
    send(tally, "bot", "a", 1, truth="scraper")
    send(tally, "u", "a", 2)
    send(tally, "u", "a", 3, truth="takeover")
    tally.alerted(alert("bot", 1))
    decide(tally, "bot", "a", 1, [])
    tally.alerted(alert("u", 2))
    assert (tally.alerts, tally.true_alerts) == (2, 1)
    counts = tally.counts(1.0, "CPU")
    assert (counts["bots_and_thieves"], counts["bots_and_thieves_found"]) == (2, 1)
    assert [known.truth for known in tally.last_alerts.values()] == ["scraper", ""]


def test_one_bot_does_not_crowd_out_the_other_alerts() -> None:
    """The latest alert of each user is kept, the newest last."""
    tally = Tally(k=1)
    for timestamp, user in enumerate(["u", "bot", "bot", "v", "bot"]):
        tally.alerted(alert(user, timestamp))
    assert [(user, kept.anomaly.timestamp) for user, kept in tally.last_alerts.items()] == [
        ("u", 0),
        ("v", 3),
        ("bot", 4),
    ]


def test_dead_letters_are_counted_by_reason_and_latency_in_ms() -> None:
    """Broken messages are no clicks; the latency is from sent to read."""
    tally = Tally(k=1)
    tally.broken = 2
    tally.rejected(DeadLetter("id", "not_json", "", "clicks", 0, 0, 0, None, None, 0, 0))
    assert tally.unreported == 1
    send(tally, "u", "a", 1)
    decide(tally, "u", "a", 1, [], now_s=1.25)
    counts = tally.counts(1.0, "CPU")
    assert counts["dead_letters_by_reason"] == {"not_json": 1}
    assert counts["clicks"] == 1
    assert counts["latency_p50_ms"] == 250.0


def test_percentiles_by_nearest_rank() -> None:
    """Percentiles follow the nearest-rank definition, and are zeros without values."""
    assert percentiles(range(100), (0.5, 0.99)) == [50, 99]
    assert percentiles([], (0.5,)) == [0.0]
