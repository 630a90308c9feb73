"""docs/paths.md shows what `eddy paths` prints, and the figures of bench/results/paths.json."""

import json
import re
from itertools import takewhile
from pathlib import Path

import pytest
from click.testing import CliRunner

from export.paths.command import paths
from stream.demo.shop import build_shop
from stream.demo.simulate import DAY_MS, simulate_clean, write_log
from tests.docs.blocks import ROOT, blocks

PAGE = ROOT / "docs" / "paths.md"
START_MS = 1_735_689_600_000
"""First time of a log of `python -m stream.demo.simulate`."""


def test_the_example_is_what_the_command_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the users, days, seed and options that the page names; the page leaves out the last tables."""
    [(users, days, seed, log)] = re.findall(r"--users (\d+) --days (\d+) --seed (\d+) --out (\S+)", PAGE.read_text())
    monkeypatch.chdir(tmp_path)
    end_ms = START_MS + int(days) * DAY_MS
    stream = simulate_clean(build_shop(), int(users), int(seed), START_MS)
    write_log(takewhile(lambda one: one.timestamp < end_ms, stream), Path(log))
    [options] = re.findall(rf"^eddy paths {log} (--show \d+)$", PAGE.read_text(), re.MULTILINE)
    printed = CliRunner().invoke(paths, [log, *options.split()], catch_exceptions=False).stdout
    [shown] = [block.text for block in blocks(PAGE) if block.language == "text"]
    assert printed.startswith(shown.rstrip("\n"))


def test_the_measured_figures_are_those_of_the_benchmark() -> None:
    """Each row of the table is a run of the committed file."""
    report = json.loads((ROOT / "bench" / "results" / "paths.json").read_text())
    text, asked = PAGE.read_text(), report["conditions"]
    for found in report["results"].values():
        sizes = f"{asked['users'] / 1e6:g} million users in {found['sessions'] / 1e6:.1f} million sessions"
        assert f"{found['clicks'] / 1e6:g} million clicks of {sizes}" in text
        assert f"| {found['cpu_seconds']:.0f} s | {found['peak_mb'] / 1000:.1f} GB |" in text
