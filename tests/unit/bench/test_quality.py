"""What `make quality` does with its logs, without training anything."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from bench import quality
from bench.command import Ran
from bench.datasets import LOGS, Split, split_of, whole_sessions
from bench.quality import failures, main, over_seeds
from bench.report import DATA_DIRECTORY

METHOD = {"recall20": 0.5, "mrr20": 0.25}


def test_sessions_are_rebuilt_from_their_pairs() -> None:
    """Each chain of shrinking prefixes is one session, and its clicks but the first are as many as its pairs."""
    prefixes = [[1, 2, 3], [1, 2], [1], [1], [5, 1], [5]]
    targets = [4, 3, 2, 2, 5, 1]
    assert whole_sessions(prefixes, targets) == [[1, 2, 3, 4], [1, 2], [5, 1, 5]]


def test_the_log_of_returns_is_what_it_says() -> None:
    """45 % of the next clicks return to an item of the session, and almost half have more than 8 items before them."""
    sessions = split_of("returns").train.group_by("session_id").agg("item_id")["item_id"].to_list()
    before = [(set(session[:i]), session[i]) for session in sessions for i in range(1, len(session))]
    assert np.mean([item in earlier for earlier, item in before]) == pytest.approx(0.45, abs=0.01)
    assert np.mean([len(earlier) > 8 for earlier, _ in before]) == pytest.approx(0.45, abs=0.05)
    assert split_of("returns").test.equals(split_of("returns").test)


@pytest.mark.parametrize("name", ["yoochoose64", "diginetica"])
def test_every_pair_of_the_papers_is_one_judged_position(name: str) -> None:
    """On the real files, the rebuilt sessions have exactly the source's pairs."""
    if not (DATA_DIRECTORY / "diginetica_test_pairs.parquet").is_file():
        pytest.skip("the public logs are not here: set EDDY_DATA")
    split = split_of(name)
    sessions = split.test.group_by("session_id").len()["len"]
    assert int((sessions - 1).sum()) == split.judged
    assert sessions.min() == 2 or sessions.min() > 1


def test_a_missed_target_or_baseline_is_reported() -> None:
    """A target missed and a baseline not beaten are one line each; eddy's other variants are no rivals."""
    methods = {"eddy": METHOD, "vsknn": {"recall20": 0.4, "mrr20": 0.3}, "eddy_carried": {"recall20": 1, "mrr20": 1}}
    assert failures({"elsewhere": methods}) == ["elsewhere: mrr20 0.2500 is not above vsknn with 0.3000"]
    assert len(failures({"bolcom": methods})) == 3


def test_figures_are_means_over_seeds() -> None:
    """The measures are averaged, and each seed's stand beside."""
    other = {"recall20": 0.7, "mrr20": 0.35}
    found = over_seeds([METHOD, other], [3, 4])
    assert found["recall20"] == pytest.approx(0.6)
    assert found["by_seed"] == {"3": METHOD, "4": other}


def test_a_run_replaces_only_its_own_data_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The result keeps what earlier runs measured, and holds {dataset: {method: {recall20, mrr20}}} at its top."""
    frame = pl.DataFrame({"session_id": [1, 1], "item_id": [1, 2], "timestamp": [1_600_000_000_000, 1_600_000_001_000]})
    monkeypatch.setattr(quality, "SCRATCH", tmp_path / "scratch")
    monkeypatch.setitem(LOGS, "small", lambda: Split(frame, frame, "a log of two clicks", judged=1))
    asked: list[str] = []

    def ran(*arguments: Any) -> Ran:
        asked.append(str(arguments[0]))
        figures = dict.fromkeys(quality.METHODS, METHOD)
        facts = dict.fromkeys(("clicks", "judged", "lead", "vsknn_setting", "calibration"), 1)
        return Ran(json.dumps({**figures, **facts}), 1.0, 100, 1.0)

    monkeypatch.setattr(quality, "run_eddy", ran)
    out = tmp_path / "quality.json"
    out.write_text(json.dumps({"results": {"bolcom": {"eddy": METHOD}}, "conditions": {"bolcom": "earlier"}}))
    monkeypatch.setattr("sys.argv", ["quality", "--datasets", "small", "--seeds", "0,1", "--out", str(out)])
    assert main() == 1  # no better than the baselines
    report = json.loads(out.read_text())
    assert asked == ["train", "evaluate", "train", "evaluate"]
    assert report["small"]["vsknn"] == METHOD
    assert report["bolcom"] == {"eddy": METHOD}
    assert report["conditions"]["small"]["train_peak_mb"] == [100, 100]
    assert set(report) >= {"command", "date", "versions", "machine", "conditions"}
