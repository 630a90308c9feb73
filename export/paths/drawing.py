"""Draws the funnel and the flow from step to step as SVG, in the colours of the page and without a script.

The classes of the shapes are in page.html. Each picture has a name for people who cannot see it; the page has a table
with the same figures beside it.
"""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup, escape

from export.sequences.flow import END
from stream.log_lines import counted, printable

Figures = dict[str, Any]

WIDTH, BAR_X, BAR_WIDTH, ROW, BAR = 960.0, 170.0, 470.0, 56.0, 26.0
HEIGHT, GAP, NODE, LABEL_X, TOP = 460.0, 15.0, 12.0, 6.0, 24.0
LEAST = 1.0
"""Smallest height of a node and width of a link, px."""

LONGEST = 20
"""Characters of a name in a picture; the whole name is in the shape's title and in the table."""


def funnel(stages: Sequence[Figures]) -> Markup:
    """Draw a bar for each stage, with its interval as a line, and the drop-off between the bars."""
    shapes = []
    for number, stage in enumerate(stages):
        y, share, name = 4 + number * ROW, stage["share"], stage["stage"]
        middle = y + BAR / 2
        shapes.append(_text(BAR_X - 10, middle, _short(name), "end"))
        shapes.append(f'<rect class="node" x="{BAR_X}" y="{y:.1f}" width="{share * BAR_WIDTH:.1f}" height="{BAR}"/>')
        low, high = (BAR_X + end * BAR_WIDTH for end in stage["share_95"])
        shapes.append(f'<path class="range" d="M{low:.1f} {middle:.1f}H{high:.1f}"/>')
        shapes.append(_text(max(high, BAR_X) + 10, middle, f"{counted(stage['sessions'], 'session')}, {share:.1%}"))
        if number and stage["drop_off"]["of"]:
            shapes.append(_text(BAR_X + 6, y - (ROW - BAR) / 2, f"drop-off {stage['drop_off']['share']:.1%}"))
    said = ", ".join(f"{printable(stage['stage'])} {stage['share']:.1%}" for stage in stages)
    return _svg(f"Funnel: share of sessions that reach each stage: {said}", shapes, len(stages) * ROW - (ROW - BAR) + 8)


def sankey(flow: Figures) -> Markup:
    """Draw a column of steps for each position in a session, and a band for the sessions from step to step."""
    columns, total = flow["columns"], sum(node["sessions"] for node in flow["columns"][0])
    most = max(len(column) for column in columns)
    scale = (HEIGHT - TOP - GAP * (most - 1) - LEAST * most) / total
    across = WIDTH / len(columns)
    top: dict[tuple[int, str], float] = {}
    nodes = []
    for number, column in enumerate(columns):
        x, y = number * across, TOP
        nodes.append(_text(x, 8, f"step {number + 1}"))
        for node in sorted(column, key=lambda node: (node["step"] == END, -node["sessions"])):
            name, height = node["step"], max(LEAST, node["sessions"] * scale)
            top[number, name] = y
            said = f"{printable(name)}: {counted(node['sessions'], 'session')}"
            kind = "end" if name == END else "node"
            nodes.append(
                f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{NODE}" height="{height:.1f}">'
                f"<title>{escape(said)}</title></rect>"
            )
            share = node["sessions"] / total
            nodes.append(_text(x + NODE + LABEL_X, y + height / 2, f"{_short(name)} {share:.1%}"))
            y += height + GAP
    links, leave, arrive = [], dict(top), dict(top)
    for link in sorted(
        flow["links"],
        key=lambda one: (one["column"], top[one["column"], one["from"]], top[one["column"] + 1, one["to"]]),
    ):
        before, after = (link["column"], link["from"]), (link["column"] + 1, link["to"])
        width = link["sessions"] * scale
        y0, y1 = leave[before] + width / 2, arrive[after] + width / 2
        leave[before] += width
        arrive[after] += width
        x0, x1 = before[0] * across + NODE, after[0] * across
        middle = (x0 + x1) / 2
        said = f"{printable(link['from'])} > {printable(link['to'])}: {counted(link['sessions'], 'session')}"
        links.append(
            f'<path class="{"gone" if link["to"] == END else "link"}" stroke-width="{max(LEAST, width):.1f}" '
            f'd="M{x0:.1f} {y0:.1f}C{middle:.1f} {y0:.1f} {middle:.1f} {y1:.1f} {x1:.1f} {y1:.1f}">'
            f"<title>{escape(said)}</title></path>"
        )
    name = f"Flow of {total:,} sessions through their first {len(columns)} steps; the table below has all numbers"
    return _svg(name, [*links, *nodes], HEIGHT + 8)


def _short(name: str) -> str:
    shown = printable(name)
    return shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 1]}…"


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" dy=".35em" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(name: str, shapes: Sequence[str], height: float) -> Markup:
    shown = escape(name)
    return Markup(
        f'<svg width="{WIDTH:.0f}" viewBox="0 0 {WIDTH:.0f} {height:.0f}" role="img" aria-label="{shown}">'
        f"<title>{shown}</title>{''.join(shapes)}</svg>"
    )
