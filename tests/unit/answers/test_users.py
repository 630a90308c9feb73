"""Answers from rows, compared with the decisions that the engine made for the same clicks."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest

from stream.answers.asked import Asked
from stream.answers.users import Users, with_episodes
from stream.detect.windows import MOST_GAP_MS
from stream.engine.engine import Engine
from stream.errors import Unanswered
from stream.events import Click, Partition, Recommendation, click_of
from stream.model.runtime import load_model
from stream.settings import Rules
from stream.state.evict import DAY_MS
from stream.web.alerts import KEPT, Alerts
from stream.worker.served import open_engine
from tests.decide import process, run
from tests.unit.web.test_alerts import anomaly

ONE = Partition("clicks", 0)
START_MS = 1_700_000_000_000
EVERYWHERE = frozenset({0})

CATALOGUE = "item_id,category,in_stock\n" + "".join(f"i{n},c{n % 5},{n % 7 > 0}\n" for n in range(45))
RULES = {
    "none": Rules(),
    "held": Rules(exclude_events="purchase"),
    "unknown": Rules(popular_if_unknown=True),
    "available": Rules(catalogue="FILE", only_available=True),
    "category": Rules(catalogue="FILE", same_category=True),
    "diverse": Rules(catalogue="FILE", diversity=0.7, max_per_category=2),
    "explore": Rules(explore=0.4, explore_seed=3),
    "all": Rules(exclude_events="cart", catalogue="FILE", only_available=True, max_per_category=3, explore=0.3),
}


def clicks(count: int = 60) -> list[Click]:
    types = ("view", "cart", "view", "purchase", "view")
    return [
        Click(f"u{n % 4}", f"i{n * n % 55}", START_MS + 1000 * n, types[n % 5]) for n in range(count)
    ]  # i50 to i54 are unknown to the model


def engine_of(model_dir: Path, tmp_path: Path, rules: Rules, k: int = 6, exclude_recent: int = 3) -> Engine:
    if rules.catalogue:
        path = tmp_path / "items.csv"
        path.write_text(CATALOGUE)
        rules = Rules(**{**{f: getattr(rules, f) for f in rules.__struct_fields__}, "catalogue": str(path)})
    return open_engine(load_model(model_dir, "cpu"), model_dir, k, exclude_recent, 0.01, rules)


def last_of(decisions: list[Recommendation]) -> dict[str, Recommendation]:
    return {decision.user_id: decision for decision in decisions}


@pytest.mark.parametrize("name", RULES)
def test_the_answer_is_the_decision_on_the_last_click(model_dir: Path, tmp_path: Path, name: str) -> None:
    """Items, log probabilities and propensities, bit for bit, under each rule; and after every batch again."""
    engine = engine_of(model_dir, tmp_path, RULES[name])
    users = Users(engine, lambda: {ONE: 0})
    made, decided = clicks(), {}
    for start in range(0, 60, 12):
        decided |= last_of(run(engine, made[start : start + 12], start).recommendations)
        for user, want in decided.items():
            got = users.recommendations(user.encode(), Asked(6), None).answer
            assert got is not None
            fields = ("user_id", "items", "log_probs", "timestamp", "model")
            assert {field: got[field] for field in fields} == {field: getattr(want, field) for field in fields}
            assert (got["known"], got["last_click"]) == (True, click_of(want.id))
            assert (got.get("propensities"), got.get("explored")) == (want.propensities, want.explored)


def test_items_that_a_rule_held_before_count_only_with_the_rule(model_dir: Path, tmp_path: Path) -> None:
    """The rows keep them after a restart without --exclude-events; neither decisions nor answers leave them out."""
    before, engine = (engine_of(model_dir, tmp_path, rules) for rules in (RULES["held"], Rules()))
    made = clicks()
    run(before, made[:40])
    engine.arena.load(ONE, before.arena.rows(ONE))
    held = engine.arena.gather(engine.arena.find([(ONE, b"u3")]).slots)["held"]
    assert (held >= 0).any()
    want = last_of(run(engine, made[40:], 40).recommendations)["u3"]
    got = Users(engine, lambda: {ONE: 0}).recommendations(b"u3", Asked(6), None).answer
    assert got is not None
    assert (got["last_click"], got["items"]) == (click_of(want.id), want.items)


def test_an_answer_has_no_click_that_is_not_committed(model_dir: Path, tmp_path: Path) -> None:
    """Between the decision and the commit of its transaction, the answer is that of before."""
    engine = engine_of(model_dir, tmp_path, Rules())
    users = Users(engine, lambda: {ONE: 0})
    made = clicks()
    before = last_of(run(engine, made[:20]).recommendations)["u1"]
    cycle = process(engine, made[20:30], 20)
    got = users.recommendations(b"u1", Asked(6), None).answer
    assert got is not None
    assert (got["last_click"], got["items"]) == (click_of(before.id), before.items)
    engine.commit(cycle.cycle)
    after = last_of(cycle.recommendations)["u1"]
    got = users.recommendations(b"u1", Asked(6), None).answer
    assert got is not None
    assert (got["last_click"], got["items"]) == (click_of(after.id), after.items)


def test_limits_of_a_request_shorten_the_full_ranking(model_dir: Path, tmp_path: Path) -> None:
    """k, exclude and category give what they leave of the whole catalogue; the worker's own lists stay as they are."""
    engine = engine_of(model_dir, tmp_path, RULES["available"])
    users = Users(engine, lambda: {ONE: 0})
    want = last_of(run(engine, clicks()).recommendations)["u2"]

    def items(k: int, exclude: tuple[str, ...] = (), category: str | None = None) -> list[str]:
        answer = users.recommendations(b"u2", Asked(k, exclude, category), None).answer
        assert answer is not None
        found: list[str] = answer["items"]
        return found

    whole = items(1000)
    assert items(6) == want.items == whole[:6]
    assert items(1) == whole[:1]
    left_out = (whole[0], whole[3], "i1000", "never seen")
    assert items(6, left_out) == [item for item in whole if item not in left_out][:6]
    assert items(4, (), "c2") == [item for item in whole if int(item[1:]) % 5 == 2][:4]
    with pytest.raises(Unanswered, match="no category 'shoes'"):
        items(4, (), "shoes")
    assert items(6) == want.items
    for rules in (Rules(), Rules(explore=0.1)):
        with pytest.raises(Unanswered, match="category needs a catalogue"):
            Users(engine_of(model_dir, tmp_path, rules), dict).recommendations(b"x", Asked(3, (), "c1"), frozenset())


def test_only_partitions_that_this_worker_has_are_looked_in(model_dir: Path, tmp_path: Path) -> None:
    """Rows of a partition that was lost, or is still being read, are no answer; then there is none without a row."""
    engine = engine_of(model_dir, tmp_path, Rules())
    run(engine, clicks())
    held: dict[Partition, int] = {Partition("clicks", 3): 0}
    users = Users(engine, lambda: held)
    for found in (users.recommendations(b"u1", Asked(5), EVERYWHERE), users.state(b"u1", 5)):
        assert (found.answer, found.partitions) == (None, {3})
    held[ONE] = 60
    assert users.state(b"u1", 5).answer is not None
    assert users.recommendations(b"nobody", Asked(5), None).answer is None
    new = users.recommendations(b"nobody", Asked(5), frozenset({0, 3})).answer
    assert new is not None
    state = [np.zeros((1, *tensor.shape), tensor.dtype) for tensor in engine.model.manifest.state]
    names = [tensor.name for tensor in engine.model.manifest.state]
    ranked, _ = engine.model.score([state[names.index(name)] for name in engine.model.score_inputs], 5)
    assert new["items"] == [engine.model.items[i] for i in ranked[0]]
    assert (new["known"], new["last_click"], new["timestamp"]) == (False, None, None)


def test_the_state_of_a_user_is_what_the_clicks_say(model_dir: Path, tmp_path: Path) -> None:
    """Counted from the clicks by hand; a user who is forgotten by the partition's time is unknown."""
    engine = engine_of(model_dir, tmp_path, Rules())
    users, made = Users(engine, lambda: {ONE: 0}), clicks()
    run(engine, made)
    theirs = [click for click in made if click.user_id == "u3"]
    state = users.state(b"u3", 4).answer
    assert state is not None
    assert (state["clicks"], state["timestamp"]) == (15, theirs[-1].timestamp)
    assert (state["last_click"], state["partition"], state["model"]) == ("clicks-0-59", 0, "tiny/1")
    items = [click.item_id if int(click.item_id[1:]) < 50 else None for click in reversed(theirs)]
    assert state["last_items"] == items[: len(state["last_items"])]
    probabilities = [belief["probability"] for belief in state["beliefs"]]
    assert probabilities == sorted(probabilities, reverse=True)
    assert len(probabilities) == 4
    assert 0 < sum(probabilities) < 1
    before = state["item_p_values"]
    assert len(before) == 10
    assert all(0 < p <= 1 for p in before)
    assert len(set(before)) > 5
    run(engine, [Click("u3", "i1", START_MS + DAY_MS), Click("one", "i1", START_MS + DAY_MS)], 60)
    again, first = users.state(b"u3", 4).answer, users.state(b"one", 4).answer
    assert again is not None
    assert first is not None
    assert again["item_p_values"][1:] == before[:-1]
    assert len(first["item_p_values"]) == 1
    run(engine, [Click("later", "i1", START_MS + 92 * DAY_MS)], 62)
    assert users.state(b"u3", 4).answer is None


def test_the_last_clicks_have_their_times_names_and_p_values(model_dir: Path, tmp_path: Path) -> None:
    """Oldest first. The time of a late click is not in the row, and a name that the model does not know is null."""
    engine = engine_of(model_dir, tmp_path, Rules())
    users = Users(engine, lambda: {ONE: 0})
    sent = [(0, "i1", "view"), (5_001, "i2", "cart"), (3_000, "i52", "view"), (9_000_007, "i3", "share")]
    run(engine, [Click("ann", item, START_MS + after_ms, kind) for after_ms, item, kind in sent])
    state = users.state(b"ann", 3).answer
    assert state is not None
    shown = [(one["timestamp"], one["item_id"], one["event_type"]) for one in state["last_clicks"]]
    assert shown == [
        (START_MS, "i1", "view"),
        (START_MS + 5_001, "i2", "cart"),
        (None, None, "view"),
        (START_MS + 9_000_007, "i3", None),
    ]
    assert [one["p_value"] for one in state["last_clicks"]] == state["item_p_values"][::-1]
    run(engine, clicks(), 4)
    state = users.state(b"u3", 3).answer
    assert state is not None
    theirs = [one for one in clicks() if one.user_id == "u3"][-10:]
    assert [(one["timestamp"], one["event_type"]) for one in state["last_clicks"]] == [
        (one.timestamp, one.event_type) for one in theirs
    ]


def test_a_click_before_a_pause_that_the_row_cannot_hold_has_no_time(model_dir: Path, tmp_path: Path) -> None:
    """The row has 24 days for a longer pause, too; a shorter one is exact."""
    engine = engine_of(model_dir, tmp_path, Rules())
    users = Users(engine, lambda: {ONE: 0})
    times = [START_MS, START_MS + 10, START_MS + 10 + MOST_GAP_MS - 1]
    run(engine, [Click("ann", "i1", time_ms) for time_ms in times])
    run(engine, [Click("bob", "i1", time_ms) for time_ms in (START_MS, START_MS + 10, times[-1] + 1)], 3)
    found = [users.state(user, 3).answer for user in (b"ann", b"bob")]
    assert [state and [one["timestamp"] for one in state["last_clicks"]] for state in found] == [
        times,
        [None, None, times[-1] + 1],
    ]


def test_episodes_are_those_of_the_alerts_and_the_last_one_of_the_row(model_dir: Path) -> None:
    """Each once, the newest first. After a restart of the worker only the row's is left, without reason and begin."""
    engine = open_engine(load_model(model_dir, "cpu"), model_dir, 5, 1, 0.05)
    users, alerts = Users(engine, lambda: {ONE: 0}), Alerts()
    sent = [Click("bot", "i1", START_MS + day * DAY_MS + 1000 * n) for day in (0, 1) for n in range(12)]
    raised = [*run(engine, sent).anomalies]
    assert len({one.episode for one in raised}) == 2
    alerts.add(raised)
    state = users.state(b"bot", 3).answer
    assert state is not None
    found = with_episodes(state, alerts.latest(KEPT, "bot"))["episodes"]
    assert [one["id"] for one in found] == [raised[-1].episode, raised[0].episode]
    for one in found:
        of_it = [alert for alert in raised if alert.episode == one["id"]]
        assert (one["opened"], one["alerts"]) == (of_it[0].timestamp, len(of_it))
        assert (one["p_value"], one["reason"]) == (of_it[-1].p_value, of_it[-1].reason)
    assert found[0]["updated"] == state["episode"]["timestamp"] > found[1]["updated"]
    [left] = with_episodes(state, [])["episodes"]
    assert left == found[0] | {"opened": None, "alerts": 0, "reason": None, "p_value": left["p_value"]}
    assert left["p_value"] == pytest.approx(found[0]["p_value"], rel=1e-5)
    assert state["episode"]["id"] == left["id"]


def test_an_episode_whose_first_alert_is_not_kept_has_no_begin() -> None:
    """Its last unusual click is the newest that is known: of the alerts, which may come late, or of the row."""
    first, late = anomaly(7), msgspec.structs.replace(anomaly(9), episode="clicks-0-7", timestamp=0, reason="two items")
    kept = [msgspec.to_builtins(one) for one in (late, first)]
    of_row = {"id": "clicks-0-7", "opened": None, "updated": 5, "alerts": 0, "p_value": 0.1, "reason": None}
    want = {"id": "clicks-0-7", "opened": 1, "updated": 1, "alerts": 2, "p_value": 1e-5, "reason": "two items"}
    assert with_episodes({"episodes": []}, kept) == {"episodes": [want]}
    [cut] = with_episodes({"episodes": [of_row]}, kept[:1])["episodes"]
    assert cut == want | {"opened": None, "updated": 5, "alerts": 1}


def test_the_state_of_a_user_has_what_was_predicted_after_the_last_click(ahead_dir: Path, tmp_path: Path) -> None:
    """From the row, so the decision and the answer are equal to the last digit: in the first session and in later ones,
    after an event type that the model does not know, and after a click that came again."""
    engine = engine_of(ahead_dir, tmp_path, Rules())
    users = Users(engine, lambda: {ONE: 0})
    sent = [*clicks(), *(msgspec.structs.replace(one, timestamp=one.timestamp + DAY_MS // 5) for one in clicks(24))]
    sent += [Click("u0", "i3", START_MS + DAY_MS, "share", event_id="e"), Click("u1", "i3", START_MS + DAY_MS, "cart")]
    sent += [Click("u2", "i1", START_MS + DAY_MS + after_ms, "view") for after_ms in (0, 900, 700_000, 760_000)]
    told = {}
    for offset in range(0, len(sent), 2):
        told |= {one.user_id: one for one in run(engine, sent[offset : offset + 2], offset).recommendations}
        for user, last in told.items():
            _assert_predicted(users, user, last)
    run(engine, [Click("u0", "i3", START_MS + DAY_MS + 9_000, "share", event_id="e")], len(sent))
    _assert_predicted(users, "u0", told["u0"])
    late = run(engine, [Click("u1", "i4", START_MS + DAY_MS - 60_000, "view")], len(sent) + 1).recommendations[0]
    state = users.state(b"u1", 4).answer
    assert state is not None
    assert late.next is not None
    assert state["next"] == pytest.approx(late.next, abs=0.01)  # but for the time of the day


def _assert_predicted(users: Users, user: str, last: Recommendation) -> None:
    state = users.state(user.encode(), 4).answer
    assert state is not None
    assert (state["next"], state["leaves"]) == (last.next, last.leaves)
    assert (state["intent"], state["returns_7d"]) == (last.intent, last.returns_7d)


def test_answers_beside_cycles_are_whole(model_dir: Path, tmp_path: Path) -> None:
    """While another thread decides and commits, every answer is the decision on the click that it names."""
    engine = engine_of(model_dir, tmp_path, Rules())
    users, made = Users(engine, lambda: {ONE: 0}), clicks(400)
    decided: dict[str, Recommendation] = {}

    def decide() -> None:
        for start in range(0, 400, 5):
            found = process(engine, made[start : start + 5], start)
            decided.update({click_of(one.id): one for one in found.recommendations})
            engine.commit(found.cycle)

    answers = []
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(decide)
        while not future.done():
            answers += [users.recommendations(b"u%d" % n, Asked(6), None).answer for n in range(4)]
        future.result()
    known = [answer for answer in answers if answer is not None]
    assert len({answer["last_click"] for answer in known}) > 20
    for answer in known:
        want = decided[answer["last_click"]]
        assert (answer["user_id"], answer["items"]) == (want.user_id, want.items)
        assert answer["log_probs"] == want.log_probs
