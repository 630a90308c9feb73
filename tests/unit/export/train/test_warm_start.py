"""Training from an older model: what it reuses, what it adds, and which clicks may judge it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from export.arrays import I64
from export.cli import train
from export.dataset.cooccurrence import count_neighbours
from export.dataset.sessions import Sessions, sessions_of
from export.dataset.windows import encode
from export.evaluate.baselines import load_baselines
from export.fit.mixture import count_cooccurrence, set_mixture
from export.log.log import Log, Vocabulary
from export.network.network import Network, Sizes, unit
from export.network.weights import FILE, load_network
from export.pipeline import train_model
from export.train.epochs import fit
from export.train.holdout import hold_out, vocabulary_of
from export.train.trainer import RowAdagrad, Trainer
from export.train.warm_start import Older, describe_overlap, joined, read_older, warm_network
from stream.errors import ArtifactError, ConfigError
from stream.manifest import read_manifest, write_manifest
from tests.unit.export.train.test_trainer import ITEMS, SETTINGS, Silent, shop

pytestmark = pytest.mark.usefixtures("hurried")

DAY = 86_400_000


def later(log: Log, days: int, new: int = 4) -> Log:
    """The same kind of clicks, some days later, with higher numbers of the items: `new` ones are new, as many are gone.

    With four the models have as many items as that of test_cold_items.py, and share its trace.
    """
    return replace(log, time_ms=log.time_ms + days * DAY, items=[f"i{n + new}" for n in range(ITEMS)])


def together(log: Log, after: Log) -> Log:
    """Both logs, users and sessions of the second as others than those of the first."""
    items = [*log.items, *(name for name in after.items if name not in log.items)]
    place = np.array([items.index(name) for name in after.items])
    users, sessions = len(log.users), int(log.session.max()) + 1
    return Log(
        user=np.append(log.user, after.user + users),
        item=np.append(log.item, place[after.item]),
        event_type=np.append(log.event_type, after.event_type),
        session=np.append(log.session, after.session + sessions),
        time_ms=np.append(log.time_ms, after.time_ms),
        users=[f"u{n}" for n in range(users + len(after.users))],
        items=items,
        event_types=log.event_types,
        sessions=[],
    )


def named(sessions: Sessions, items: list[str]) -> tuple[list[tuple[int, list[str]]], dict[str, int]]:
    """Each session's end and items by name; each item's clicks by name, where there are any."""
    bounds = zip(sessions.start[:-1].tolist(), sessions.start[1:].tolist(), sessions.end_ms.tolist(), strict=True)
    ends = [(end, [items[i] for i in sessions.item[a:b].tolist()]) for a, b, end in bounds]
    return ends, {items[i]: int(sessions.counts[i]) for i in np.flatnonzero(sessions.counts)}


@pytest.fixture(scope="module")
def older(rule_model: Path) -> Older:
    return read_older(rule_model)


def test_rows_go_by_what_they_stand_for(older: Older) -> None:
    """An item keeps its row wherever it stands now; a new one has the unknown item's; event types likewise."""
    vocabulary = joined(
        older,
        Vocabulary(["new", "i7", "i3"], ("cart", "view"), older.vocabulary.gap_edges_ms),
        replace(shop(users=1, clicks=3), item=np.arange(3), items=["new", "i7", "i3"]),
    )
    assert sorted(vocabulary.items) == sorted(["new", *older.vocabulary.items])
    assert describe_overlap(older, ["new", "i7", "i3"]) == "it knows 2 of the log's 3 items"
    sizes = Sizes(len(vocabulary.items), 2, older.network.sizes.gaps, 16)
    network, was = warm_network(older, sizes, vocabulary), older.network
    for place, name in enumerate(vocabulary.items):
        before = older.vocabulary.items.index(name) if name != "new" else ITEMS
        assert torch.equal(network.item_rows[place], was.item_rows[before])
        for mine, theirs in ((network.row_squares, was.row_squares), (network.bias_squares, was.bias_squares)):
            assert mine[place] == (theirs[before] if name != "new" else 0.0)
            assert mine[-1] == theirs[-1] > 0
    assert torch.equal(network.item_rows[-1], was.item_rows[-1])
    assert torch.equal(network.event_rows, was.event_rows[[1, 0, 1]])
    for mine, theirs in zip(network.cell.parameters(), was.cell.parameters(), strict=True):
        assert torch.equal(mine, theirs)


class Hearing(Silent):
    """A Progress that keeps the messages and each epoch's MRR@20 on the held-out slice: the network's, before anything
    is fitted."""

    def __init__(self) -> None:
        super().__init__()
        self.mrr20: list[float] = []
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)
        if line.startswith("epoch") and "MRR@20" in line:
            self.mrr20.append(float(line.rpartition(" ")[2]))


def test_a_warm_start_needs_fewer_epochs(tmp_path: Path, older: Older) -> None:
    """After an epoch on few newer clicks a warm network ranks better than a cold one; the model says where it began."""
    short = shop(users=100, seed=3)
    log, once = replace(short, time_ms=short.time_ms + 2 * DAY), replace(SETTINGS, epochs=1)
    cold, warm = Hearing(), Hearing()
    train_model(tmp_path / "cold" / "1", log, once, cold)
    manifest = train_model(tmp_path / "warm" / "1", log, once, warm, older=older)
    assert warm.mrr20[0] > 1.5 * cold.mrr20[0]
    assert manifest.training["from_model"] == "rule/1"


@pytest.mark.parametrize("like", [None, np.zeros(ITEMS, np.int64)], ids=["each by itself", "all of one category"])
def test_a_short_log_does_not_undo_what_was_taught(older: Older, like: I64 | None) -> None:
    """Few clicks turn a known item's row little; with an optimizer that has forgotten what it saw they turn it far."""
    short = shop(users=25, seed=6)
    vocabulary = joined(older, vocabulary_of(short), short)
    was = older.network.item_rows[:-1][[older.vocabulary.items.index(item) for item in vocabulary.items]]

    def turned(remembers: bool) -> float:
        network = warm_network(older, Sizes(ITEMS, 1, older.network.sizes.gaps, 16), vocabulary)
        network.row_squares *= remembers
        clicks = encode(short, vocabulary, DAY)
        now = fit(network, clicks, None, replace(SETTINGS, epochs=2, tokens=8), Silent(), category=like).network
        return 1 - float((now.item_rows[:-1] * was).detach().sum(dim=1).mean())

    assert turned(remembers=True) < turned(remembers=False) / 5


def test_a_row_of_length_1_turns_as_far_as_the_longer_one_that_it_was() -> None:
    """What a training hands on of a row's gradients gives the next step the size that it would have had."""
    log, lengths = shop(users=10), torch.linspace(0.5, 3, ITEMS + 1).unsqueeze(1)
    network = Network(Sizes(ITEMS, 1, 12, 16))
    network.item_rows.data *= lengths
    network.row_squares = torch.linspace(0.01, 1, ITEMS + 1)
    handed_on = Trainer(network, encode(log, vocabulary_of(log), DAY), SETTINGS, Silent()).trained()
    torch.testing.assert_close(handed_on.item_rows.norm(dim=1), torch.ones(ITEMS + 1))
    slope = 1e-3 * torch.randn(ITEMS + 1, 16)  # of the loss by a row of length 1

    def turned(one: Network, slope: Tensor) -> Tensor:
        start = unit(one.item_rows.data)
        RowAdagrad(one.item_rows, one.row_squares.unsqueeze(1)).step(torch.arange(ITEMS + 1), slope, 1.0)
        return (unit(one.item_rows.data) - start).norm(dim=1)

    torch.testing.assert_close(turned(handed_on, slope), turned(network, slope / lengths), rtol=0.05, atol=0.0)


def test_no_item_is_forgotten_and_new_ones_are_added(tmp_path: Path, older: Older) -> None:
    """The new model knows the log's items, the older model's and the catalogue's."""
    log, catalogue = later(shop(users=60), 2, new=3), tmp_path / "items.csv"
    catalogue.write_text("item_id,category\ni3,a\nbrand-new,a\n")
    once, out = replace(SETTINGS, epochs=1), tmp_path / "m" / "2"
    train_model(out, log, once, Silent(), older=older, catalogue=catalogue)
    assert read_manifest(out).items == ITEMS + 4
    network = load_network(out)
    assert network.sizes.items == ITEMS + 4
    assert network.mixture.clicks.sum() == len(log) + len(shop())
    assert network.mixture.clicks[-1] == network.row_squares[-2] == 0
    assert (network.row_squares[:-2] > 0).all()


def test_what_the_older_model_has_seen_does_not_judge_the_new_one(older: Older) -> None:
    """The held-out slice begins after the older model's last click, also where that is less than a tenth."""
    log = shop(users=600, seed=4)  # over the same day as the older model's
    longer = replace(log, time_ms=log.time_ms + 2 * 3_600_000)
    held_out = hold_out(longer, older)
    tail = held_out.seen.time_ms >= held_out.cut_ms
    assert older.until_ms < held_out.cut_ms
    assert 0 < tail.sum() < 0.1 * len(log) - 1
    assert int(np.quantile(longer.time_ms, 0.9)) < held_out.cut_ms
    with pytest.raises(ConfigError, match="no click is left to evaluate on"):
        hold_out(replace(log, time_ms=log.time_ms - 3_600_000), older)


@pytest.mark.parametrize(
    ("change", "says"), [({"hidden": 8}, "hidden is 8, but 16"), ({"cell": "gru"}, "network is gru")]
)
def test_weights_that_do_not_fit_are_one_line(
    tmp_path: Path, older: Older, change: dict[str, object], says: str
) -> None:
    """If units or cell differ from the older model's, one line is printed before the training."""
    with pytest.raises(ConfigError, match=says):
        train_model(tmp_path / "m" / "2", later(shop(), 2), replace(SETTINGS, **change), Silent(), older=older)


def test_units_and_cell_come_from_the_older_model(tmp_path: Path, rule_model: Path) -> None:
    """`eddy train --from-model` takes over what must be equal, and reports an older model without weights."""
    log = replace(shop(users=60), time_ms=shop(users=60).time_ms + 2 * DAY)
    columns = zip(log.user.tolist(), log.item.tolist(), log.time_ms.tolist(), strict=True)
    path = tmp_path / "log.csv"
    path.write_text("user_id,item_id,timestamp\n" + "".join(f"u{u},i{i},{t}\n" for u, i, t in columns))
    arguments = [str(path), "--from-model", str(rule_model), "--epochs", "1", "--out", str(tmp_path / "m" / "2")]
    ran = CliRunner().invoke(train, arguments)
    assert ran.exit_code == 0, ran.output
    assert read_manifest(tmp_path / "m" / "2").state[0].shape == (16,)
    (tmp_path / "m" / "2" / FILE).unlink()
    with pytest.raises(ArtifactError, match=r"no weights\.npz"):
        read_older(tmp_path / "m" / "2")


def test_what_the_older_model_counted_is_counted_on(tmp_path: Path) -> None:
    """Two halves of a log, one after the other, give the neighbours and clicks that the whole gives at once."""
    log = shop(users=200)
    vocabulary = vocabulary_of(log)
    clicks = encode(log, vocabulary, 3_600_000)
    early = clicks.user < 100
    assert clicks.time_ms[early].max() < clicks.time_ms[~early].max()
    half, whole = (
        count_neighbours(clicks.where(early), np.ones(800), ITEMS),
        count_neighbours(clicks, np.ones(1600), ITEMS),
    )
    both = count_neighbours(clicks.where(~early), np.ones(800), ITEMS, half)
    np.testing.assert_array_equal(both.clicks, whole.clicks)
    for ours, theirs in ((both.following, whole.following), (both.near, whole.near)):
        np.testing.assert_allclose(ours.total, theirs.total, rtol=1e-5)
        np.testing.assert_allclose(np.sort(ours.share), np.sort(theirs.share), rtol=1e-4)


def test_old_items_stay_popular_and_keep_their_neighbours(tmp_path: Path, older: Older) -> None:
    """Of an item that no new click is of, popularity and neighbours are those of the older model; none is unknown."""
    log = later(shop(users=60), 2)
    kept = replace(log, items=[f"i{n + 1}" if n < 20 else f"new{n}" for n in range(ITEMS)])
    held_out = hold_out(kept, older)
    assert held_out.counted is not None
    gone = held_out.vocabulary.items.index("i30")
    was = older.vocabulary.items.index("i30")
    network = warm_network(
        older, Sizes(len(held_out.vocabulary.items), 1, older.network.sizes.gaps, 16), held_out.vocabulary
    )
    set_mixture(network, held_out.head, np.ones(len(held_out.head)), held_out.counted)
    mixture, old = network.mixture, older.network.mixture
    assert mixture.clicks[gone] == old.clicks[was] > 0
    assert mixture.near_total[1 + gone] == pytest.approx(old.near_total[1 + was])

    def neighbours(items: Tensor, share: Tensor, names: list[str]) -> dict[str, float]:
        return {names[i]: s for i, s in zip(items.tolist(), share.tolist(), strict=True) if s > 0}

    ours = neighbours(mixture.following_items[1 + gone], mixture.following_share[1 + gone], held_out.vocabulary.items)
    theirs = neighbours(old.following_items[1 + was], old.following_share[1 + was], older.vocabulary.items)
    assert ours == pytest.approx(theirs)
    share = held_out.popularity.share(held_out.head.item, held_out.head.time_ms, len(held_out.vocabulary.items))
    assert share[gone] > np.median(share[:-1]) / 10


def test_an_item_of_the_older_model_is_never_new(older: Older) -> None:
    """An item that comes late in the log is new to it, but not to a model that knew it."""
    log = replace(shop(), time_ms=shop().time_ms + 2 * DAY)
    late = log.where((log.item != 5) | (log.time_ms > np.median(log.time_ms)))
    for known, new in ((None, True), (older, False)):
        held_out = hold_out(late, known)
        assert held_out.clicks.fresh[held_out.clicks.item == held_out.vocabulary.items.index("i5")].any() == new


def test_what_both_logs_hold_counts_once(older: Older) -> None:
    """A log that begins with what the older model has learned has no more clicks than there were."""
    log = shop()  # the older model's own, with as much again after it
    both = together(log, replace(log, time_ms=log.time_ms + DAY))
    held_out = hold_out(both, older)
    network = warm_network(older, Sizes(ITEMS, 1, older.network.sizes.gaps, 16), held_out.vocabulary)
    count_cooccurrence(network, held_out.clicks, held_out.popularity, held_out.counted, older)
    assert network.mixture.clicks.sum() == len(both)
    assert held_out.popularity.before is not None
    assert held_out.popularity.before.sum() == 0


@pytest.mark.parametrize("again", [False, True], ids=["the newer clicks", "all clicks again"])
def test_the_baselines_know_what_a_training_on_both_logs_would_give_them(
    tmp_path: Path, older: Older, again: bool
) -> None:
    """The sessions, their order, the clicks of each item and the most popular items are those of both logs."""
    newer = later(shop(users=60, seed=5), 2)
    both = together(shop(), newer)
    out = tmp_path / "m" / "2"
    train_model(out, both if again else newer, replace(SETTINGS, epochs=1), Silent(), older=older)
    sessions, _ = load_baselines(out)
    items, whole = json.loads((out / "items.json").read_text()), vocabulary_of(both).items
    found, expected = named(sessions, items), named(sessions_of(both, whole), whole)
    assert found == expected
    assert sessions.counts.tolist() == sorted(expected[1].values(), reverse=True)


@given(cut=st.integers(0, 20), newest=st.integers(1, 80), seed=st.integers(0, 9))
def test_the_newest_sessions_of_both_logs_are_kept(cut: int, newest: int, seed: int) -> None:
    """Sessions kept of an earlier and then of a later log are those kept of both at once, however few may be kept."""
    rng = np.random.default_rng(seed)
    log = shop(users=20, clicks=4, seed=seed)
    log = log.where(rng.random(len(log)) < 0.8)
    ends = np.full(20, 0)
    np.maximum.at(ends, log.session, log.time_ms)
    early = np.isin(log.session, np.argsort(ends, kind="stable")[:cut])
    first, second = sessions_of(log.where(early), log.items, newest), sessions_of(log.where(~early), log.items)
    found, expected = first.followed_by(second, newest), sessions_of(log, log.items, newest)
    for name, value in vars(expected).items():
        np.testing.assert_array_equal(getattr(found, name), value)


def test_without_the_older_sessions_the_baselines_know_the_log(tmp_path: Path, rule_model: Path) -> None:
    """An older model whose baselines cannot be read still starts a training; a line reports what is missing."""
    bare = tmp_path / "bare" / "1"
    shutil.copytree(rule_model, bare)
    (bare / "baselines.npz").unlink()
    manifest = read_manifest(rule_model)
    files = {name: digest for name, digest in manifest.files.items() if name != "baselines.npz"}
    write_manifest(bare, msgspec.structs.replace(manifest, files=files))
    newer, heard, out = later(shop(users=60), 2), Hearing(), tmp_path / "m" / "2"
    train_model(out, newer, replace(SETTINGS, epochs=1), heard, older=read_older(bare))
    sessions, _ = load_baselines(out)
    assert sessions.counts.sum() == len(newer)
    assert any("; it knows " in line for line in heard.lines)
    assert [line for line in heard.lines if "no readable sessions" in line] == [
        "rule/1 has no readable sessions: the baselines use only the sessions of this log"
    ]
