"""Draws series over time as an SVG file for the documents: panels below each other with a common time axis.

The style is that of the report page, on a white ground, because a browser shows the file in light and dark pages.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from export.report.charts import INK, STYLE

WIDTH_IN, PANEL_IN, TITLE_IN = 7.5, 1.5, 0.6
COLOURS = ("#1f5fa8", "#c2571a", "#3a7d34")
GROUND = "#ffffff"
TEXT = "#333333"
SHADE = "#999999"


class Panel(NamedTuple):
    """One pair of axes. lines: name -> values, one for each time; None where there is none."""

    label: str
    lines: Mapping[str, Sequence[float | None]]


def draw(
    path: Path,
    title: str,
    date: str,
    seconds: Sequence[float],
    panels: Sequence[Panel],
    shaded: tuple[float, float] | None = None,
) -> None:
    """Write the SVG file of some panels.

    date     of the measurement, as in the result file; it is written into the picture's metadata
    seconds  the times of all values
    shaded   begin and end of a time that is shaded in every panel, seconds
    """
    import matplotlib.style  # here, as in export/report/charts.py: it takes a second to import
    from matplotlib.figure import Figure

    style = {name: TEXT if value == INK else value for name, value in STYLE.items()}
    with matplotlib.style.context(["default", style, {"figure.facecolor": GROUND, "axes.facecolor": GROUND}]):
        figure = Figure(figsize=(WIDTH_IN, TITLE_IN + PANEL_IN * len(panels)), layout="constrained")
        figure.suptitle(title, x=0.01, horizontalalignment="left")
        several = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
        for axes, panel in zip(several, panels, strict=True):
            for (name, values), colour in zip(panel.lines.items(), COLOURS, strict=False):
                there = [float("nan") if value is None else value for value in values]
                axes.plot(seconds, there, color=colour, linewidth=1.2, label=name)
            if shaded is not None:
                axes.axvspan(*shaded, color=SHADE, alpha=0.25, linewidth=0)
            axes.set_ylabel(panel.label)
            axes.set_ylim(bottom=0)
            if len(panel.lines) > 1:
                axes.legend(loc="lower left", frameon=False, ncols=len(panel.lines))
        several[-1].set_xlabel("seconds")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Title": title, "Date": date, "Creator": None})
