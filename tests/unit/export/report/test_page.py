"""The report page: whole, self-contained, and safe whatever an item is called."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from export.evaluate.baselines import NAMES
from export.evaluate.held_out import Findings
from export.report.charts import bars, chart
from export.report.page import page, write_report
from stream.manifest import Manifest, Tensor

METHOD: dict[str, Any] = {
    "recall20": 0.4, "recall20_95": [0.35, 0.45], "mrr20": 0.2, "mrr20_95": [0.15, 0.25], "ndcg20": 0.25,
    "coverage20": 0.5, "popularity20": 12.0, "cold20": 0.1,
    "by_position": {"1": {"judged": 7, "recall20": 0.4, "mrr20": 0.2}},
    "by_popularity": {"head": {"judged": 7, "recall20": 0.4, "mrr20": 0.2}},
}  # fmt: skip
FINDINGS = Findings(
    epochs=[{"epoch": 1, "loss": 5.0, "recall20": 0.3, "mrr20": 0.1}, {"epoch": 2, "loss": 4.0, "recall20": 0.4}],
    best_epoch=2,
    held_out={"judged": 7, "lead": {}, "remarks": ["3 are <new>"], **dict.fromkeys(("eddy", *NAMES), METHOD)},
    calibration=[(0.001, 0.0), (0.01, 0.012), (0.05, 0.049), (1.0, 1.0)],
    ablations={
        "nothing": {"judged": 7, "recall20": 0.4, "mrr20": 0.2},
        "time gaps": {
            "judged": 7,
            "recall20": 0.39,
            "mrr20": 0.19,
            "change": {
                "recall20": {"mean": -0.01, "95": [-0.03, 0.01]},
                "mrr20": {"mean": -0.01, "95": [-0.02, 0.005]},
            },
        },
    },
)


def manifest(**training: object) -> Manifest:
    return Manifest(
        format=1,
        name="shop",
        version="1",
        cell="lstm",
        state=(Tensor("h", (8,)),),
        event_types=("view", "<script>alert(1)</script>"),
        gap_edges_ms=(),
        items=3,
        batch_multiple=4,
        calibration=(),
        files={"step.onnx": "ab" * 32},
        training={"clicks": 1234, "settings": {"hidden": 8}, **training},
        quality={"recall20": 0.43219},
    )


class Balanced(HTMLParser):
    """Fails on a tag that is closed out of turn."""

    VOID = ("meta", "path", "circle", "polyline")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_page_holds_every_part(tmp_path: Path) -> None:
    """Methods, curves, ablations, calibration and card are all there, and the figures can be read by a program."""
    write_report(tmp_path, manifest(), FINDINGS)
    written = (tmp_path / "report.html").read_text()
    for title in (
        "Methods",
        "Where the hits are",
        "Learning curves",
        "Ablations",
        "Calibration",
        "Model card",
        "Limits",
    ):
        assert f"<h2>{title}" in written
    for name in (
        "eddy",
        *NAMES,
        "0.4000 (0.3500",
        "1,234",
        "ab" * 32,
        "time gaps",
        "1.2000%",
        "-0.0100 (-0.0200 to +0.0050)",
    ):
        assert name in written
    assert "<th>held-out recall20</th><td>0.4322</td>" in written
    assert "fitted on every other held-out click" in written  # the reader hears what was chosen on the slice
    assert len(re.findall("<svg", written)) == 5
    assert json.loads((tmp_path / "report.json").read_text())["best_epoch"] == 2


def test_the_page_is_well_formed_and_needs_no_network() -> None:
    """Every tag is closed in turn, nothing is loaded from anywhere, nothing runs, and names are escaped."""
    written = page(manifest(recency="<b>"), FINDINGS)
    parser = Balanced()
    parser.feed(written)
    assert parser.open == []
    assert not re.search(r"https?://|src=|href=|<script|@import|url\(", written)
    assert "&lt;script&gt;" in written
    assert "<p>3 are &lt;new&gt;.</p>" in written


def test_what_was_not_measured_is_left_out() -> None:
    """A training that was stopped early, or measured nothing, still gives its card."""
    written = page(manifest(), Findings())
    assert "<h2>Model card" in written
    assert "<h2>Methods" not in written
    assert "<svg" not in written


@pytest.mark.parametrize("points", [[(1.0, 2.0)], [(1.0, 2.0), (2.0, 2.0)], [(1.0, 5.0), (2.0, 4.0), (3.0, 4.5)]])
def test_a_chart_stays_within_its_frame(points: list[tuple[float, float]]) -> None:
    """One epoch, a flat line and a falling one are drawn inside the picture."""
    tree = ElementTree.fromstring(chart(points, "loss", "epoch", mark=1.0))
    drawn = [tuple(map(float, pair.split(","))) for pair in (tree.find("polyline").attrib["points"]).split()]
    assert len(drawn) == len(points)
    assert all(0 <= x <= 300 and 0 <= y <= 200 for x, y in drawn)
    assert tree.find("circle") is not None
    if len(points) == 3:
        assert drawn[1][1] > drawn[0][1]  # a smaller loss lies lower, and y grows downwards


def test_bars_begin_at_zero_and_stay_within_the_frame() -> None:
    """A loss goes left from the zero that all rows share, a gain right, and the interval lies across its bar."""
    tree = ElementTree.fromstring(bars([("a", -0.2, (-0.3, -0.1)), ("b", 0.1, (0.0, 0.2))], "difference"))
    marks = [re.findall(r"-?[\d.]+", path.attrib["d"]) for path in tree if path.get("class") in ("bar", "spread")]
    loss, loss_ends, gain, gain_ends = [[float(number) for number in mark] for mark in marks]
    zero, end, gained = loss[0], loss[2], gain[2]
    assert gain[0] == zero
    assert 0 <= loss_ends[0] < end < loss_ends[2] < zero == gain_ends[0] < gained < gain_ends[2] <= 300
    assert "NaN" not in bars([("none", 0.0, (0.0, 0.0))], "difference")
