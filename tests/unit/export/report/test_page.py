"""The report page: whole, self-contained, and safe whatever an item is called."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from export.evaluate.baselines import NAMES
from export.evaluate.held_out import Findings
from export.report.page import About, page, write_report
from export.report.verdict import METHODS
from stream.manifest import Manifest, Tensor

METHOD: dict[str, Any] = {
    "recall20": 0.4, "recall20_95": [0.35, 0.45], "mrr20": 0.2, "mrr20_95": [0.15, 0.25], "ndcg20": 0.25,
    "coverage20": 0.5, "popularity20": 12.0, "cold20": 0.1,
    "by_position": {"1": {"judged": 7, "recall20": 0.4, "mrr20": 0.2}},
    "by_popularity": {"head": {"judged": 7, "recall20": 0.4, "mrr20": 0.2}},
}  # fmt: skip
LEAD = {
    "recall20": {"over": "vsknn", "mean": 0.012, "95": [0.004, 0.02]},
    "mrr20": {"over": "markov", "mean": 0.008, "95": [0.001, 0.015]},
}
ABOUT = About("clicks/<b>.csv", "2024-05-06 07:08:09+00:00", "1.2.3")
FINDINGS = Findings(
    epochs=[{"epoch": 1, "loss": 5.0, "recall20": 0.3, "mrr20": 0.1}, {"epoch": 2, "loss": 4.0, "recall20": 0.4}],
    best_epoch=2,
    held_out={"judged": 7, "lead": LEAD, "remarks": ["3 are <new>"], **dict.fromkeys(("eddy", *NAMES), METHOD)},
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


class Page(HTMLParser):
    """What a browser would load, run or link to, and the text; fails on a tag that is closed out of turn."""

    VOID = ("meta",)

    def __init__(self, written: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(written)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name.rpartition(":")[2] in ("src", "href", "data")]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_holds_every_part(tmp_path: Path) -> None:
    """Verdict, methods, curves, ablations, calibration and card are there, and a program can read the figures."""
    write_report(tmp_path, manifest(), FINDINGS, ABOUT)
    written = (tmp_path / "report.html").read_text()
    text = Page(written).text
    titles = ("Methods", "Hits by", "Learning curves", "Ablations", "Calibration", "Model card", "Limits")
    for title in titles:
        assert f"<h2>{title}" in written
    figures = ("0.4000 (0.3500", "1,234", "ab" * 32, "time gaps", "1.2000%", "-0.0100 (-0.0200 to +0.0050)")
    for name in (*(METHODS[name] for name in ("eddy", *NAMES)), *figures):
        assert name in text
    assert "Trained on clicks/<b>.csv · 2024-05-06 07:08:09+00:00 · Eddy 1.2.3" in text
    assert "Eddy is better than the best baseline on the held-out slice: recall@20 +0.0120 against VS-KNN" in text
    assert "<th>held-out recall20</th><td>0.4322</td>" in written
    assert "were fitted on every other held-out click" in text  # the reader learns what was chosen on the slice
    assert written.count("<svg") == 6  # methods, three curves, ablations, calibration


def test_the_figures_can_be_read_by_a_program(tmp_path: Path) -> None:
    """report.json holds what was measured as before, and where the figures come from."""
    write_report(tmp_path, manifest(), FINDINGS, ABOUT)
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["best_epoch"] == 2
    assert found["held_out"]["eddy"] == METHOD
    assert (found["log"], found["date"], found["eddy"]) == (ABOUT.log, ABOUT.date, ABOUT.eddy)
    assert found["verdict"]["kind"] == "better"
    assert found["verdict"]["sentence"] in Page((tmp_path / "report.html").read_text()).text


def test_the_page_needs_no_network_and_runs_nothing() -> None:
    """Every tag is closed in turn, nothing is loaded from anywhere, and no name of the log becomes a tag."""
    written = page(manifest(recency="<b>"), FINDINGS, ABOUT)
    parsed = Page(written)
    assert {"svg", "table", "style"} < set(parsed.tags)
    assert not {"script", "link", "img", "image", "iframe", "object", "b"} & set(parsed.tags)
    assert all(link.startswith("#") and link[1:] in parsed.ids for link in parsed.links)
    assert not re.search(r"https?:|@import|url\((?!#)", written)
    assert "<script>alert(1)</script>" in parsed.text  # an event type, written as text
    assert "3 are <new>." in parsed.text


def test_what_was_not_measured_is_left_out() -> None:
    """A training that was stopped early, or measured nothing, gives its card and a sentence that there is no
    verdict."""
    written = page(manifest(), Findings(), About("", "", ""))
    assert "<h2>Model card" in written
    assert "<h2>Methods" not in written
    assert "<svg" not in written
    assert "There is no verdict" in written


def test_the_same_training_gives_the_same_page() -> None:
    """Two pages of the same figures are equal byte by byte, so that a difference between two pages means something."""
    assert page(manifest(), FINDINGS, ABOUT) == page(manifest(), FINDINGS, ABOUT)
