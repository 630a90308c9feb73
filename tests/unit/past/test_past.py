"""What rows remember of the last clicks, and which of them a recommendation comes from."""

from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream.answers.asked import Asked
from stream.answers.users import Users
from stream.engine.engine import Engine
from stream.events import Click, Partition
from stream.model.runtime import Model, load_model
from stream.past.clicks import past_of
from stream.state.evict import DAY_MS
from stream.worker.served import open_engine
from tests.decide import run

CLICKS = Partition("clicks", 0)
START_MS = 1_700_000_000_000
R = 16


class Kept(NamedTuple):
    """A click as a plain loop keeps it. gap_ms: -1 before the user's first click, -2 before a late one."""

    item: str
    event_type: str
    gap_ms: int
    price: float | None


@pytest.fixture(scope="module")
def model(model_dir: Path) -> Model:
    return load_model(model_dir, "cpu")


def engine_of(model: Model, model_dir: Path) -> Engine:
    return open_engine(model, model_dir, 3, 0, 0.01, forget_after_days=1)


def row_of(engine: Engine, user: str) -> np.void:
    row: np.void = engine.arena.gather(engine.arena.find([(CLICKS, user.encode())]).slots)[0]
    return row


def twins(kept: list[Kept]) -> int:
    """Clicks of the last session that repeat the item of the click before within a second."""
    count = 0
    for before, click in pairwise([None, *kept]):
        if click.gap_ms == -1 or click.gap_ms >= 30 * 60_000:
            count = 0
        elif before.item == click.item and 0 <= click.gap_ms <= 1_000:
            count += 1
    return count


def hashed(name: str) -> int:
    return xxhash.xxh3_64_intdigest(name.encode())


CLICK = st.builds(
    Click,
    user_id=st.sampled_from("ab"),
    item_id=st.sampled_from(["i1", "i2", "i49", "new", "café"]),
    timestamp=st.integers(0, 40).map(lambda n: START_MS + n * n * 60_000)
    | st.integers(0, 3).map(lambda n: START_MS + n * DAY_MS),
    event_type=st.sampled_from(["view", "cart", "wish"]),
    event_id=st.none() | st.sampled_from("xy"),
    price=st.sampled_from([None, 0.0, 19.9, 1e300, 5e-324]),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(clicks=st.lists(CLICK, min_size=1, max_size=50), cuts=st.lists(st.integers(1, 49), max_size=4))
def test_a_row_remembers_the_last_clicks(model: Model, model_dir: Path, clicks: list[Click], cuts: list[int]) -> None:
    """As a plain loop does, for any split into batches: names that the model does not know, late and repeated clicks,
    and users who are forgotten after a day (with a single click after 8 hours)."""
    engine, kept, last_ms = engine_of(model, model_dir), defaultdict[str, list[Kept]](list), defaultdict[str, int](int)
    ids, now_ms = defaultdict[str, set[str | None]](set), 0
    edges = [0, *sorted(cut for cut in set(cuts) if cut < len(clicks)), len(clicks)]
    for start, end in pairwise(edges):
        run(engine, clicks[start:end], start)
    for click in clicks:
        user, now_ms = click.user_id, max(now_ms, click.timestamp)
        limit_ms = DAY_MS if len(kept[user]) > 1 else DAY_MS // 3
        if kept[user] and now_ms - last_ms[user] > limit_ms:
            kept[user], ids[user], last_ms[user] = [], set(), 0
        if click.event_id is None or click.event_id not in ids[user]:
            gap_ms = click.timestamp - last_ms[user] if kept[user] else -1
            late = kept[user] and gap_ms < 0
            kept[user].append(Kept(click.item_id, click.event_type, -2 if late else gap_ms, click.price))
            ids[user].add(click.event_id)
        last_ms[user] = max(click.timestamp, last_ms[user])
    for user, want in kept.items():
        row = row_of(engine, user)
        past = past_of(row)
        assert row["session_twins"] == twins(want)
        assert past.names.item.tolist() == [hashed(one.item) for one in want[-R:]]
        assert past.names.event_type.tolist() == [hashed(one.event_type) % 65536 for one in want[-R:]]
        assert past.gap_ms.tolist() == pytest.approx([one.gap_ms for one in want[-R:]], rel=3e-4)
        assert past.price.tolist() == pytest.approx([19.9 if one.price == 19.9 else 0 for one in want[-R:]], rel=1e-7)


def test_the_clicks_behind_a_list_are_those_without_which_it_is_less_likely(model: Model, model_dir: Path) -> None:
    """The fall of each item's log-probability is that of an engine which never got the click."""
    clicks = [Click("u", f"i{n * 7 % 50}", START_MS + n * 40_000, ("view", "cart")[n % 2]) for n in range(5)]
    whole = engine_of(model, model_dir)
    run(whole, clicks)
    answer, _, because = Users(whole, lambda: {CLICKS: 0}).recommendations(b"u", Asked(4, because=16), None)
    assert answer is not None
    assert because is not None

    def log_probs(engine: Engine) -> list[float]:
        row = row_of(engine, "u")
        ranked, found = model.score([row[name][None] for name in model.score_inputs], 50)
        by_item = dict(zip(ranked[0].tolist(), found[0].tolist(), strict=True))
        return [by_item[model.index[item]] for item in answer["items"]]

    every, fall = np.array(log_probs(whole)), np.zeros((5, 4))
    for left_out in range(5):
        without = engine_of(model, model_dir)
        run(without, clicks[:left_out] + clicks[left_out + 1 :])
        fall[left_out] = every - log_probs(without)
    for at, named in enumerate(because()["because"]):
        found = {4 - one["clicks_ago"]: one for one in named}
        assert found.keys() == set(np.flatnonzero(fall[:, at] > 0).tolist())
        assert [one["nats"] for one in named] == sorted((one["nats"] for one in named), reverse=True)
        for click, one in found.items():
            assert one["nats"] == pytest.approx(fall[click, at], abs=1e-4)
            assert (one["item_id"], one["event_type"]) == (clicks[click].item_id, clicks[click].event_type)


@pytest.mark.parametrize("sent", [[], ["i3"], ["never seen"], ["i3"] * 40])
def test_any_history_has_an_answer(model: Model, model_dir: Path, sent: list[str]) -> None:
    """A user without clicks has no reasons; one click, an unknown item and more clicks than a row has are no error."""
    engine = engine_of(model, model_dir)
    run(engine, [Click("u", item, START_MS + n * 1000, "wish") for n, item in enumerate(sent)])
    because = Users(engine, lambda: {CLICKS: 0}).recommendations(b"u", Asked(2, because=1), frozenset()).because
    assert because is not None
    assert [len(named) <= min(1, len(sent)) for named in because()["because"]] == [True, True]
    for named in because()["because"]:
        assert all(one["item_id"] == (sent[0] if sent[0] == "i3" else None) for one in named)
        assert all(one["event_type"] is None for one in named)
