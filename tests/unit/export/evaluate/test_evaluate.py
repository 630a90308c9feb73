"""The evaluation of recommendations, against a slow version that does it click by click."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from export.dataset.sessions import sessions_of
from export.evaluate.baselines import NAMES, save_baselines
from export.evaluate.evaluate import already_learned, evaluate, judge, remarks
from export.evaluate.positions import rank_in
from export.evaluate.vsknn import VsKnnSetting
from export.log.log import Log, read_log
from export.measure.metrics import K
from export.model.untrained import write_untrained
from stream.errors import ArtifactError, ConfigError
from stream.events import Click
from stream.manifest import Manifest, read_manifest, sha256, write_manifest
from stream.model.runtime import load_model
from stream.settings import Rules
from stream.worker.served import open_engine
from tests.decide import run

ITEMS = 40


def test_judging_by_hand() -> None:
    """Lists are judged by the session's next item: at rank 2, missed, and never across sessions or users."""
    clicks = [
        ("ann", "1", "a", ["x", "b"]),
        ("bob", "1", "a", ["b"]),
        ("ann", "1", "b", ["c"]),  # ann's first list held b at rank 2
        ("ann", "2", "c", ["c"]),  # another session: ann's list after b is never judged
        ("bob", "1", "z", []),  # a miss
    ]
    quality = judge(clicks)
    assert quality.judged == 2
    assert quality.recall20 == pytest.approx(1 / 2)
    assert quality.mrr20 == pytest.approx((1 / 2) / 2)


def test_rank_twenty_counts_and_twenty_one_does_not() -> None:
    """recall@20 looks at twenty items."""
    listed = [f"other-{i}" for i in range(30)]
    assert rank_in(listed, "other-0") == 1
    assert rank_in(listed, "other-19") == 20
    assert rank_in(listed, "other-20") == 0


def clicks(users: int, seed: int) -> str:
    """A CSV log of users with sessions of several lengths, interleaved in time, repeats and items new to the model."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        item, time = int(rng.integers(ITEMS)), 1_700_000_000 + int(rng.integers(5_000))
        for session in range(int(rng.integers(1, 4))):
            for _ in range(int(rng.integers(1, 9))):
                rows.append((time, f"{time},u{user},i{item},s{user}-{session}"))
                time += int(rng.integers(1, 2_000))
                item = int((7 * item + rng.choice([0, 3, 3, 3, 5])) % (ITEMS + 3))
    return "timestamp,user_id,item_id,session_id\n" + "\n".join(line for _, line in sorted(rows)) + "\n"


def log_of(directory: Path, users: int, seed: int) -> Log:
    path = directory / f"{seed}.csv"
    path.write_text(clicks(users, seed))
    return read_log(path)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network whose directory holds the sessions of a training log."""
    directory = tmp_path_factory.mktemp("models") / "judged" / "1"
    log = log_of(tmp_path_factory.mktemp("logs"), 60, 1)
    names = np.array(log.items)[np.argsort(-np.bincount(log.item), kind="stable")]
    items = [name for name in names.tolist() if int(name[1:]) < ITEMS]
    manifest = write_untrained(directory, items, ["view"])
    save_baselines(directory, sessions_of(log, items), VsKnnSetting())
    files = {**manifest.files, "baselines.npz": sha256(directory / "baselines.npz")}
    write_manifest(directory, Manifest(**{**_fields(manifest), "files": files}))
    return directory


def _fields(manifest: Manifest) -> dict[str, Any]:
    return {name: getattr(manifest, name) for name in manifest.__struct_fields__}


def slowly(model: Path, log: Log, exclude_recent: int) -> dict[str, dict[str, float]]:
    """The engine and two baselines one click at a time, as the definitions read."""
    loaded = load_model(model, "cpu")
    engine = open_engine(loaded, model, K, exclude_recent, 0.001)
    training = log_of(model, 60, 1)
    follows = np.zeros((len(loaded.items), len(loaded.items)))
    index = {**{name: len(loaded.items) for name in (*training.items, *log.items)}, **loaded.index}
    for row, following in enumerate(training.next_in_session()):
        a, b = index[training.items[training.item[row]]], index[training.items[training.item[following]]]
        if following >= 0 and max(a, b) < len(loaded.items):
            follows[a, b] += 1
    ranks: dict[str, list[int]] = {"eddy": [], "markov": [], "popularity": []}
    waiting: dict[tuple[str, int], dict[str, list[int]]] = {}
    last: dict[tuple[str, int], int] = {}
    recent: dict[str, list[int]] = {}
    for offset, row in enumerate(log.in_time_order()):
        user, name, session = log.users[log.user[row]], log.items[log.item[row]], int(log.session[row])
        item, who = index[name], (user, session)
        for method, listed in waiting.get(who, {}).items():
            ranks[method].append(1 + listed.index(item) if item in listed else 0)
        decided = run(engine, [Click(user, name, int(log.time_ms[row]), "view")], offset)
        recent[user] = [*recent.get(user, []), item]
        gone = recent[user][-exclude_recent:] if exclude_recent else []
        if item < len(loaded.items):
            last[who] = item
        score = follows[last[who]] if who in last else np.zeros(len(loaded.items))
        markov = sorted(range(len(score)), key=lambda i: (-score[i], i))
        waiting[who] = {
            "eddy": [loaded.index[i] for i in decided.recommendations[0].items],
            "markov": [i for i in markov if i not in gone][:K],
            "popularity": [i for i in range(len(score)) if i not in gone][:K],
        }
    return {
        name: {
            "judged": len(found),
            **{f"recall{k}": float(np.mean([0 < r <= k for r in found])) for k in (1, 5, 10, 20)},
            **{f"mrr{k}": float(np.mean([1 / r if 0 < r <= k else 0 for r in found])) for k in (1, 5, 10, 20)},
            **{f"ndcg{k}": float(np.mean([1 / np.log2(r + 1) if 0 < r <= k else 0 for r in found])) for k in (1, 20)},
        }
        for name, found in ranks.items()
    }


@pytest.mark.parametrize("exclude_recent", [0, 2])
def test_figures_equal_those_of_one_click_at_a_time(model: Path, tmp_path: Path, exclude_recent: int) -> None:
    """Batched cycles and flat arrays give what the definitions give: recall, MRR, NDCG, under an exclusion too."""
    log = log_of(tmp_path, 40, 2)
    figures = evaluate(model, log, exclude_recent)
    for name, expected in slowly(model, log, exclude_recent).items():
        assert figures["judged"] == expected.pop("judged")
        assert {key: figures[name][key] for key in expected} == pytest.approx(expected), name
        for breakdown in ("by_position", "by_popularity"):
            parts = figures[name][breakdown].values()
            assert sum(part["judged"] for part in parts) == figures["judged"]
            hits = sum(part["judged"] * part["recall20"] for part in parts)
            assert hits / figures["judged"] == pytest.approx(expected["recall20"])


def test_every_method_has_its_key(model: Path, tmp_path: Path) -> None:
    """One object for each method, with intervals around its figures; what the lists hold is a share."""
    figures = evaluate(model, log_of(tmp_path, 40, 3), 0)
    for name in ("eddy", *NAMES):
        low, high = figures[name]["recall20_95"]
        assert low <= figures[name]["recall20"] <= high
        assert 0 < figures[name]["coverage20"] <= 1
        assert figures[name]["by_popularity"]["unknown"]["recall20"] == 0
    assert figures["popularity"]["coverage20"] == pytest.approx(K / read_manifest(model).items)
    assert figures["lead"]["recall20"]["over"] in NAMES


def test_the_workers_rules_hold_in_an_evaluation(model: Path, tmp_path: Path) -> None:
    """The lists judged are those that the worker would send under the same rules; their content is reported."""
    catalogue = tmp_path / "items.csv"
    catalogue.write_text("item_id,category\n" + "".join(f"i{n},c{n % 5}\n" for n in range(ITEMS)))
    log, path = log_of(tmp_path, 40, 3), str(catalogue)
    plain = evaluate(model, log, 0, rules=Rules(catalogue=path))
    capped = evaluate(model, log, 0, rules=Rules(catalogue=path, max_per_category=4))
    only = evaluate(model, log, 0, rules=Rules(catalogue=path, only="category=c1,c2"))
    assert plain["eddy"]["recall20"] == evaluate(model, log, 0)["eddy"]["recall20"]
    assert (capped["eddy"]["categories20"], only["eddy"]["categories20"]) == (5, 2)
    assert only["eddy"]["coverage20"] == pytest.approx(16 / read_manifest(model).items)
    assert only["markov"] == plain["markov"]
    assert only["rules"] == {"catalogue": path, "only": "category=c1,c2"}
    assert "categories20" not in evaluate(model, log, 0)["eddy"]


def test_a_model_without_training_sessions_is_refused(model_dir: Path, tmp_path: Path) -> None:
    """For a directory of an older training, the error has the remedy."""
    with pytest.raises(ArtifactError, match="train it again"):
        evaluate(model_dir, log_of(tmp_path, 5, 4), 0)


def test_earlier_clicks_build_states_and_are_not_judged(model: Path, tmp_path: Path) -> None:
    """With judge_from the later lists are those of users who have a history, for eddy and for their sessions alike."""
    log = log_of(tmp_path, 40, 6)
    middle = int(np.median(log.time_ms))
    whole, history, alone = (
        evaluate(model, log, 0),
        evaluate(model, log, 0, judge_from_ms=middle),
        evaluate(model, log.between(middle, None), 0),
    )
    assert alone["judged"] == history["judged"] < whole["judged"]
    assert alone["popularity"]["recall20"] == history["popularity"]["recall20"]
    assert alone["eddy"]["mrr20"] != history["eddy"]["mrr20"]
    with pytest.raises(ConfigError, match="nothing to judge"):
        evaluate(model, log, 0, judge_from_ms=int(log.time_ms.max()))


def test_a_log_of_single_clicks_cannot_be_judged(model: Path, tmp_path: Path) -> None:
    """If no session has a second click, this is reported."""
    path = tmp_path / "single.csv"
    path.write_text("user_id,item_id,timestamp\nann,i1,1700000000\nbob,i2,1700000001\n")
    with pytest.raises(ConfigError, match="nothing to judge"):
        evaluate(model, read_log(path), 0)


def test_logs_on_which_all_methods_are_equal_are_reported(model: Path, tmp_path: Path) -> None:
    """For a log of new items only, a line explains the zeros; for a tiny catalogue, a line explains the ones."""
    from export.cli import evaluate as command

    path = tmp_path / "new.csv"
    path.write_text("user_id,item_id,timestamp\nann,n1,1700000000\nann,n2,1700000001\nann,n3,1700000002\n")
    shown = CliRunner().invoke(command, [str(model), str(path)])
    own = repr(load_model(model, "cpu").items[0])
    ids = (
        f"on items that the model does not know, such as 'n1'; an item that it knows is {own}: a miss for every method"
    )
    assert f"all judged clicks are {ids}" in shown.output
    names = [f"i{i}" for i in range(21)]
    assert remarks(np.array([0, 1]), names, "") == []
    assert "all methods have the same recall@20" in remarks(np.array([0, 1]), names[:20], "")[0]
    assert "1 of the 2 judged clicks" in remarks(np.array([0, 21]), names, "n1")[0]


def test_event_types_that_the_model_does_not_know_are_reported(model: Path, tmp_path: Path) -> None:
    """A log with unknown event types is judged and this is reported; a log with known types has no such line."""
    known = load_model(model, "cpu").manifest.event_types
    path = tmp_path / "log.csv"
    rows = [
        f"ann,i1,{event},{1_700_000_000 + i}" for i, event in enumerate((known[0], "pageview", "pageview", "click"))
    ]
    path.write_text("\n".join(["user_id,item_id,event_type,timestamp", *rows, ""]))
    remarked = evaluate(model, read_log(path), 0)["remarks"]
    said = "3 of the 4 clicks have an event type that the model does not know, such as 'pageview'; it knows"
    assert any(said in line for line in remarked)
    path.write_text("\n".join(["user_id,item_id,event_type,timestamp", *(rows[:1] * 2), ""]))
    assert not any("event type" in line for line in evaluate(model, read_log(path), 0)["remarks"])


def test_clicks_that_the_training_may_have_seen_are_reported() -> None:
    """Figures on learned clicks are too good, so a line reports them; synthetic times give no such line."""
    names, rows = ["a"], np.zeros(4, np.int32)
    time_ms = 1_700_000_000_000 + np.array([0, 999, 1000, 2000])
    log = Log(rows, rows, rows, rows, time_ms, names, names, names, [])
    until, judged = "2023-11-14 22:13:20+00:00", np.array([0, 1, 2])
    said = f"2 of the 3 judged clicks are not later than the last training click at {until}: the model may have been"
    assert already_learned(log, judged, until)[0].startswith(said)
    assert already_learned(log, judged[2:], until) == []
    assert already_learned(log, judged, None) == already_learned(replace(log, in_order=True), judged, until) == []


def test_the_table_names_every_method(model: Path, tmp_path: Path) -> None:
    """People see each method on a line of its own, and the lead over the best baseline."""
    from export.cli import evaluate as command

    path = tmp_path / "log.csv"
    path.write_text(clicks(20, 5))
    shown = CliRunner().invoke(command, [str(model), str(path), "--explore", "0.1"])
    assert shown.exit_code == 0, shown.output
    for name in ("eddy", *NAMES):
        assert f"\n{name} " in shown.output
    assert "eddy - " in shown.output
