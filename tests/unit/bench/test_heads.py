"""What the heads and the shortlist are measured with must itself be right."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench import cpu, shortlist
from bench.cases import Case, held_out_case, surprises
from bench.graph_parity import by_steps
from bench.heads import ExactHead, judged_by, popularity_clusters, two_level_logits
from bench.new_items import auc, scrapers
from export.dataset.windows import Clicks
from export.fit.mixture import set_mixture
from export.log.log import GAP_EDGES_MS, Vocabulary, read_log
from export.model.graph import open_graph
from export.network.mixture import AGES
from export.network.network import Network, Sizes
from export.network.surprise import SurpriseHead

ITEMS, USERS, EACH = 12, 5, 8


def some_clicks() -> Clicks:
    """EACH clicks of each of USERS users on random items, unknown ones among them, after pauses of any length."""
    rng = np.random.default_rng(0)
    count = USERS * EACH
    item = rng.integers(0, ITEMS + 1, count).astype(np.int32)
    gap = rng.integers(1, len(GAP_EDGES_MS) + 2, count).astype(np.uint8)
    gap[::EACH] = 0
    user = np.repeat(np.arange(USERS, dtype=np.int32), EACH)
    none = np.zeros(count, np.int32)
    return Clicks(item, none, gap, none - 1, none > 0, user, np.arange(count, dtype=np.int64))


def network() -> Network:
    """Untrained, with neighbours counted in those clicks and gates that let them in."""
    torch.manual_seed(0)
    made, clicks = Network(Sizes(ITEMS, 1, len(GAP_EDGES_MS) + 2, 8)), some_clicks()
    set_mixture(made, clicks, np.ones(len(clicks)))
    made.mixture.gates.copy_(torch.randn(made.mixture.gates.shape))
    made.mixture.temperature.fill_(1.5)
    made.surprise = SurpriseHead(np.arange(ITEMS) % 3, made.item_rows[:-1].detach(), made.item_bias[:-1].detach(), 5)
    return made.eval()


def case() -> Case:
    clicks, items = some_clicks(), [f"i{i}" for i in range(ITEMS)]
    weight, later = np.ones(len(clicks)), np.ones(len(clicks), np.bool_)
    return Case(network(), Vocabulary(items, ("view",), GAP_EDGES_MS), clicks, weight, clicks, later, clicks.item, 5)


def test_surprise_is_what_the_served_step_says() -> None:
    """Of each click, first ones and those after a pause among them, whichever rows are asked for."""
    net, clicks = network(), some_clicks()
    rows = np.flatnonzero(np.arange(len(clicks)) % 3 != 1)
    _, served = surprises(net, net.surprise, clicks, rows)
    np.testing.assert_allclose(served, by_steps(net, clicks, k=3).surprise[rows], atol=1e-5)


def test_exact_probabilities_of_all_items_sum_to_one() -> None:
    """Over the known items and as many new ones as share the unknown item's mass."""
    head, out, live = ExactHead(network(), live=5), torch.randn(3, 8), 5
    every = torch.stack([head(torch.full((3,), item), out) for item in range(ITEMS + 1)], dim=1)
    total = every[:, :ITEMS].sum(dim=1) + live * every[:, ITEMS]
    torch.testing.assert_close(total, torch.ones(3))


def test_all_items_at_once_are_the_surprise_heads_own_probabilities() -> None:
    """But for the unknown item, which no list has."""
    net, out = network(), torch.randn(3, 8)
    every = torch.cat([net.surprise(torch.full((3,), item), out) for item in range(ITEMS)], dim=1)
    net.mixture.bias_weight.fill_(0.5)
    ours = two_level_logits(net, net.surprise)(out)
    net.surprise.blocks /= net.mixture.temperature  # as fitted_surprise makes them
    net.surprise.biases[net.surprise.biases > -1e8] *= net.mixture.bias_weight
    calibrated_logits = torch.cat([net.surprise(torch.full((3,), item), out) for item in range(ITEMS)], dim=1)
    torch.testing.assert_close(ours.exp(), calibrated_logits)
    assert not torch.allclose(calibrated_logits, every)


@given(st.lists(st.integers(0, 5), min_size=1), st.lists(st.integers(0, 5), min_size=1))
def test_auc_counts_pairs(positive: list[int], negative: list[int]) -> None:
    """The share of pairs in which the positive lies above; ties count half."""
    pairs = [(p > n) + (p == n) / 2 for p in positive for n in negative]
    ours = auc(np.array(positive, np.float32), np.array(negative, np.float32))
    assert ours == pytest.approx(np.mean(pairs), abs=1e-4)


@given(st.integers(1, 500), st.integers(1, 60))
def test_popularity_clusters_are_runs_of_like_size(items: int, count: int) -> None:
    """Each cluster is a run of the popularity order, and sizes differ by one at most."""
    count = min(count, items)
    clusters = popularity_clusters(items, count)
    sizes = np.bincount(clusters, minlength=count)
    assert (np.diff(clusters) >= 0).all()
    assert sizes.max() - sizes.min() <= 1


def test_a_shortlist_of_all_clusters_is_the_full_ranking(tmp_path: Path) -> None:
    """With every cluster on it the shortlist's graph gives the full one's items: it loses by clusters alone."""
    rng = np.random.default_rng(0)
    rows, out = shortlist.unit_rows(rng, 400, 16), shortlist.unit_rows(rng, 7, 16)
    shortlist.write_full(rows, tmp_path / "full.onnx")
    clusters = shortlist.cluster_count(len(rows))
    shortlist.write_shortlist(rows, clusters, tmp_path / "all.onnx")
    shortlist.write_shortlist(rows, clusters // 4, tmp_path / "some.onnx")
    full, every, some = (
        open_graph(tmp_path / f"{name}.onnx").run(None, {"out": out})[0] for name in ("full", "all", "some")
    )
    np.testing.assert_array_equal(every, full)
    assert (some != full).any()


def test_a_network_that_is_taken_again_is_judged_as_before(tmp_path: Path) -> None:
    """The same likelihoods from the kept weights as right after their training, and new items are told by their ids."""
    rng = np.random.default_rng(0)
    item = np.minimum(rng.geometric(0.2, 600), 10)
    item[580::2] = 100
    clicks = {"user_id": np.arange(600) % 40, "item_id": item, "timestamp": 1_600_000_000_000 + 60_000 * np.arange(600)}
    pl.DataFrame(clicks).write_parquet(tmp_path / "log.parquet")
    log = read_log(tmp_path / "log.parquet")
    fresh, again = (held_out_case(log, tmp_path, epochs=1, seed=0, reuse=reuse) for reuse in (False, True))
    judged = [judged_by(one, ExactHead(one.network, one.live))[0] for one in (fresh, again)]
    assert judged[0] == judged[1]
    assert judged[0]["nll_all"] > 0
    new = fresh.judged.item[fresh.later] == len(fresh.vocabulary.items)
    assert {fresh.vocabulary.items[i] for i in fresh.ids[new]} == {"100"}


def test_a_scraper_clicks_unknown_items_at_an_honest_users_pace() -> None:
    """One for each judged user, from the first click on; every item is unknown."""
    scraping, judged = scrapers(case()), some_clicks()
    assert (scraping.item == ITEMS).all()
    np.testing.assert_array_equal(scraping.gap, judged.gap)
    np.testing.assert_array_equal(scraping.user, judged.user)


def test_the_graphs_take_the_memory_that_they_are_timed_with(model_dir: Path) -> None:
    """Both of them, under the names that the state has."""
    rng, batch = np.random.default_rng(0), 4
    ids = {name: np.zeros(batch, np.int64) for name in ("item", "event_type", "gap")}
    state = {"h": np.ones((batch, 16), np.float32), **cpu.memory(batch, 50, AGES, rng)}
    surprise = open_graph(model_dir / "surprise.onnx").run(["surprise"], {**ids, **state})[0]
    items = open_graph(model_dir / "score.onnx").run(["items"], {**state, "k": np.array([20])})[0]
    assert np.isfinite(surprise).all()
    assert items.shape == (batch, 20)
