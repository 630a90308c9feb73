"""The page of `eddy paths`: whole, self-contained, and safe whatever a step is called."""

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from export.log.log import read_log
from export.paths.page import page
from export.paths.run import Asked, figures
from export.progress import NullProgress
from tests.oracle_paths import START_MS
from tests.unit.export.report.test_page import Page

NAMES = ("view", "cart", "purchase", "<script>alert(1)</script>", "a & \"b\" 'c'", "\x07bell", "x" * 60)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The figures of sessions with all NAMES, compared before and after a time."""
    file = tmp_path_factory.mktemp("log") / "log.jsonl"
    rows = [
        {"user_id": f"u{user}", "item_id": f"i{at}", "category": name, "event_type": name,
         "timestamp": START_MS + user * 3_600_000 + at * 1000}
        for user in range(60)
        for at, name in enumerate(NAMES[: 1 + user % len(NAMES)])
    ]  # fmt: skip
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return figures(read_log(file), Asked(compare_ms=START_MS + 30 * 3_600_000), NullProgress())


def test_the_page_needs_no_network_and_runs_nothing(found: dict[str, Any]) -> None:
    """Every tag is closed in turn, nothing is loaded from anywhere, and no name of the log becomes a tag."""
    written = page(found)
    parsed = Page(written)
    assert not {"script", "link", "img", "image", "iframe", "object"} & set(parsed.tags)
    assert parsed.links == []
    assert not re.search(r"https?:|@import|url\(", written)
    assert "<script>alert(1)</script>" in parsed.text
    assert "\x07" not in written


def test_each_picture_has_a_name_and_a_table(found: dict[str, Any]) -> None:
    """Who cannot see a picture hears its name, and reads the same numbers in a table."""
    written = page(found)
    pictures = re.findall(r"<svg.*?</svg>", written, re.DOTALL)
    assert len(pictures) == 2
    for picture in pictures:
        tree = ElementTree.fromstring(picture)
        assert tree.get("role") == "img"
        assert tree.get("aria-label") == tree.findtext("title")
    text = Page(written).text
    for link in found["flow"]["links"]:
        assert f"{link['sessions']:,}" in text
    for stage in found["funnel"]:
        assert f"{stage['sessions']:,} sessions, {stage['share']:.1%}" in text
    for title in ("Funnel", "Time to a stage", "Paths from", "Loops", "Comparison of the funnel", "Limits"):
        assert f"<h2>{title}" in written or title == "Loops"
    assert "color-scheme:light dark" in written


def test_nothing_is_drawn_outside_its_picture(found: dict[str, Any]) -> None:
    """Bars, nodes and bands are within the view, and each band begins and ends within a node."""
    for picture in re.findall(r"<svg.*?</svg>", page(found), re.DOTALL):
        tree = ElementTree.fromstring(picture)
        _, _, width, height = map(float, str(tree.get("viewBox")).split())
        boxes = []
        for shape in tree.iter("rect"):
            x, y, w, h = (float(str(shape.get(name))) for name in ("x", "y", "width", "height"))
            assert 0 <= x <= x + w <= width
            assert 0 <= y <= y + h <= height
            boxes.append((x, x + w, y - 0.6, y + h + 0.6))
        for shape in tree.iter("path"):
            numbers = [float(n) for n in re.findall(r"-?[\d.]+", str(shape.get("d")))]
            assert all(0 <= n <= max(width, height) for n in numbers)
            if shape.get("class") in ("link", "gone"):
                half, (x0, y0, *_, x1, y1) = float(str(shape.get("stroke-width"))) / 2, numbers
                assert any(right == x0 and top <= y0 - half and y0 + half <= low for _, right, top, low in boxes)
                assert any(left == x1 and top <= y1 - half and y1 + half <= low for left, _, top, low in boxes)


def test_the_same_figures_give_the_same_page(found: dict[str, Any]) -> None:
    assert page(found) == page(json.loads(json.dumps(found)))


def test_a_log_without_stages_has_a_page(tmp_path: Path) -> None:
    """One click: no funnel, no comparison, and a remark."""
    file = tmp_path / "log.csv"
    file.write_text(f"user_id,item_id,timestamp\nu,i,{START_MS}\n")
    written = page(figures(read_log(file), Asked(), NullProgress()))
    assert "<h2>Funnel" not in written
    assert "no funnel" in written
