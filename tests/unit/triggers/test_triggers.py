"""Triggers: to whom the rules apply, and when, in any split of the clicks into batches."""

import itertools
import json
import operator
import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from stream.engine.engine import Cycle, Engine
from stream.errors import ConfigError
from stream.events import Click, Origin, Partition, click_of
from stream.model.runtime import Model, load_model
from stream.settings import Rules
from stream.triggers.parse import parse_triggers
from stream.worker.served import open_engine, recommendations, triggers
from tests.decide import NOW_MS, at_rest, parted
from tests.oracle_triggers import Event, Rule, Triggers

START_MS = 1_700_000_000_000 // 3_600_000 * 3_600_000
HOUR, DAY_MS = 3_600, 86_400_000
PARTITIONS = [Partition("clicks", number) for number in (0, 1)]

FILE = """
[[trigger]]
name = "cart"
kind = "abandoned"
has = ["cart"]
without = ["purchase"]
cooldown = "2h"
control = 0.5

[[trigger]]
name = "any-consent"
kind = "abandoned"
has = ["view", "cart"]
consent = true
cooldown = "0s"

[[trigger]]
name = "back"
kind = "away"
after = "3h"
cooldown = "1d"
consent = true

[[trigger]]
name = "back-late"
kind = "away"
after = "9h"
cooldown = "9h"

[[trigger]]
name = "more"
kind = "after"
events = ["purchase"]
cooldown = "1h"

[[trigger]]
name = "hot"
kind = "trending"
over = "3h"
least = 1
times = 1
significance = 1.0
most = 2
without = ["purchase"]
cooldown = "2h"

[[trigger]]
name = "hot-carts"
kind = "trending"
events = ["cart"]
over = "9h"
least = 2
times = 1.5
significance = 0.5
cooldown = "0s"
consent = true

[[trigger]]
name = "cheaper"
kind = "price_drop"
drop = 0.1
over = "9h"
cooldown = "2h"
without = ["purchase"]
"""
H = HOUR * 1000
RULES: list[Rule] = [
    {"name": "cart", "kind": "abandoned", "has": ["cart"], "without": ["purchase"], "cooldown": 2 * H, "control": 0.5},
    {"name": "any-consent", "kind": "abandoned", "has": ["view", "cart"], "without": [], "consent": True},
    {"name": "back", "kind": "away", "after": 3 * H, "cooldown": 24 * H, "consent": True},
    {"name": "back-late", "kind": "away", "after": 9 * H},  # its cooldown is not longer than the time away
    {"name": "more", "kind": "after", "events": ["purchase"], "cooldown": H},
    {
        "name": "hot", "kind": "trending", "over": 3 * H, "least": 1, "times": 1.0, "significance": 1.0,
        "events": [], "most": 2,
        "without": ["purchase"], "cooldown": 2 * H,
    },
    {
        "name": "hot-carts", "kind": "trending", "over": 9 * H, "least": 2, "times": 1.5, "significance": 0.5,
        "events": ["cart"], "without": [], "consent": True, "most": 10_000,
    },
    {
        "name": "cheaper", "kind": "price_drop", "drop": 0.1, "over": 9 * H, "least": 2, "events": [], "most": 10_000,
        "without": ["purchase"], "cooldown": 2 * H,
    },
]  # fmt: skip
RULES = [{"cooldown": 0, "control": 0.0, "consent": False} | rule for rule in RULES]


class Sent(NamedTuple):
    """A click so many seconds after START_MS; without a type, a request to forget the user."""

    partition: int
    user: str
    second: float
    event_type: str = "view"
    item: int = 1
    event_id: str | None = None
    consent: bool | None = None
    price: float | None = None

    @property
    def click(self) -> Click:
        at_ms = START_MS + int(self.second * 1000)
        item = f"i{self.item}" if self.item else "unknown"
        return Click(
            self.user, item, at_ms, self.event_type, event_id=self.event_id, consent=self.consent, price=self.price
        )


SECOND = operator.attrgetter("second")
TREND = [
    Sent(1, "f", 0, "cart", 1, consent=True),
    Sent(1, "g", 10, "cart", 2, consent=True),
    Sent(1, "h", 3700, "cart", 1),
    Sent(1, "i", 3800, "cart", 1),
    Sent(1, "j", 7300),
]
"""At the second hour i1 has two of two carts, and had one of two: only f has put it there before."""
CHEAPER = [
    Sent(1, "m", 0, item=5, price=89.9),
    Sent(1, "n", 3700, item=5, price=69.9),
    Sent(1, "o", 3800, item=5, price=69.9),
]
"""At the second hour i5 costs less than at the click of m."""


@pytest.fixture(scope="module")
def model(model_dir: Path) -> Model:
    return load_model(model_dir, "cpu")


def new_engine(model: Model, model_dir: Path, file: str = FILE) -> Engine:
    return open_engine(
        model, model_dir, 3, 1, 0.001, forget_after_days=1.0, triggers=parse_triggers(file, "test") if file else ()
    )


def process(engine: Engine, sent: list[tuple[int, Sent]], commit: bool = True) -> list[Event]:
    """Decide on one batch, (offset, what was sent) each. Returns what is written on the topic of the triggers."""
    clicks, origins, requests = parted(sent)
    cycle = engine.process(engine.encoder.columns(clicks, origins, requests), NOW_MS)
    found = written(engine, clicks, cycle)
    lists = {click_of(one.id): one.items for one in recommendations(engine, clicks, origins, cycle)}
    for event in found:
        if event["kind"] == "after":
            assert event["items"] == lists[event["id"].partition(":")[0]]
    if commit:
        engine.commit(cycle)
    return found


def written(engine: Engine, clicks: list[Click], cycle: Cycle) -> list[Event]:
    return [json.loads(msgspec.json.encode(one)) for one in triggers(engine, clicks, cycle)]


def rest(engine: Engine) -> list[Event]:
    cycle = at_rest(engine, PARTITIONS)
    found = written(engine, [], cycle)
    engine.commit(cycle)
    return found


def assert_as_the_loop(found: list[Event], loop: Triggers, partition: Partition) -> None:
    mine = [event for event in found if event["id"].startswith((f"{partition}-", f"{partition}/"))]
    assert [event["id"] for event in mine] == [event["id"] for event in loop.events]
    for event, expected in zip(mine, loop.events, strict=True):
        reason = expected["reason"]
        assert event["reason"].startswith(reason)
        assert {name: event[name] for name in expected} == expected | {"reason": event["reason"]}


SENT = st.builds(
    Sent,
    partition=st.sampled_from([0, 0, 0, 1]),
    user=st.sampled_from(["a", "b", "c", "d"]),
    # sessions, their ends to the second, hours away, and times after which a user is forgotten
    second=st.integers(0, 240).map(lambda n: n * 60.0)
    | st.integers(0, 8).map(lambda n: n * 1800.0 - 0.001)
    | st.integers(0, 60).map(lambda n: n * 1800.0),
    event_type=st.sampled_from(["view", "view", "cart", "cart", "purchase", "wish", ""]),
    item=st.integers(0, 3),
    event_id=st.none() | st.sampled_from(["x", "y"]),
    consent=st.sampled_from([None, None, True, True, False]),
    price=st.sampled_from([None, 19.9, 17.91, 8.5]),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(
    sent=st.lists(SENT, max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=6),
    rests=st.sets(st.integers(0, 40), max_size=4),
    in_order=st.booleans(),
)
@example(  # two ends of a user's sessions in one batch: the second one sees the cooldown of the first
    sent=[Sent(0, "a", 0, "cart"), Sent(0, "a", 3600, "cart"), Sent(0, "a", 9000, "cart"), Sent(0, "b", 20000)],
    cuts=[],
    rests=set(),
    in_order=True,
)
@example(  # the cooldown of a user without a click in the batch is in the row, also one that a rest wrote
    sent=[Sent(0, "a", 0, "cart"), Sent(0, "b", 1860), Sent(0, "a", 3600, "cart"), Sent(0, "b", 9000)],
    cuts=[1, 2, 3],
    rests={1, 3},
    in_order=True,
)
@example(  # the second end is exactly a cooldown after the first one
    sent=[Sent(0, "a", 0, "cart"), Sent(0, "b", 1800), Sent(0, "a", 7200, "cart"), Sent(0, "b", 9000)],
    cuts=[2],
    rests=set(),
    in_order=True,
)
@example(  # a user whose own click is the first one of the hour is not away
    sent=[Sent(0, "a", 0, "cart", consent=True), Sent(0, "b", 3500), Sent(0, "a", 10800), Sent(0, "b", 10900)],
    cuts=[1],
    rests=set(),
    in_order=True,
)
@example(  # a user who is forgotten is not away, whether the row is there or not, and begins without consent
    sent=[Sent(0, "a", 0, consent=True), Sent(0, "b", 35000), Sent(0, "a", 36000), Sent(0, "b", 60000)],
    cuts=[1],
    rests=set(),
    in_order=True,
)
@example(  # a user who is forgotten within the batch has not consented any more
    sent=[Sent(0, "a", 0, consent=True), Sent(0, "a", 36000, "cart"), Sent(0, "b", 39600)],
    cuts=[],
    rests=set(),
    in_order=True,
)
@example(  # forgotten by a request, with a click before and after it
    sent=[Sent(0, "a", 0, "cart", consent=True), Sent(0, "a", 1, ""), Sent(0, "a", 2, "cart"), Sent(0, "b", 7200)],
    cuts=[1],
    rests=set(),
    in_order=True,
)
@example(  # an item trends whose clicks are of the batch before, of this one before the hour, and one that crosses it
    sent=[Sent(0, "a", 0), Sent(0, "b", 10, item=2), Sent(0, "b", 3500), Sent(0, "c", 3600), Sent(0, "a", 7300)],
    cuts=[1, 3],
    rests=set(),
    in_order=True,
)
@example(  # whoever is forgotten is not told, whether the row is there or not
    sent=[
        Sent(0, "a", 0, "cart", 1, consent=True), Sent(0, "b", 7.0 * HOUR, "cart", 2),
        Sent(0, "d", 7.1 * HOUR, "cart", 2), Sent(0, "c", 8.2 * HOUR, "cart", 1), Sent(0, "e", 8.3 * HOUR, "cart", 1),
        Sent(0, "b", 9.1 * HOUR),
    ],
    cuts=[],
    rests=set(),
    in_order=True,
)  # fmt: skip
@example(  # the first full hour after the last click is looked at once, at rest or with the next click
    sent=[Sent(0, "a", 0), Sent(0, "b", 2400, item=2), Sent(0, "c", 5400), Sent(0, "b", 18000)],
    cuts=[],
    rests={3},
    in_order=True,
)
def test_triggers_are_those_of_a_plain_loop_in_any_batches(
    model: Model, model_dir: Path, sent: list[Sent], cuts: list[int], rests: set[int], in_order: bool
) -> None:
    """With late clicks, repeated ones, users who are forgotten, consent that comes and goes, batches that are done
    again, and partitions that rest before the clicks `rests`."""
    assert_same_in_batches(model, model_dir, sorted(sent, key=SECOND) if in_order else sent, cuts, rests)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(
    seed=st.integers(0, 1 << 32),
    cuts=st.lists(st.integers(0, 90), max_size=6),
    rests=st.sets(st.integers(0, 90), max_size=2),
)
def test_what_an_hour_brings_is_the_same_in_any_batches(
    model: Model, model_dir: Path, seed: int, cuts: list[int], rests: set[int]
) -> None:
    """Enough users and clicks for items to trend, and to become cheaper, at most hours, with users who are forgotten by
    request or by time."""
    draw = random.Random(seed)
    kinds, consents = ["view"] * 6 + ["cart"] * 6 + ["purchase", ""], [True] * 3 + [None, False]
    sent = [
        Sent(
            0,
            draw.choice("abcdefghij"),
            draw.randrange(72) * 600.0,
            draw.choice(kinds),
            draw.randrange(4),
            None,
            draw.choice(consents),
            draw.choice([None, 0.0, 19.9, 17.91, 17.92, 9.99, 5]),
        )
        for _ in range(90)
    ]
    assert_same_in_batches(model, model_dir, sorted(sent, key=SECOND), cuts, rests)


def assert_same_in_batches(model: Model, model_dir: Path, sent: list[Sent], cuts: list[int], rests: set[int]) -> None:
    engine = new_engine(model, model_dir)
    loops = [Triggers(f"{partition}-", RULES, DAY_MS) for partition in PARTITIONS]
    for offset, one in enumerate(sent):
        if offset in rests:
            for loop in loops:
                loop.rest()
        loop = loops[one.partition]
        if one.event_type:
            at_ms = START_MS + int(one.second * 1000)
            told = one.event_id, one.consent, one.price
            loop.click(one.user, offset, at_ms, one.event_type, one.click.item_id, *told)
        else:
            loop.forget(one.user)
    found: list[Event] = []
    edges = [0, *sorted(cut for cut in {*cuts, *rests} if cut < len(sent)), len(sent)]
    for begin, end in itertools.pairwise(edges):
        if begin in rests and begin < end:
            found += rest(engine)
        batch = list(enumerate(sent))[begin:end]
        dropped = process(engine, batch, commit=False) if begin % 3 == 0 else None
        now = process(engine, batch)
        assert dropped in (None, now)
        found += now
    for partition, loop in zip(PARTITIONS, loops, strict=True):
        assert_as_the_loop(found, loop, partition)


def test_rows_are_the_same_in_any_batches(model: Model, model_dir: Path) -> None:
    """Bit by bit, so a recovery cannot see in which transactions they came."""
    sent = [Sent(0, user, 60.0 * n, "cart", n % 5, consent=n % 7 > 0) for n, user in enumerate("abcabdacdb" * 12)]
    sent += [Sent(0, "e", 8 * HOUR + 1800.0 * n, "purchase") for n in range(20)]
    sent = sorted([*sent, *TREND, *CHEAPER], key=SECOND)
    one, many = new_engine(model, model_dir), new_engine(model, model_dir)
    found = process(one, list(enumerate(sent)))
    parts = [process(many, [each]) for each in enumerate(sent)]
    assert found == [event for part in parts for event in part]
    assert {event["rule"] for event in found} == {rule["name"] for rule in RULES}
    for partition in PARTITIONS:
        assert one.arena.rows(partition) == many.arena.rows(partition)


def test_the_next_click_the_time_and_the_clock_give_the_same_trigger(model: Model, model_dir: Path) -> None:
    """Whatever ends a session, its trigger is the same message."""
    cart = Sent(0, "a", 0, "cart")
    ways = {
        "own": [Sent(0, "a", 1830)],
        "other": [Sent(0, "b", 1830)],
    }
    found = {}
    for way, clicks in ways.items():
        engine = new_engine(model, model_dir)
        process(engine, [(0, cart)])
        found[way] = process(engine, list(enumerate(clicks, 1)))
    engine = new_engine(model, model_dir)
    process(engine, [(0, cart)])
    found["clock"] = rest(engine)
    assert found["own"] == found["other"] == found["clock"]
    assert [event["id"] for event in found["clock"]] == ["clicks-0-0-end:cart"]
    assert rest(engine) == []


def test_without_a_cooldown_no_row_is_written_for_an_end(model: Model, model_dir: Path) -> None:
    engine = new_engine(model, model_dir, FILE.replace('cooldown = "2h"', 'cooldown = "0s"'))
    process(engine, [(0, Sent(0, "a", 0, "cart"))])
    cycle = at_rest(engine, PARTITIONS)
    assert [firing.rule.name for firing in cycle.firings] == ["cart"]
    assert not cycle.staged.changelog


def test_whoever_is_away_for_longer_than_the_cooldown_has_no_row_written(model: Model, model_dir: Path) -> None:
    """The user cannot be away a second time within the cooldown."""
    engine = new_engine(model, model_dir)
    process(engine, [(0, Sent(0, "a", 0)), (1, Sent(0, "a", 60))])
    click = Click("b", "i1", START_MS + 10 * H)
    cycle = engine.process(engine.encoder.columns([click], [Origin("clicks", 0, 2)]), NOW_MS)
    assert [(firing.rule.name, firing.owner[1]) for firing in cycle.firings] == [("back-late", b"a")]
    assert [key for _, key, _ in cycle.staged.changelog] == [b"b"]


def test_rules_can_be_added_and_removed_without_a_new_group(model: Model, model_dir: Path) -> None:
    """The cooldown of a rule that stays goes on; the rows of a worker without rules are the same ones."""
    before = new_engine(model, model_dir)
    process(before, [(0, Sent(0, "a", 0, "cart", consent=True)), (1, Sent(0, "b", 1860))])
    for file in ("", FILE.replace('"cart"\nkind', '"other"\nkind')):
        after = new_engine(model, model_dir, file)
        after.arena.hold(PARTITIONS[0])
        after.arena.load(PARTITIONS[0], before.arena.rows(PARTITIONS[0]))
        after.arena.advance(PARTITIONS[0], before.arena.newest_ms(PARTITIONS[0]))
        process(after, [(2, Sent(0, "a", 3600, "cart"))])
        found = [event["rule"] for event in process(after, [(3, Sent(0, "b", 5520))])]
        assert found == (["any-consent", "other"] if file else [])


def test_forgetting_a_user_forgets_cooldown_and_consent(model: Model, model_dir: Path) -> None:
    engine = new_engine(model, model_dir)
    process(engine, [(0, Sent(0, "a", 0, "cart", consent=True)), (1, Sent(0, "b", 1860))])
    process(engine, [(2, Sent(0, "a", 1900, ""))])
    process(engine, [(3, Sent(0, "a", 3600, "cart"))])
    assert [event["rule"] for event in process(engine, [(4, Sent(0, "b", 5520))])] == ["cart"]


def test_what_trends_is_told_to_those_who_have_watched_it(model: Model, model_dir: Path) -> None:
    """With the figures that made it trend; not to those who click it now, who have bought it, or who are gone."""
    bought = [Sent(1, "k", 20, "purchase", 1), Sent(1, "l", 30, "cart", 1), Sent(1, "l", 40, ""), *TREND]
    sent = sorted(bought, key=SECOND)
    engine = new_engine(model, model_dir)
    found = [event for event in process(engine, list(enumerate(sent))) if event["kind"] == "trending"]
    hour_ms = START_MS + 2 * H
    assert [(event["rule"], event["user_id"]) for event in found] == [("hot", "f"), ("hot-carts", "f")]
    assert found[1] == {
        "id": f"clicks-1/{hour_ms}/f:hot-carts",
        "user_id": "f",
        "rule": "hot-carts",
        "kind": "trending",
        "timestamp": hour_ms,
        "group": "treated",
        "items": ["i1"],
        "reason": "i1 trends: 2 of 2 clicks in the hour, and 1 of 2 in the 9h before; of a user's clicks on one item "
        "in an hour one counts",
        "model": engine.model.manifest.label,
    }


def cheaper(model: Model, model_dir: Path, sent: list[Sent], more: str = "") -> list[Event]:
    """What a rule about prices brings, with the first click of user z after the clicks."""
    engine = new_engine(model, model_dir, f'[[trigger]]\nname = "cheaper"\nkind = "price_drop"\n{more}')
    hour = HOUR * (1 + int(max(one.second for one in sent)) // HOUR)
    return process(engine, list(enumerate(sorted([*sent, Sent(1, "z", hour + 1.0, item=9)], key=SECOND))))


def test_whoever_has_watched_an_item_is_told_that_it_is_cheaper(model: Model, model_dir: Path) -> None:
    """With both prices; not those who click it now, who have bought it, who saw the new price, or who are gone."""
    sent = [
        *CHEAPER,
        *(Sent(1, "bought", at, type_, 5, price=89.9) for at, type_ in ((1, "view"), (2, "purchase"))),
        *(Sent(1, "now", at, item=5, price=89.9) for at in (3, 3601)),
        *(Sent(1, "saw", at, item=5, price=price) for at, price in ((4, 89.9), (5, 69.9))),
        *(Sent(1, "gone", at, type_, 5, price=89.9) for at, type_ in ((6, "view"), (7, ""))),
        *(Sent(1, "two", 8 + at, item=item, price=price) for at, item, price in ((0, 5, 75.0), (1, 6, 8.0))),
        *(Sent(1, user, 3900, item=6, price=4.5) for user in "pq"),
    ]
    found = cheaper(model, model_dir, sent, 'without = ["purchase"]\n')
    hour_ms = START_MS + 2 * H
    assert found[0] == {
        "id": f"clicks-1/{hour_ms}/m:cheaper",
        "user_id": "m",
        "rule": "cheaper",
        "kind": "price_drop",
        "timestamp": hour_ms,
        "group": "treated",
        "items": ["i5"],
        "reason": "the price of i5 fell from 89.90 to 69.90",
        "model": "tiny/1",
    }
    assert [(one["user_id"], one["items"]) for one in found[1:]] == [("two", ["i6", "i5"])]
    assert found[1]["reason"] == "the price of i6 fell from 8.00 to 4.50"


@pytest.mark.parametrize(
    ("now", "told"),
    [
        ([0.01], []),
        ([0.01, 89.9], []),  # of two prices the higher one counts
        ([89.9, 0.01, 89.9], []),
        ([69.9, 0.01, 69.9], ["69.90"]),
        ([69.9, None], []),  # a click without a price has none
        ([69.9, 0.0], []),
        ([85.41, 85.41], []),  # 5 % of 89.90 are 4.495
        ([85.4, 85.4], ["85.40"]),
    ],
)
def test_a_wrong_price_in_a_single_message_brings_nothing(
    model: Model, model_dir: Path, now: list[float | None], told: list[str]
) -> None:
    """The price of an hour is the median of the users with one, at least two."""
    sent = [Sent(1, "m", 0, item=5, price=89.9)]
    sent += [Sent(1, f"n{n}", 3700.0 + n, item=5, price=price) for n, price in enumerate(now)]
    sent += [Sent(1, "n0", 3800.0 + n, item=5, price=now[0]) for n in range(3)]  # a user counts once
    found = cheaper(model, model_dir, sent)
    assert [one["reason"].rpartition(" ")[2] for one in found] == told


@pytest.mark.parametrize(("now", "told"), [(17.91, 1), (17.92, 0)])
def test_a_drop_of_just_the_share_counts(model: Model, model_dir: Path, now: float, told: int) -> None:
    """10 % of 19.90 are 1.99; a row keeps neither price exactly."""
    sent = [Sent(1, "m", 0, item=5, price=19.9), *(Sent(1, user, 3700, item=5, price=now) for user in "no")]
    assert len(cheaper(model, model_dir, sent, "drop = 0.1\n")) == told


def test_a_drop_is_told_once_if_the_file_has_no_shorter_cooldown(model: Model, model_dir: Path) -> None:
    """For nine days others click the item at the new price. The click at the old one is too old after seven."""
    sent = [Sent(1, "m", 0, item=5, price=89.9)]
    sent += [Sent(1, user, HOUR * hour, item=5, price=69.9) for hour in range(1, 9 * 24) for user in "no"]
    rule = '[[trigger]]\nname = "cheaper"\nkind = "price_drop"\n'
    found = {}
    for more in ("", 'cooldown = "1d"\n'):
        engine = open_engine(
            model, model_dir, 3, 1, 0.001, forget_after_days=90, triggers=parse_triggers(rule + more, "")
        )
        found[more] = [one for at in enumerate(sent) for one in process(engine, [at])]
    assert [one["user_id"] for one in found[""]] == ["m"]
    assert len(found['cooldown = "1d"\n']) == 7


def test_prices_of_before_are_there_after_a_recovery(model: Model, model_dir: Path) -> None:
    """From the rows of the changelog, the same trigger follows."""
    before, after = new_engine(model, model_dir), new_engine(model, model_dir)
    for at in enumerate(CHEAPER):
        process(before, [at])
    after.arena.hold(PARTITIONS[1])
    after.arena.load(PARTITIONS[1], before.arena.rows(PARTITIONS[1]))
    after.arena.advance(PARTITIONS[1], before.arena.newest_ms(PARTITIONS[1]))
    found = [process(engine, [(3, Sent(1, "z", 7300))]) for engine in (before, after)]
    assert found[0] == found[1]
    assert ("cheaper", "m") in [(one["rule"], one["user_id"]) for one in found[0]]


@pytest.fixture
def shelved(model: Model, model_dir: Path, tmp_path: Path) -> Callable[[str], Engine]:
    """Makes an engine with rules from a file, and a catalogue in which i1 and i3 are boots and i2 is a hat."""
    (tmp_path / "items.csv").write_text("item_id,category\ni1,boots\ni2,hats\ni3,boots\n")

    def made(file: str) -> Engine:
        rules = Rules(catalogue=str(tmp_path / "items.csv"))
        return open_engine(model, model_dir, 3, 1, 0.001, rules, triggers=parse_triggers(file, "test"))

    return made


def test_a_category_trends_as_an_item_does(shelved: Callable[[str], Engine]) -> None:
    """The message has the items of the category that the user has clicked."""
    engine = shelved(FILE.replace('"hot-carts"\nkind = "trending"', '"hot-carts"\nkind = "trending"\nof = "category"'))
    sent = [*TREND[:-2], Sent(1, "i", 3800, "cart", 3), TREND[-1]]
    found = [event for event in process(engine, list(enumerate(sent))) if event["rule"] == "hot-carts"]
    assert [(event["user_id"], event["items"]) for event in found] == [("f", ["i1"])]
    assert found[0]["reason"] == (
        "boots trends: 2 of 2 clicks in the hour, and 1 of 2 in the 9h before; "
        "of a user's clicks on one category in an hour one counts"
    )


def test_a_rule_on_categories_needs_a_catalogue(model: Model, model_dir: Path) -> None:
    with pytest.raises(ConfigError, match="needs a catalogue with categories: set --catalogue"):
        new_engine(model, model_dir, FILE.replace('kind = "trending"', 'kind = "trending"\nof = "category"'))


def test_what_the_same_users_click_each_hour_does_not_trend(model: Model, model_dir: Path) -> None:
    """Each hour counts for itself: 40 users come back to i1 hour after hour, and others click many items once."""
    file = '[[trigger]]\nname = "hot"\nkind = "trending"\nleast = 5\n'
    engine = new_engine(model, model_dir, file)
    sent = [Sent(0, f"r{n}", HOUR * hour + n, item=1) for hour in range(9) for n in range(40)]
    sent += [Sent(0, f"o{hour}-{n}", HOUR * hour + 100 + n, item=2 + n % 9) for hour in range(9) for n in range(90)]
    assert process(engine, list(enumerate(sorted(sent, key=SECOND)))) == []
