"""Draws charts as SVG for the report page, with matplotlib. The SVG has no scripts and no fonts, and uses page colours.

The same numbers give the same bytes: matplotlib hashes the ids of shapes with a fixed salt, and no date is written.
matplotlib is imported only when a chart is drawn, because the import takes half a second.
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
"""A name, a value and the interval (low, high) of the value."""

WIDTH_IN, WIDER_IN, HEIGHT_IN, ROW_IN = 4.0, 5.5, 2.5, 0.28
PIXELS_PER_INCH = 88
INK, MARK = "#010203", "#040506"
"""Placeholder colours, which `_svg` replaces by the colours of the page, because matplotlib has no currentColor."""

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
    """Draw a line with the value of each epoch, and a larger dot at the epoch of the served model.

    points   (epoch, value) pairs
    kept     the epoch whose weights were kept
    highest  largest possible value; the smallest is 0
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
    """Draw a dot with its interval for each row, the first row on top. `line` is the position of a vertical line."""
    values = [end for _, value, interval in rows for end in (value, *interval)]
    with _figure(WIDER_IN, 0.9 + ROW_IN * len(rows), title) as (figure, axes):
        for y, (_, value, (low, high)) in enumerate(rows):
            axes.plot([low, high], [y, y], color=MARK, linewidth=2, alpha=0.5)
            axes.plot(value, y, "o", color=MARK, markersize=5)
        if line is not None:
            axes.axvline(line, color=INK, linewidth=0.8, linestyle="--")
            values.append(line)
        axes.set_xlim(*_around(values, -math.inf, math.inf))
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_yticks(range(len(rows)), [name for name, *_ in rows])
        axes.grid(axis="y", visible=False)
        return _svg(figure, title)


def calibration(points: Sequence[Point], title: str) -> Markup:
    """Draw realised against nominal false-alarm rates on logarithmic axes. The dashed line shows equal rates.

    points  (nominal, realised) pairs, all above 0
    """
    from matplotlib.ticker import NullFormatter, StrMethodFormatter

    low = min(value for point in points for value in point) / 1.5
    high = max(value for point in points for value in point) * 1.5
    with _figure(WIDTH_IN, WIDTH_IN, title) as (figure, axes):
        axes.plot([low, high], [low, high], color=INK, linewidth=0.8, linestyle="--")
        axes.plot([x for x, _ in points], [y for _, y in points], color=MARK, marker="o", markersize=4, linewidth=1.5)
        axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(StrMethodFormatter("{x:g}"))  # such as 0.01; the default is TeX
            axis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("alpha (nominal)")
        axes.set_ylabel("share of clicks (realised)")
        return _svg(figure, title)


def _around(values: Sequence[float], lowest: float, highest: float) -> Point:
    """Return the limits of an axis that includes all values. They are apart, and within [lowest, highest]."""
    low, high = min(values), max(values)
    pad = max(0.1 * (high - low), 0.05 * max(abs(low), abs(high)), 0.005)
    return max(lowest, low - pad), min(highest, high + pad)


@contextmanager
def _figure(width_in: float, height_in: float, title: str) -> "Iterator[tuple[Figure, Axes]]":
    """Make a figure with one pair of axes. The style does not depend on the user's matplotlibrc."""
    import matplotlib.style
    from matplotlib.figure import Figure

    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        axes = figure.add_subplot()
        figure.suptitle(title, x=0.01, horizontalalignment="left")
        yield figure, axes


def _svg(figure: "Figure", title: str) -> Markup:
    """Convert the figure to one <svg> element without namespaces, metadata or ids that another figure could have."""
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
