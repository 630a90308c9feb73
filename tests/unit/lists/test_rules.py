"""Lists under rules against a slow version: filter the whole ranking, then fill slot by slot."""

import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream.engine.engine import Engine
from stream.events import Click, Partition
from stream.lists.rules import CompiledRules, pick
from stream.lists.shape import WINDOW, Shape
from stream.model.runtime import Model, load_model
from stream.settings import Rules
from stream.wire.json import encode
from stream.worker.served import open_engine
from tests.decide import run

START_MS = 1_700_000_000_000
ITEMS = 50
FOUR = ["shoes", "boots", "hats", None]


@pytest.fixture(scope="module")
def model(model_dir: Path) -> Model:
    return load_model(model_dir, "cpu")


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> str:
    """i0, i4, ... are shoes, i1, ... boots, i2, ... hats, i3, ... of no category; every fifth item is out of stock."""
    path = tmp_path_factory.mktemp("shop") / "items.jsonl"
    lines = [
        {
            "item_id": f"i{n}",
            "category": FOUR[n % 4],
            "in_stock": n % 5 > 0,
            "market": ["de"] if n < 25 else ["de", "at"],
        }
        for n in range(ITEMS)
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return str(path)


def click(user: str, item: str, event_type: str = "view", category: str | None = None) -> Click:
    return Click(user, item, START_MS, event_type, category=category)


def engine_of(model: Model, directory: Path, rules: Rules, k: int = 10, exclude_recent: int = 0) -> Engine:
    return open_engine(model, directory, k, exclude_recent, 0.05, rules)


def last(model: Model, directory: Path, rules: Rules, clicks: list[Click], k: int = 10) -> list[str]:
    """The list after the last click."""
    return run(engine_of(model, directory, rules, k), clicks).recommendations[-1].items


def slow_list(ranking: list[tuple[int, float]], category: list[int], shape: Shape) -> list[int]:
    """The list from the allowed part of the full ranking, one slot at a time."""
    first, beyond = ranking[: shape.window], ranking[shape.window :]
    chosen: list[int] = []
    for part in (first, beyond):  # what lies beyond the window is looked at only when nothing of it is left
        left = dict(part)
        while left and len(chosen) < shape.k:
            held = Counter(category[i] for i in chosen if category[i] >= 0)
            worth = {i: p - (shape.penalty if held[category[i]] else 0.0) for i, p in left.items()}
            worth = {i: w for i, w in worth.items() if not shape.cap or held[category[i]] < shape.cap}
            if not worth:
                break
            best = max(worth, key=lambda i: worth[i])  # the first of equals: dicts keep the ranking's order
            chosen.append(best)
            del left[best]
    return chosen


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(data=st.data())
def test_lists_under_rules_equal_those_of_the_full_ranking(model: Model, data: st.DataObject) -> None:
    """For any excluded items and categories, the list and the rest of its window equal the slow version's."""
    users = data.draw(st.integers(1, 4))
    rng = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    state = [
        (
            rng.uniform(-1, 1, (users, *t.shape)) if t.dtype == "float32" else rng.integers(0, 8, (users, *t.shape))
        ).astype(t.dtype)
        for t in model.manifest.state
        if t.name in model.score_inputs
    ]
    left_out = rng.integers(-1, ITEMS + 1, (users, data.draw(st.integers(0, 4)))).astype(np.int32)
    allowed = rng.random(ITEMS) < data.draw(st.sampled_from([0.05, 0.5, 1.0]))
    common = data.draw(st.sampled_from([0.25, 0.9]))  # one category may fill a whole window
    category = np.where(rng.random(ITEMS) < common, 0, rng.integers(-1, 4, ITEMS)).astype(np.int32)
    wanted = data.draw(st.none() | st.lists(st.integers(-1, 3), min_size=users, max_size=users))
    k, cap = data.draw(st.sampled_from([1, 3, 8, 60])), data.draw(st.sampled_from([0, 1, 2]))
    penalty, explored = data.draw(st.sampled_from([0.0, 0.3, 9.0])), data.draw(st.booleans())
    shape = Shape(k, WINDOW * k if penalty or explored else k, cap, penalty)
    compiled = CompiledRules(allowed, category, {str(code): code for code in range(4)})
    mine = None if wanted is None else np.array(wanted, np.int32)
    picked = pick(model, state, left_out, compiled, mine, shape)

    ranked, log_probs = model.score(state, ITEMS)
    for user in range(users):
        ranking = [
            (i, p)
            for i, p in zip(ranked[user].tolist(), log_probs[user].tolist(), strict=True)
            if allowed[i] and i not in left_out[user] and (wanted is None or wanted[user] in (-1, category[i]))
        ]
        want = slow_list(ranking, category.tolist(), shape)
        assert picked.items[user, : picked.counts[user]].tolist() == want
        assert picked.log_probs[user, : picked.counts[user]].tolist() == [dict(ranking)[i] for i in want]
        if shape.window > k:
            spare = [i for i, _ in ranking[: shape.window] if i not in want]
            assert picked.spare[user, : picked.spares[user]].tolist() == spare


CLICKS = st.lists(
    st.builds(
        click,
        user=st.sampled_from(["a", "b", "c"]),
        item=st.sampled_from([f"i{n}" for n in range(8)] + ["never seen"]),
        event_type=st.sampled_from(["view", "cart", "purchase", "remove"]),
        category=st.sampled_from([None, None, "hats", "gloves"]),
    ),
    max_size=20,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(clicks=CLICKS, cuts=st.lists(st.integers(0, 20), max_size=3))
def test_with_every_rule_on_batches_equal_single_clicks(
    model: Model, model_dir: Path, catalogue: str, clicks: list[Click], cuts: list[int]
) -> None:
    """A redelivered click gives the same bytes in any cycle, also for explored slots."""
    rules = Rules(
        exclude_events="cart,purchase",
        readmit_events="remove",
        catalogue=catalogue,
        only_available=True,
        same_category=True,
        max_per_category=3,
        diversity=0.5,
        popular_if_unknown=True,
        explore=0.3,
    )
    edges = sorted({0, len(clicks), *(cut for cut in cuts if cut < len(clicks))})
    together, single = (engine_of(model, model_dir, rules, k=4, exclude_recent=1) for _ in range(2))
    batched = [r for a, b in itertools.pairwise(edges) for r in run(together, clicks[a:b], a).recommendations]
    alone = [r for i, one in enumerate(clicks) for r in run(single, [one], i).recommendations]
    assert list(map(encode, batched)) == list(map(encode, alone))
    one = Partition("clicks", 0)
    assert together.arena.rows(one) == single.arena.rows(one)


def test_an_item_bought_long_ago_is_left_out_until_it_is_readmitted(model: Model, model_dir: Path) -> None:
    """exclude_events lasts longer than the recent clicks; readmit_events allows the item again; views exclude
    nothing."""
    rules = Rules(exclude_events="cart,buy", readmit_events="remove")
    views = [click("u", f"i{n % 5}") for n in range(20)]
    clicks = [click("u", "i30", "buy"), click("u", "i31", "cart"), *views]
    assert set(last(model, model_dir, rules, clicks, k=50)) == set(model.items) - {"i30", "i31"}
    assert set(last(model, model_dir, rules, [*clicks, click("u", "i31", "remove")], k=50)) == set(model.items) - {
        "i30"
    }
    assert len(last(model, model_dir, rules, clicks, k=10)) == 10


def test_sixteen_different_items_are_excluded_and_a_repeat_counts_once(model: Model, model_dir: Path) -> None:
    """The row has the last 16 different items bought."""
    rules = Rules(exclude_events="buy")
    clicks = [click("u", f"i{n}", "buy") for n in range(17) for _ in range(3)] + [click("u", "unknown", "buy")]
    assert set(last(model, model_dir, rules, clicks, k=50)) == set(model.items) - {f"i{n}" for n in range(1, 17)}


def test_only_what_the_catalogue_allows_is_recommended(model: Model, model_dir: Path, catalogue: str) -> None:
    """A list has only items in stock, of the requested categories and market; and none of these is missing."""
    rules = Rules(catalogue=catalogue, only="category=shoes,boots; market=at", only_available=True)
    want = {f"i{n}" for n in range(25, 50) if n % 4 < 2 and n % 5}
    assert set(last(model, model_dir, rules, [click("u", "i0")], k=50)) == want


def test_same_category_follows_the_click(model: Model, model_dir: Path, catalogue: str) -> None:
    """The click's own category is used, else its item's; without a known category there is no restriction."""
    rules = Rules(catalogue=catalogue, same_category=True)
    hats = {f"i{n}" for n in range(50) if n % 4 == 2}
    assert set(last(model, model_dir, rules, [click("u", "i2")], k=50)) == hats
    assert set(last(model, model_dir, rules, [click("u", "i1", category="hats")], k=50)) == hats
    assert set(last(model, model_dir, rules, [click("u", "i2", category="gloves")], k=50)) == hats
    assert len(last(model, model_dir, rules, [click("u", "unheard of")], k=50)) == 50


def test_at_most_n_of_a_category_and_the_list_stays_full(model: Model, model_dir: Path, catalogue: str) -> None:
    """Items without a category are not counted; the list is filled with lower-ranked items."""
    found = last(model, model_dir, Rules(catalogue=catalogue, max_per_category=2), [click("u", "i0")])
    assert len(found) == 10
    of = Counter(FOUR[int(item[1:]) % 4] for item in found)
    assert all(of[category] == 2 for category in FOUR[:3])


def test_diversity_spreads_a_list_over_more_categories(model: Model, model_dir: Path, catalogue: str) -> None:
    """With a strong penalty a list has every category before it repeats one."""
    found = last(model, model_dir, Rules(catalogue=catalogue, diversity=0.95), [click("u", "i0")], k=10)
    of = [FOUR[int(item[1:]) % 4] for item in found]
    named = [category for category in of if category]
    assert len(set(named[:3])) == 3


def test_a_user_of_unknown_items_only_gets_a_new_users_list(model: Model, model_dir: Path) -> None:
    """popular_if_unknown: a state of unknown items is not used until the user clicks a known item."""
    zero = [np.zeros((1, *tensor.shape), tensor.dtype) for tensor in model.manifest.state]
    read = [value for value, t in zip(zero, model.manifest.state, strict=True) if t.name in model.score_inputs]
    popular = [model.items[i] for i in model.score(read, 10)[0][0].tolist()]
    clicks = [click("u", f"new {n}") for n in range(3)]
    on, off = Rules(popular_if_unknown=True), Rules()
    assert last(model, model_dir, on, clicks) == popular != last(model, model_dir, off, clicks)
    clicks.insert(1, click("u", "i7"))
    assert last(model, model_dir, on, clicks) == last(model, model_dir, off, clicks)


def test_without_exploration_a_decision_has_no_fields_of_it(model: Model, model_dir: Path) -> None:
    """Without exploration a decision has no more bytes than before."""
    decision = json.loads(encode(run(engine_of(model, model_dir, Rules()), [click("u", "i1")]).recommendations[0]))
    assert not {"propensities", "explored"} & set(decision)
    explored = json.loads(
        encode(run(engine_of(model, model_dir, Rules(explore=0.5)), [click("u", "i1")]).recommendations[0])
    )
    assert len(explored["propensities"]) == len(explored["items"])


def test_a_changed_catalogue_is_used_and_a_broken_one_is_not(
    model: Model, model_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """refresh() reads a changed file; a bad one is one log line, and the lists stay as before."""
    path = tmp_path / "items.csv"
    path.write_text("item_id,available\n" + "".join(f"i{n},1\n" for n in range(5)))
    engine = engine_of(model, model_dir, Rules(catalogue=str(path), only_available=True))

    def shown(start: int) -> set[str]:
        engine.refresh()
        return set(run(engine, [click("u", "i0")], start).recommendations[0].items)

    assert shown(0) == {f"i{n}" for n in range(5)}
    path.write_text("item_id,available\ni7,1\ni8,0\n")
    assert shown(1) == {"i7"}
    for number, broken in enumerate(["item_id,available\ni1\n", "item_id,available\ni8,0\n", "item_id\ni1\n", ""]):
        path.write_text(broken)
        assert shown(2 + 2 * number) == {"i7"}
        assert shown(3 + 2 * number) == {"i7"}
        assert len(caplog.records) == number + 1
    path.unlink()
    assert shown(20) == {"i7"}
    path.write_text("item_id,available\ni9,1\n")
    assert shown(21) == {"i9"}


@pytest.mark.parametrize("text", ["", "garbage\n", "item_id,category\nother,boots\n"])
def test_a_catalogue_without_an_item_of_the_model_does_not_replace_one_that_has_some(
    model: Model, model_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    """Also where no rule needs its items: requests and triggers need their categories."""
    path = tmp_path / "items.csv"
    path.write_text("item_id,category\ni1,boots\n")
    engine = engine_of(model, model_dir, Rules(catalogue=str(path)))
    path.write_text(text)
    engine.refresh()
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "catalogue not loaded, the previous one stays in use"
    ]
    assert "no item of the model" in caplog.text
