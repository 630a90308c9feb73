"""Numbers -> SVG for the report page, drawn by matplotlib: no script, no font, and the page's own colours.

The same numbers give the same bytes: the ids of shapes are hashed with a fixed salt, and no date is written. matplotlib
is imported when a chart is drawn, because that takes half a second which the rest of a command need not wait for.
"""

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Point = tuple[float, float]
Row = tuple[str, float, Point]
"""A name, its value and the interval around it."""

WIDTH_IN, WIDER_IN, HEIGHT_IN, ROW_IN = 4.0, 5.5, 2.5, 0.28
PIXELS_PER_INCH = 88
INK, MARK = "#010203", "#040506"
"""Drawn with these, then replaced by the colours of the page's style: matplotlib knows no currentColor."""

STYLE = {
    "svg.fonttype": "none",  # text stays text, in the reader's font
    "svg.hashsalt": "eddy",
    "font.size": 9.0,
    "figure.titlesize": 10.0,
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
    "grid.alpha": 0.15,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


def epochs(points: Sequence[Point], title: str, kept: float, highest: float = math.inf) -> Markup:
    """A value after each epoch as a line, with a larger dot at the epoch that was kept.

    points   (epoch, value), values from 0 to `highest`
    """
    from matplotlib.ticker import MaxNLocator

    xs, ys = [x for x, _ in points], [y for _, y in points]
    with _figure(WIDTH_IN, HEIGHT_IN, title) as (figure, axes):
        axes.plot(xs, ys, color=MARK, marker=".", markersize=4, linewidth=1.5)
        axes.plot([x for x in xs if x == kept], [y for x, y in points if x == kept], "o", color=MARK, markersize=7)
        axes.set_xlim(min(xs) - 0.5, max(xs) + 0.5)
        axes.set_ylim(*_around(ys, 0.0, highest))
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
        axes.set_xlabel("epoch")
        return _svg(figure, title)


def ranges(rows: Sequence[Row], title: str, line: float | None = None) -> Markup:
    """One dot for each row, the first on top, with its interval; `line` is marked by a vertical line."""
    values = [end for _, value, interval in rows for end in (value, *interval)]
    with _figure(WIDER_IN, 0.9 + ROW_IN * len(rows), title) as (figure, axes):
        for place, (_, value, (low, high)) in enumerate(rows):
            axes.plot([low, high], [place, place], color=MARK, linewidth=2, alpha=0.5)
            axes.plot(value, place, "o", color=MARK, markersize=5)
        if line is not None:
            axes.axvline(line, color=INK, linewidth=0.8, linestyle="--")
            values.append(line)
        axes.set_xlim(*_around(values, -math.inf, math.inf))
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_yticks(range(len(rows)), [name for name, *_ in rows])
        axes.grid(axis="y", visible=False)
        return _svg(figure, title)


def calibration(points: Sequence[Point], title: str) -> Markup:
    """Realised over nominal false-alarm rates, both above 0, on logarithmic axes of one range; dashed: equal rates."""
    from matplotlib.ticker import NullFormatter, StrMethodFormatter

    low = min(value for point in points for value in point) / 1.5
    high = max(value for point in points for value in point) * 1.5
    with _figure(WIDTH_IN, WIDTH_IN, title) as (figure, axes):
        axes.plot([low, high], [low, high], color=INK, linewidth=0.8, linestyle="--")
        axes.plot([x for x, _ in points], [y for _, y in points], color=MARK, marker="o", markersize=4, linewidth=1.5)
        axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(StrMethodFormatter("{x:g}"))  # 0.01; by default it is TeX
            axis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("alpha (nominal)")
        axes.set_ylabel("share of clicks (realised)")
        return _svg(figure, title)


def _around(values: Sequence[float], lowest: float, highest: float) -> Point:
    """Limits of an axis that has all values inside: never empty, and never beyond what the values can be."""
    low, high = min(values), max(values)
    pad = max(0.1 * (high - low), 0.05 * max(abs(low), abs(high)), 0.005)
    return max(lowest, low - pad), min(highest, high + pad)


@contextmanager
def _figure(width_in: float, height_in: float, title: str) -> "Iterator[tuple[Figure, Axes]]":
    """A figure with one pair of axes, under our style whatever the reader's matplotlibrc says."""
    import matplotlib.style
    from matplotlib.figure import Figure

    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        axes = figure.add_subplot()
        figure.suptitle(title, x=0.01, horizontalalignment="left")
        yield figure, axes


def _svg(figure: "Figure", title: str) -> Markup:
    """The figure as one <svg> element for a page: no namespaces, no metadata, no ids that another figure could have."""
    file = StringIO()
    figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    drawn = file.getvalue()
    view = re.search(r'viewBox="[^"]*"', drawn)
    assert view is not None
    shapes = drawn[drawn.index(">", view.end()) + 1 :]
    shapes = re.sub(r'<g id="[^"]*">', "<g>", shapes).replace("xlink:href", "href")
    shapes = shapes.replace(INK, "currentColor").replace(MARK, "var(--mark)")
    name = escape(title)
    width = round(figure.get_figwidth() * PIXELS_PER_INCH)
    return Markup(f'<svg width="{width}" {view[0]} role="img" aria-label="{name}"><title>{name}</title>{shapes}')
