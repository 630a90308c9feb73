"""`make days`: no model is judged on a day that it has learned, and an interrupted run can be continued."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from bench import datasets, days
from bench.command import Ran
from bench.datasets import DAY_MS, GLOBO_START_MS
from export.log.times import parse_time
from stream.manifest import read_manifest
from stream.ops.cli import eddy


def site(path: Path, readers: int = 60, clicks: int = 4) -> None:
    """A news site's first four days: every reader a session a day, from an article to the next one around a ring."""
    rng = np.random.default_rng(0)
    day, reader, at = (part.ravel() for part in np.indices((4, readers, clicks)))
    first = rng.integers(0, 40, (4, readers))[day, reader]
    begins = rng.integers(0, DAY_MS - 3_600_000, (4, readers))[day, reader]
    columns = {
        "user_id": reader,
        "session_id": day * readers + reader,
        "article_id": (first + at) % 40,
        "timestamp": GLOBO_START_MS + day * DAY_MS + begins + at * 30_000,
    }
    pl.DataFrame(columns).sort("timestamp").write_parquet(path / "globo_clicks.parquet")


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that are run, in this process, on the simulated site."""
    ran: list[list[str]] = []

    def run(*arguments: object) -> Ran:
        words = [str(one) for one in arguments]
        ran.append(words)
        if words[0] == "evaluate":
            newest = int(pl.read_parquet(words[2])["timestamp"].to_numpy().max())
            begins = newest - (newest - GLOBO_START_MS) % DAY_MS
            assert parse_time(read_manifest(Path(words[1])).training["until"]) < begins
        result = CliRunner().invoke(eddy, words)
        assert result.exit_code == 0, result.output
        return Ran(result.stdout, 1.0, 100, 1.0)

    site(tmp_path)
    monkeypatch.setattr(datasets, "DATA_DIRECTORY", tmp_path)
    monkeypatch.setattr(days, "run_eddy", run)
    monkeypatch.setattr(days, "SCRATCH", tmp_path / "scratch")
    return ran


def test_each_day_is_judged_before_it_is_learned(
    tmp_path: Path, asked: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model of day N has learned the days before N; the next one continues from it; --resume repeats no step."""
    out = tmp_path / "days.json"
    command = ["days", "--days", "3..4", "--train", "--epochs 1 --hidden 16", "--out", str(out)]
    monkeypatch.setattr("sys.argv", command)
    days.main()
    assert [words[0] for words in asked] == ["train", "evaluate", "evaluate"] * 2
    models = [Path(words[words.index("--out") + 1]) for words in asked if words[0] == "train"]
    for day, model in zip((3, 4), models, strict=True):
        until = parse_time(read_manifest(model).training["until"])
        begins = GLOBO_START_MS + (day - 1) * DAY_MS
        assert begins - DAY_MS < until < begins
    assert asked[3][asked[3].index("--from-model") + 1] == str(models[0])
    assert read_manifest(models[1]).training["clicks"] == 60 * 4
    report: dict[str, Any] = json.loads(out.read_text())
    assert {"eddy", "eddy_carried", "markov", "vsknn", "popularity"} <= set(report["globo-day4"])
    monkeypatch.setattr("sys.argv", [*command, "--resume"])
    days.main()
    assert len(asked) == 6
    assert json.loads(out.read_text())["results"] == report["results"]


def test_only_vsknn_and_markov_must_be_beaten() -> None:
    """A day on which one of them is as good is reported; the other methods are only shown."""
    best, less = {"recall20": 0.5, "mrr20": 0.25}, {"recall20": 0.4, "mrr20": 0.2}
    methods = {"eddy": best, "vsknn": less, "markov": less, "popularity": best}
    assert days.failures({"globo-day3": methods}) == []
    lines = days.failures({"globo-day3": {**methods, "markov": best}})
    assert [line.split(" is not")[0] for line in lines] == ["globo-day3: recall20 0.5000", "globo-day3: mrr20 0.2500"]


@pytest.mark.parametrize("text", ["3", "1..4", "5..4", "3..13", "a..b"])
def test_days_that_do_not_exist_are_refused(text: str) -> None:
    """The first two days can only be learned, and there are twelve."""
    with pytest.raises(argparse.ArgumentTypeError, match=r"FIRST\.\.LAST"):
        days.days_of(text)
