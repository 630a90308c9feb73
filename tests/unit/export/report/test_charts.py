"""The charts of the report have axes that a reader can trust, whatever was measured."""

import re
from xml.etree import ElementTree

import pytest

from export.report import charts


def numbers(drawn: str) -> list[float]:
    """Every number that is written on the chart, in the order of the drawing: first the x axis, then the y axis."""
    texts = ["".join(node.itertext()) for node in ElementTree.fromstring(drawn).iter("text")]
    written = [text.replace("\N{MINUS SIGN}", "-") for text in texts]
    return [float(text) for text in written if re.fullmatch(r"-?[\d.]+", text)]


def test_one_epoch_gets_axes_that_can_be() -> None:
    """One epoch is marked as epoch 1 alone, and a recall of .0049 lies between 0 and a little more, never below 0."""
    first, *values = numbers(charts.epochs([(1.0, 0.0049)], "recall@20", 1.0, 1.0))
    assert first == 1.0
    assert 0.0 <= min(values) < 0.0049 < max(values) < 0.02


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_share_never_leaves_0_to_1(value: float) -> None:
    """Neither a worst nor a best recall makes the axis go beyond what a share can be."""
    _, *values = numbers(charts.epochs([(1.0, value)], "recall@20", 1.0, 1.0))
    assert len(values) >= 2
    assert 0.0 <= min(values) <= value <= max(values) <= 1.0


def test_epochs_are_whole_numbers() -> None:
    """Three epochs and a flat loss: ticks at whole epochs, and a loss axis around the value."""
    found = numbers(charts.epochs([(1.0, 5.0), (2.0, 5.0), (3.0, 5.0)], "loss", 2.0))
    assert found[:3] == [1.0, 2.0, 3.0]
    assert 4.0 < min(found[3:]) < 5.0 < max(found[3:]) < 6.0


def test_a_difference_is_drawn_beside_zero() -> None:
    """The axis of differences holds zero, every value and every interval; each row has its name."""
    drawn = charts.ranges([("a < b", -0.2, (-0.3, -0.1)), ("c", -0.1, (-0.15, -0.05))], "difference", line=0.0)
    found = numbers(drawn)
    assert min(found) <= -0.25
    assert max(found) >= 0.0
    assert [name for name in ("a < b", "c") if name in ElementTree.fromstring(drawn).itertext()] == ["a < b", "c"]


def test_equal_values_and_one_point_are_drawn() -> None:
    """Rows without any spread and a calibration of one point give a chart, not an error or an empty axis."""
    assert 0.0 in numbers(charts.ranges([("none", 0.0, (0.0, 0.0))], "difference", line=0.0))
    assert 0.01 in numbers(charts.calibration([(0.01, 0.01)], "calibration"))


def test_false_alarm_rates_are_written_as_numbers() -> None:
    """The logarithmic axes say 0.01 and 0.1, the same on both, and no TeX."""
    drawn = charts.calibration([(0.005, 0.006), (0.05, 0.04), (0.5, 0.5)], "calibration")
    assert numbers(drawn) == [0.01, 0.1, 0.01, 0.1]
    assert "$" not in drawn


def test_colours_are_those_of_the_page() -> None:
    """Ink and marks follow the page's style, so that a dark page has light charts."""
    drawn = charts.epochs([(1.0, 5.0)], "loss", 1.0)
    assert "currentColor" in drawn
    assert "var(--mark)" in drawn
    assert not set(re.findall(r"#[0-9a-f]{6}\b", drawn))
