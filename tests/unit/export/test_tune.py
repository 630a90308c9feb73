"""`eddy tune`: a search that beats nothing but itself, can be stopped and goes on, and settings that `train` takes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

pytest.importorskip("optuna")

import optuna

from export.cli import train
from export.cli import tune as command
from export.log.log import Log
from export.pipeline import train_model
from export.train.holdout import held_out_from
from export.train.settings import read_settings
from export.tune import SPACE, tune
from stream.errors import ConfigError
from stream.manifest import read_manifest
from tests.unit.export.train.test_trainer import SETTINGS, Silent, shop

BASE = replace(SETTINGS, epochs=4)


def file_of(log: Log, path: Path) -> Path:
    """The log as a CSV file."""
    columns = zip(log.user.tolist(), log.item.tolist(), log.time_ms.tolist(), strict=True)
    path.write_text("user_id,item_id,timestamp\n" + "".join(f"u{u},i{i},{t}\n" for u, i, t in columns))
    return path


def test_a_search_begins_with_the_default_and_returns_the_best(tmp_path: Path) -> None:
    """The first trial has the settings that training takes by itself, so what is found is no worse on the slice."""
    found = tune(shop(users=60), BASE, tmp_path / "s.study", 3, None, Silent())
    study = optuna.load_study(study_name="eddy", storage=f"sqlite:///{tmp_path / 's.study'}")
    first = study.trials[0]
    expected = {name: getattr(BASE, name) for name in SPACE} | {"negatives": 128}  # 64 lies outside of the space
    assert first.params == expected
    assert found.default == first.value
    assert found.recall20 + found.mrr20 == study.best_value >= found.default
    assert found.settings == {**study.best_params, "cell": "lstm"}
    assert found.trials == 3


def test_a_trial_is_judged_as_the_model_it_would_become(tmp_path: Path) -> None:
    """Its value is what a training with these settings says of the held-out slice, the mixture with it."""
    log = shop(users=60)
    found = tune(log, BASE, tmp_path / "s.study", 1, None, Silent())
    manifest = train_model(tmp_path / "m" / "1", log, replace(BASE, **found.settings), Silent())
    assert {"recall20": found.recall20, "mrr20": found.mrr20} == manifest.quality
    assert found.best_epoch == manifest.training["best_epoch"]


def test_a_search_goes_on_where_it_ended(tmp_path: Path) -> None:
    """The same command runs only the trials that are missing, and draws others than before."""
    log = shop(users=60)
    tune(log, BASE, tmp_path / "s.study", 2, None, Silent())
    assert tune(log, BASE, tmp_path / "s.study", 3, None, Silent()).trials == 3
    assert tune(log, BASE, tmp_path / "s.study", 3, None, Silent(stop_after=1)).trials == 3
    study = optuna.load_study(study_name="eddy", storage=f"sqlite:///{tmp_path / 's.study'}")
    assert len({trial.params["rate"] for trial in study.trials}) == 3


def test_ctrl_c_keeps_the_best_so_far(tmp_path: Path) -> None:
    """Stopped in its second trial a search returns the first; stopped in its first one it says that there is none."""
    log = shop(users=60)
    learned = round(60 * 8 * 0.9) * BASE.epochs
    assert tune(log, BASE, tmp_path / "a.study", 9, None, Silent(stop_after=learned + 60)).trials == 1
    with pytest.raises(ConfigError, match="no trial was run to its end"):
        tune(log, BASE, tmp_path / "b.study", 9, None, Silent(stop_after=60))


def test_time_is_up_after_the_first_trial_at_the_earliest(tmp_path: Path) -> None:
    """With too few minutes the first trial still ends; a later one that is late is given up."""
    log = shop(users=60)
    assert tune(log, BASE, tmp_path / "a.study", 9, 1e-6, Silent()).trials == 1
    reads = iter(range(1000))  # each look at the clock is a second later
    found = tune(log, BASE, tmp_path / "b.study", 9, 3 / 60, Silent(), clock_s=lambda: float(next(reads)))
    assert (found.trials, found.given_up) == (2, 1)


def test_the_held_out_clicks_are_never_learned_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every trial trains on clicks before the held-out slice and is judged on that."""
    import export.tune

    log, seen = shop(users=60), []
    real = export.tune.fit

    def spy(network, clicks, later, *rest, **named):  # type: ignore[no-untyped-def]
        seen.append((int(clicks.time_ms.max()), int(later.time_ms.min())))
        return real(network, clicks, later, *rest, **named)

    monkeypatch.setattr(export.tune, "fit", spy)
    tune(log, BASE, tmp_path / "s.study", 2, None, Silent())
    cut = held_out_from(log.time_ms)
    assert len(seen) == 2
    assert all(last < cut <= first for last, first in seen)


def test_a_study_of_another_log_is_refused(tmp_path: Path) -> None:
    """Trials of different logs do not compare, and a file that is no study is told as such."""
    tune(shop(users=60), BASE, tmp_path / "s.study", 1, None, Silent())
    with pytest.raises(ConfigError, match="take another --study"):
        tune(shop(users=61), BASE, tmp_path / "s.study", 1, None, Silent())
    (tmp_path / "notes.txt").write_text("no database " * 100)
    with pytest.raises(ConfigError, match="take another --study"):
        tune(shop(users=60), BASE, tmp_path / "notes.txt", 1, None, Silent())


def test_what_is_found_is_what_train_takes(tmp_path: Path) -> None:
    """`eddy tune --json` prints and writes the settings, and `eddy train --settings` trains with them."""
    log, out = file_of(shop(users=60), tmp_path / "log.csv"), tmp_path / "settings.json"
    ran = CliRunner().invoke(command, [str(log), "--out", str(out), "--trials", "2", "--cell", "rnn", "--json"])
    assert ran.exit_code == 0, ran.output
    assert json.loads(ran.stdout) == json.loads(out.read_text())
    chosen = read_settings(out)
    assert chosen.keys() == {*SPACE, "cell"}
    arguments = [str(log), "--settings", str(out), "--epochs", "1", "--out", str(tmp_path / "m" / "1")]
    ran = CliRunner().invoke(train, arguments)
    assert ran.exit_code == 0, ran.output
    used = read_manifest(tmp_path / "m" / "1").training["settings"]
    assert used == {**used, **chosen, "epochs": 1}
