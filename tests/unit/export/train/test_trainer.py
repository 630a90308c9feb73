"""Training learns, is repeatable, can be stopped, and its calibration holds on other users."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec import UNSET
from numpy.typing import NDArray

import export.pipeline
import stream
from export.dataset.popularity import Recency
from export.dataset.windows import Clicks, Windows, birth_period, encode, fresh_clicks
from export.evaluate.evaluate import evaluate
from export.fit.popularity_shift import best_recency
from export.log.log import GAP_EDGES_MS, Log, Vocabulary
from export.model.calibrate import calibration_warning
from export.network.network import Network, Sizes
from export.network.states import outputs
from export.pipeline import train_model
from export.train.epochs import fit
from export.train.holdout import categories, vocabulary_of
from export.train.settings import TrainSettings
from stream.errors import ArtifactError, ConfigError
from stream.manifest import Shortlist, read_manifest
from stream.model.runtime import load_model
from tests.conftest import EVENT_TYPES

pytestmark = pytest.mark.usefixtures("hurried")

ITEMS = 40
SETTINGS = TrainSettings(hidden=16, epochs=10, seed=1, tokens=64, negatives=64, dropout=0.1, rate=1e-2)


class Silent:
    """A Progress that prints nothing and sends Ctrl-C after this many clicks."""

    def __init__(self, stop_after: int | None = None) -> None:
        self._left = stop_after

    def begin(self, label: str, clicks: int) -> None:
        pass

    def seen(self, clicks: int) -> None:
        if self._left is not None:
            self._left -= clicks
            if self._left <= 0:
                self._left = None
                raise KeyboardInterrupt

    def say(self, line: str) -> None:
        pass


def shop(users: int = 400, clicks: int = 8, seed: int = 0, items: int = ITEMS) -> Log:
    """Users who start anywhere and then click item (7 i + 3) mod `items` after item i, nine times in ten."""
    rng = np.random.default_rng(seed)
    item = np.empty((users, clicks), np.int64)
    item[:, 0] = rng.integers(0, items, users)
    for t in range(1, clicks):
        stray = rng.random(users) < 0.1
        item[:, t] = np.where(stray, rng.integers(0, items, users), (7 * item[:, t - 1] + 3) % items)
    start = np.sort(rng.integers(0, 86_400_000, users))
    time = 1_700_000_000_000 + start[:, None] + np.cumsum(rng.integers(5_000, 60_000, (users, clicks)), axis=1)
    user = np.repeat(np.arange(users), clicks)
    return Log(
        user=user,
        item=item.ravel(),
        event_type=np.zeros(users * clicks, np.int64),
        session=user,
        time_ms=time.ravel(),
        users=[f"u{i}" for i in range(users)],
        items=[f"i{i}" for i in range(items)],
        event_types=["view"],
        sessions=[],
    )


def of_three_types(log: Log) -> Log:
    """The clicks with event types in turn: with 50 items, networks have the sizes of other tests and share traces."""
    return replace(log, event_type=np.arange(len(log)) % len(EVENT_TYPES), event_types=list(EVENT_TYPES))


def test_a_rule_is_learned_and_served(rule_model: Path) -> None:
    """A deterministic successor is found by the served model on other users, and popularity does not find it."""
    figures = evaluate(rule_model, shop(users=100, seed=5), exclude_recent=0)
    assert figures["judged"] == 700
    assert figures["eddy"]["mrr20"] > 0.7
    assert figures["eddy"]["mrr20"] > 3 * figures["popularity"]["mrr20"]
    assert figures["markov"]["mrr20"] > 0.7


@pytest.mark.parametrize("cell", ["gru", "rnn", "attention"])
def test_every_cell_learns_the_rule(tmp_path: Path, cell: str) -> None:
    """The other cells are trained, converted past the gate and served just as the LSTM is."""
    directory, log = tmp_path / "rule" / "1", of_three_types(shop(items=50))
    train_model(directory, log, replace(SETTINGS, cell=cell), Silent())
    assert read_manifest(directory).cell == cell
    others = of_three_types(shop(users=100, seed=5, items=50))
    assert evaluate(directory, others, exclude_recent=0)["eddy"]["mrr20"] > 0.7


def test_training_ends_with_a_report(rule_model: Path) -> None:
    """The page exists with the curves and the figures of the held-out slice, and is not a file of the manifest."""
    findings = json.loads((rule_model / "report.json").read_text())
    assert [one["epoch"] for one in findings["epochs"]] == list(range(1, len(findings["epochs"]) + 1))
    assert findings["epochs"][0]["loss"] > findings["epochs"][-1]["loss"]
    assert findings["held_out"]["eddy"]["mrr20"] > 3 * findings["held_out"]["popularity"]["mrr20"]
    assert findings["held_out"]["judged"] < len(shop()) / 3
    assert len(findings["calibration"]) > 3
    assert all(abs(share - alpha) < 0.15 for alpha, share in findings["calibration"])
    nothing, quality = findings["ablations"]["nothing"], read_manifest(rule_model).quality
    assert {name: nothing[name] for name in quality} == quality  # of the network that is judged, on the same clicks
    assert "event types" not in findings["ablations"]  # the log has one
    page = (rule_model / "report.html").read_text()
    assert "<h2>Learning curves" in page
    assert "<h2>Ablations" in page
    assert "<h2>Calibration" in page
    assert f"<td>{read_manifest(rule_model).files['step.onnx']}</td>" in page
    assert not {"report.html", "report.json"} & set(read_manifest(rule_model).files)


def test_a_trained_model_predicts_what_a_user_does_next(rule_model: Path) -> None:
    """Users leave after eight clicks. The log is a day long and has views only: no return and no intent."""
    scored = stream.load(rule_model).score(
        {"user_id": "u", "item_id": "i1", "timestamp": 1_700_000_000_000 + 30_000 * n} for n in range(8)
    )
    leaves = [one.leaves or 0.0 for one in scored]
    assert max(leaves[:6]) < 0.1 < 0.5 < leaves[7]
    assert all(set(one.next or ()) == {"view"} for one in scored)
    assert all(
        (one.next or {})["view"] + leaf == pytest.approx(1, abs=0.05) for one, leaf in zip(scored, leaves, strict=True)
    )
    assert {(one.returns_7d, one.intent) for one in scored} == {(None, None)}


def test_the_nominal_false_alarm_rate_holds(rule_model: Path) -> None:
    """Of sessions like those of the log, at most one in twenty or so has a click with a p-value of 0.05 or less; fewer,
    as this shop's sessions are much alike."""
    figures = evaluate(rule_model, shop(users=300, seed=6), exclude_recent=0)
    assert 0 < figures["calibration"]["p<=0.05"] < 0.09


def test_what_was_just_clicked_is_left_out_for_every_method(rule_model: Path) -> None:
    """With exclude_recent the figures are of lists without the user's last clicks, the baselines' too."""
    log = shop(users=30, seed=7)
    stuck = replace(log, item=np.zeros(len(log), np.int64))
    figures = evaluate(rule_model, stuck, exclude_recent=1)
    assert [figures[name]["recall20"] for name in ("eddy", "markov", "popularity")] == [0, 0, 0]


def test_the_same_seed_gives_the_same_network() -> None:
    """Two trainings with one seed end in the same weights, bit for bit; another seed's differ."""
    log = shop(users=80)
    clicks = encode(log, vocabulary_of(log), 3_600_000)

    def rows(seed: int) -> NDArray[np.float32]:
        torch.manual_seed(seed)
        network = Network(Sizes(ITEMS, 1, len(GAP_EDGES_MS) + 2, 8))
        fitted = fit(network, clicks, None, replace(SETTINGS, epochs=2, seed=seed), Silent())
        return fitted.network.item_rows.detach().numpy()

    np.testing.assert_array_equal(rows(1), rows(1))
    assert not np.array_equal(rows(1), rows(2))


def test_items_of_a_category_learn_from_each_other() -> None:
    """Where users stay within a category, items of few clicks are nearer to its others than they can learn alone; a
    log that names none trains to the same bits as before."""
    log = shop(users=80)
    item = np.random.default_rng(0).integers(0, 10, len(log)) * 4 + log.user % 4
    vocabulary = Vocabulary([str(i) for i in range(ITEMS)], ("view",), GAP_EDGES_MS)
    clicks = encode(replace(log, item=item, items=vocabulary.items), vocabulary, 3_600_000)
    category = np.arange(ITEMS, dtype=np.int64) % 4

    def rows(of: NDArray[np.int64] | None) -> torch.Tensor:
        torch.manual_seed(0)
        network = Network(Sizes(ITEMS, 1, len(GAP_EDGES_MS) + 2, 8))
        fitted = fit(network, clicks, None, replace(SETTINGS, epochs=8), Silent(), category=of)
        return fitted.network.item_rows.detach()[:-1]

    def alike(rows: torch.Tensor) -> float:
        likeness, same = rows @ rows.t(), torch.from_numpy(category[:, None] == category)
        return float(likeness[same].mean() - likeness[~same].mean())

    torch.testing.assert_close(rows(None), rows(np.full(ITEMS, -1)), atol=0, rtol=0)
    assert alike(rows(category)) > alike(rows(None)) + 0.1


def test_an_items_category_is_that_of_its_last_click() -> None:
    """The newest name counts, an item never named has none, and neither has any where the log has no such column."""
    log = shop(users=3, clicks=4)
    order = np.argsort(log.time_ms, kind="stable")
    item, category = np.zeros(len(log), np.int32), np.full(len(log), -1, np.int32)
    item[order[:2]], category[order[:3]] = 1, [0, 1, 2]
    named = replace(log, item=item, category=category, categories=["shoes", "hats", "tea"])
    vocabulary = vocabulary_of(named)
    assert vocabulary.items == ["i0", "i1"]
    assert categories(named, vocabulary).tolist() == [2, 1]
    assert categories(replace(named, category=None), vocabulary).tolist() == [-1, -1]


def test_the_newest_popularity_counts_if_popularity_is_not_stable() -> None:
    """Items that were popular only early lose to those of the end; in a steady log nothing is forgotten."""
    log = shop(users=800)
    steady = encode(log, vocabulary_of(log), 3_600_000)
    hour = (steady.time_ms - steady.time_ms.min()) // 3_600_000
    item = 8 * hour + np.random.default_rng(0).integers(0, 16, len(steady))
    moving = replace(steady, item=item, target=np.where(steady.target >= 0, np.roll(item, -1), -1))
    items = int(item.max()) + 1
    cut = np.quantile(steady.time_ms, 0.9)

    def found(clicks: Clicks) -> Recency:
        before = clicks.where(clicks.time_ms < cut)
        network = Network(Sizes(items, 1, len(GAP_EDGES_MS) + 2, 8))
        network.item_rows.data.zero_()  # ranks by popularity alone
        share = Recency(None).share(before.item, before.time_ms, items)
        network.item_bias.data.copy_(torch.from_numpy(share).log())
        return best_recency(network, before, clicks.where(clicks.time_ms >= cut), Recency(None))

    assert found(steady).half_life_ms is None
    half_life_ms = found(moving).half_life_ms
    assert half_life_ms is not None
    shift = Recency(half_life_ms).shift(moving.item, moving.time_ms, items)
    assert shift[moving.item.max()] > 0 > shift[0]


def test_too_few_held_out_sessions_for_alpha_are_reported() -> None:
    """1,000 sessions show one false alert in 1,000; with fewer, a line has the number of clicks needed and a usable
    --alpha."""
    assert calibration_warning(1_000, 9_990, 0.001) is None
    warning = calibration_warning(250, 3_200, 0.001)
    assert warning is not None
    assert "about 13,000" in warning
    assert warning.endswith("--alpha 0.004")
    for sessions in (235, 7, 999):
        warning = calibration_warning(sessions, 3_200, 0.001)
        assert warning is not None
        usable = float(warning.rpartition(" ")[2])
        assert calibration_warning(sessions, 3_200, usable) is None
        assert usable <= 2 / sessions
    warning = calibration_warning(1, 3_200, 0.001)
    assert warning is not None
    assert warning.endswith("train on more clicks (about 3,200,000)")  # a worker takes no --alpha 1


def test_windows_carry_the_state(rule_model: Path) -> None:
    """A user's outputs do not depend on where the sequence is cut into windows."""
    torch.manual_seed(0)
    log = shop(users=7, clicks=23)
    clicks = encode(log, Vocabulary(log.items, ("view",), GAP_EDGES_MS), 3_600_000)
    network = Network(Sizes(ITEMS, 1, len(GAP_EDGES_MS) + 2, 8)).eval()
    whole = outputs(network, Windows(clicks, length=23), np.arange(len(clicks)))
    for length in (1, 5, 22):
        torch.testing.assert_close(
            outputs(network, Windows(clicks, length), np.arange(len(clicks))), whole, atol=1e-6, rtol=0
        )


def test_an_item_is_new_in_the_period_it_is_born() -> None:
    """Clicks on an item are fresh while its first period lasts, except in the log's first two periods."""
    item = np.array([0, 1, 2, 2, 2, 0])
    time_ms = np.array([0, 15, 20, 29, 30, 31])
    assert fresh_clicks(item, time_ms, 10).tolist() == [False, False, True, True, False, False]


def test_items_are_born_in_a_log_of_two_hours_too() -> None:
    """Eighths of any log are periods, a minute long at least: else no item of a short log would ever be new."""
    assert birth_period(np.array([0, 7_200_000])) == 900_000
    assert birth_period(np.array([0, 1_000])) == 60_000


def test_a_new_item_has_the_same_share_in_calibration_as_in_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All clicks on new items are about as surprising: with another share every p-value of theirs would jump."""
    plain = shop(users=200)
    period = (plain.time_ms - plain.time_ms.min()) * 9 // (1 + plain.time_ms.max() - plain.time_ms.min())
    item = plain.item % np.where(period < 8, 4, 8) + 4 * period  # other items in every period, 40 of them
    log = replace(plain, item=item)
    shares: list[int] = []
    real = export.pipeline.fit_heads

    def spy(network, clicks, weight, new_items, seed):  # type: ignore[no-untyped-def]
        shares.append(new_items)
        real(network, clicks, weight, new_items, seed)

    monkeypatch.setattr(export.pipeline, "fit_heads", spy)
    train_model(tmp_path / "m" / "1", log, replace(SETTINGS, epochs=1), Silent())
    calibrated, served = shares
    assert calibrated == served > 1


def test_a_large_catalogue_gets_the_shortlist_that_loses_little(tmp_path: Path) -> None:
    """The training prints the choice and writes it, with its loss, into the manifest; a worker loads that graph."""

    said: list[str] = []

    class Hearing(Silent):
        def say(self, line: str) -> None:
            said.append(line)

    log = replace(shop(users=100), in_order=True)
    manifest = train_model(tmp_path / "m" / "1", log, replace(SETTINGS, epochs=1), Hearing(), large=ITEMS)
    assert manifest.ahead is UNSET
    assert "what a user does next is not predicted: the times of the log are synthetic" in said
    assert isinstance(manifest.shortlist, Shortlist)
    assert manifest.shortlist.lost < 0.002
    assert manifest.shortlist.judged > 0
    assert any(f"ranks all {manifest.shortlist.ranked} items by rounded scores" in line for line in said)
    model = load_model(tmp_path / "m" / "1", "cpu")
    zeros = [np.zeros((3, *part.shape), part.dtype) for part in manifest.state if part.name in model.score_inputs]
    items, _ = model.score(zeros, 20)
    assert all(len(set(row)) == 20 for row in items.tolist())


@pytest.mark.parametrize(
    ("log", "fragment"),
    [
        (shop(users=4), "at least 200 are needed"),
        (replace(shop(), item=np.zeros(3200, np.int64)), "a single item"),
        (replace(shop(), user=np.arange(3200)), "no user of the log has two clicks"),
        (replace(shop(), time_ms=np.full(3200, 1_700_000_000_000)), "the same time.* --in-order"),
    ],
)
def test_a_log_with_nothing_to_learn_is_refused(tmp_path: Path, log: Log, fragment: str) -> None:
    """A log that is too short, has one item, sessions of one click or no times is refused before any work."""
    with pytest.raises(ConfigError, match=fragment):
        train_model(tmp_path / "m" / "1", log, SETTINGS, Silent())
    assert not (tmp_path / "m").exists()


def test_a_foreign_model_is_refused(tmp_path: Path) -> None:
    """Evaluating a directory that `eddy train` did not write ends in one line, not in figures."""
    with pytest.raises(ArtifactError, match="no such directory"):
        evaluate(tmp_path / "nothing", shop(users=5), 0)


def test_no_target_lies_in_what_is_left_out() -> None:
    """A cut leaves no click with a target on its other side: the held-out clicks are not learned from."""
    log = shop(users=300)
    clicks = encode(log, vocabulary_of(log), 3_600_000)
    cut = int(np.quantile(clicks.time_ms, 0.9))
    head, tail = clicks.where(clicks.time_ms < cut), clicks.where(clicks.time_ms >= cut)
    for part in (head, tail):
        following = np.append(part.item[1:], -1)
        same_user = np.append(part.user[1:] == part.user[:-1], False)
        np.testing.assert_array_equal(part.target, np.where(same_user, following, -1))
    assert (clicks.target[clicks.time_ms < cut] >= 0).sum() > (head.target >= 0).sum()
