"""Numbers -> SVG for the report page: no script, and no colour but those that the page's style gives."""

from collections.abc import Sequence
from html import escape

Point = tuple[float, float]
Bar = tuple[str, float, Point]
"""A name, its value and the interval around it."""

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 300, 200, 52, 34, 24, 12
ROW, THICK = 30, 9


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

    def number(value: float) -> str:
        return f"{10**value:.2g}" if power else f"{value:.4g}"

    line = " ".join(at(x, y) for x, y in points)
    dots = [f'<circle r="4" cx="{c}" cy="{d}"/>' for x, y in points if x == mark for c, d in [at(x, y).split(",")]]
    base = HEIGHT - BOTTOM
    return (
        _open(title, HEIGHT)
        + f'<path class="axis" d="M{LEFT},{TOP}V{base}H{WIDTH - RIGHT}"/>'
        + (f'<path class="same" d="M{at(x0, y0)}L{at(x1, y1)}"/>' if diagonal else "")
        + f'<polyline points="{line}"/>{"".join(dots)}'
        + _text(LEFT - 4, base, number(y0), "end")
        + _text(LEFT - 4, TOP + 9, number(y1), "end")
        + _text(LEFT, base + 14, number(x0), "start")
        + _text(WIDTH - RIGHT, base + 14, number(x1), "end")
        + _text((LEFT + WIDTH - RIGHT) / 2, base + 28, below, "middle")
        + _text(LEFT, TOP - 9, title, "start")
        + "</svg>"
    )


def bars(rows: Sequence[Bar], title: str) -> str:
    """One bar from zero for each row, its name above it and its interval as a line across it, as SVG."""
    ends = [0.0, *(end for _, value, interval in rows for end in (value, *interval))]
    low, high = _range(ends)
    base = TOP + ROW * len(rows)

    def at(value: float) -> str:
        return f"{RIGHT + (value - low) / (high - low) * (WIDTH - 2 * RIGHT):.1f}"

    drawn = []
    for number, (name, value, (least, most)) in enumerate(rows):
        top = TOP + ROW * number + ROW - THICK - 4
        drawn.append(_text(RIGHT, top - 4, name, "start"))
        drawn.append(f'<path class="bar" d="M{at(0)},{top}H{at(value)}v{THICK}H{at(0)}Z"/>')
        drawn.append(f'<path class="axis" d="M{at(0)},{top - 1}v{THICK + 2}"/>')
        drawn.append(f'<path class="spread" d="M{at(least)},{top + THICK / 2}H{at(most)}"/>')
    return (
        _open(title, base + 20)
        + "".join(drawn)
        + f'<path class="axis" d="M{RIGHT},{base}H{WIDTH - RIGHT}"/>'
        + _text(RIGHT, base + 14, f"{low:.4g}", "start")
        + _text(WIDTH - RIGHT, base + 14, f"{high:.4g}", "end")
        + _text(RIGHT, TOP - 9, title, "start")
        + "</svg>"
    )


def _open(title: str, height: int) -> str:
    name = escape(title)
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{name}"><title>{name}</title>'


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _range(values: Sequence[float]) -> Point:
    """The least and the largest, never the same."""
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)
