"""Numbers -> SVG for the report page: no script, and no colour but those that the page's style gives."""

from collections.abc import Sequence
from html import escape

Point = tuple[float, float]

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 300, 200, 52, 34, 24, 12


def chart(
    points: Sequence[Point],
    title: str,
    below: str,
    mark: float | None = None,
    diagonal: bool = False,
    power: bool = False,
) -> str:
    """One line as SVG.

    mark      x of the point that gets a dot
    diagonal  also the line y = x, and one range for both axes
    power     the numbers are exponents of ten, and are written as such
    """
    xs, ys = [x for x, _ in points], [y for _, y in points]
    (x0, x1), (y0, y1) = _range(xs), _range(ys)
    if diagonal:
        x0 = y0 = min(x0, y0)
        x1 = y1 = max(x1, y1)

    def at(x: float, y: float) -> str:
        across = LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)
        down = HEIGHT - BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - BOTTOM - TOP)
        return f"{across:.1f},{down:.1f}"

    def text(x: float, y: float, words: str, anchor: str) -> str:
        return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'

    def number(value: float) -> str:
        return f"{10**value:.2g}" if power else f"{value:.4g}"

    line = " ".join(at(x, y) for x, y in points)
    dots = [f'<circle r="4" cx="{c}" cy="{d}"/>' for x, y in points if x == mark for c, d in [at(x, y).split(",")]]
    base = HEIGHT - BOTTOM
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}"><title>{escape(title)}</title>'
        f'<path class="axis" d="M{LEFT},{TOP}V{base}H{WIDTH - RIGHT}"/>'
        + (f'<path class="same" d="M{at(x0, y0)}L{at(x1, y1)}"/>' if diagonal else "")
        + f'<polyline points="{line}"/>{"".join(dots)}'
        + text(LEFT - 4, base, number(y0), "end")
        + text(LEFT - 4, TOP + 9, number(y1), "end")
        + text(LEFT, base + 14, number(x0), "start")
        + text(WIDTH - RIGHT, base + 14, number(x1), "end")
        + text((LEFT + WIDTH - RIGHT) / 2, base + 28, below, "middle")
        + text(LEFT, TOP - 9, title, "start")
        + "</svg>"
    )


def _range(values: Sequence[float]) -> Point:
    """The least and the largest, never the same."""
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)
