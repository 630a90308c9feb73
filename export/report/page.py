"""What a training came to -> report.html in the model directory: one page for people, and report.json for programs.

Self-contained: no script, no font, no picture from elsewhere, charts as SVG drawn here. It holds learning curves, the
methods on the held-out slice, ablations, how well the calibration's promise holds, and the model card. Neither file
is served, so neither is in the manifest: the page can change without the model becoming another.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

from export.evaluate.held_out import Findings
from export.report.charts import Point, bars, chart
from stream.manifest import Manifest

PAGE, DATA = "report.html", "report.json"

LIMITS = (
    "An item that is new since the training is recommended only after the next one; until then its clicks move the "
    "user's state as those of an unknown item.",
    "The calibration holds for clicks like the held-out ones. A shop that changes needs a new training.",
    "The held-out figures are of a network that had not seen the slice; the one that is served learned it too.",
    "Which epoch was best and how popularity passes were chosen on the held-out slice, which flatters eddy a little, "
    "and the shift of popularity among the ablations. `eddy evaluate` on later clicks is the honest figure.",
    "How far the network is trusted beside what a user's last items bring (the mixture's gates) was fitted on every "
    "other held-out click. The card's and the ablations' figures are judged on the rest, of users with their history, "
    "by each user's next click, be it of a later visit; the table counts both halves, of users without, within the "
    "visit.",
)


def write_report(directory: Path, manifest: Manifest, findings: Findings) -> None:
    """Write report.html and report.json. Parts for which nothing was measured are left out."""
    (directory / DATA).write_text(json.dumps(asdict(findings), indent=1) + "\n")
    (directory / PAGE).write_text(page(manifest, findings), encoding="utf-8")


def page(manifest: Manifest, findings: Findings) -> str:
    """The whole page."""
    parts = [
        _section("Methods on the held-out slice", _methods(findings.held_out)),
        _section("Where the hits are", _kinds(findings.held_out)),
        _section("Learning curves", _curves(findings)),
        _section("Ablations", _ablations(findings.ablations)),
        _section("Calibration", _calibration(findings.calibration)),
        _section("Model card", _card(manifest)),
        _section("Limits", "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in LIMITS) + "</ul>"),
    ]
    title = escape(manifest.label)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>\n'
        f"<body><h1>{title}</h1>\n{''.join(parts)}</body></html>\n"
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>\n{body}</section>\n" if body else ""


# -- tables -----------------------------------------------------------------------------------------------------------


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], strong: str = "") -> str:
    """The first column names the row; the row named `strong` stands out. All text is escaped."""
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    lines = [f"<tr>{cells}</tr>"]
    for first, *rest in rows:
        kind = ' class="strong"' if first == strong else ""
        data = "".join(f"<td>{escape(cell)}</td>" for cell in rest)
        lines.append(f"<tr{kind}><th>{escape(first)}</th>{data}</tr>")
    return '<div class="wide"><table>' + "\n".join(lines) + "</table></div>\n"


def _is_method(value: object) -> bool:
    return isinstance(value, Mapping) and "recall20" in value and "recall20_95" in value


def _methods(held_out: Mapping[str, Any]) -> str:
    """Each method's figures with their intervals."""
    methods = {name: one for name, one in held_out.items() if _is_method(one)}
    if not methods:
        return ""

    def ranged(one: Mapping[str, Any], measure: str) -> str:
        low, high = one[f"{measure}_95"]
        return f"{one[measure]:.4f} ({low:.4f}–{high:.4f})"  # noqa: RUF001

    rows = [
        (
            name,
            ranged(one, "recall20"),
            ranged(one, "mrr20"),
            f"{one['ndcg20']:.4f}",
            f"{one['coverage20']:.1%}",
            f"{one['popularity20']:,.0f}",
            f"{one['cold20']:.1%}",
        )
        for name, one in methods.items()
    ]
    head = ("", "recall@20", "MRR@20", "NDCG@20", "coverage", "mean popularity", "cold items")
    return (
        f"<p>{held_out['judged']:,} lists of 20 from the whole catalogue, each judged by the session's next item. In "
        "brackets 95% bootstrap intervals over sessions. Coverage: share of the catalogue that was recommended at all; "
        "mean popularity: training clicks of a recommended item; cold: recommended items with at most 5.</p>\n"
        + _table(head, rows, strong="eddy")
        + "".join(f"<p>{escape(line)}.</p>\n" for line in held_out["remarks"])
    )


def _kinds(held_out: Mapping[str, Any]) -> str:
    """recall@20 of every method by position in the session and by the popularity of what came next."""
    methods = {name: one for name, one in held_out.items() if _is_method(one)}
    parts = []
    for key, title in (("by_position", "clicks so far"), ("by_popularity", "what came next")):
        kinds = list(methods["eddy"][key]) if "eddy" in methods else []
        head = (f"recall@20 by {title}", *(f"{kind} ({methods['eddy'][key][kind]['judged']:,})" for kind in kinds))
        rows = [(name, *(f"{one[key][kind]['recall20']:.4f}" for kind in kinds)) for name, one in methods.items()]
        parts.append(_table(head, rows, strong="eddy") if kinds else "")
    return "".join(parts)


def _ablations(ablations: Mapping[str, Mapping[str, Any]]) -> str:
    """What the lists lose without each part, as a picture and a table."""
    if not ablations:
        return ""

    def apart(change: Mapping[str, Any]) -> str:
        low, high = change["95"]
        return f"{change['mean']:+.4f} ({low:+.4f} to {high:+.4f})"

    rows, losses = [], []
    for name, one in ablations.items():
        change = one.get("change")
        recall, mrr = ("", "") if change is None else (apart(change["recall20"]), apart(change["mrr20"]))
        rows.append((name, f"{one['recall20']:.4f}", recall, f"{one['mrr20']:.4f}", mrr))
        if change is not None:
            losses.append((name, change["recall20"]["mean"], change["recall20"]["95"]))
    judged = next(iter(ablations.values()))["judged"]
    return (
        f"<p>The lists of the network without one of its parts: {judged:,} held-out clicks that no gate was fitted on, "
        "of users with their history, the whole catalogue ranked. Beside each figure its difference to the lists as "
        "served, in brackets the 95% bootstrap interval of the difference over visits. The network had learned with "
        "the part: one that is trained without it may do better than this, and what one part brings another may bring "
        "as well.</p>\n"
        f'<div class="charts">{bars(losses, "recall@20 without it, difference")}</div>'
        + _table(("without", "recall@20", "difference", "MRR@20", "difference"), rows, strong="nothing")
    )


def _card(manifest: Manifest) -> str:
    """What it was made of: data, settings, files."""
    training = dict(manifest.training)
    settings = training.pop("settings", {})
    facts = [
        ("model", manifest.label),
        ("cell", manifest.cell),
        ("items", f"{manifest.items:,}"),
        ("event types", ", ".join(manifest.event_types)),
        ("state of a user", ", ".join(f"{part.name} {list(part.shape)}" for part in manifest.state)),
        *((name.replace("_", " "), _said(value)) for name, value in training.items()),
        *((f"held-out {name}", _said(value)) for name, value in manifest.quality.items()),
    ]
    chosen = [(str(name), _said(value)) for name, value in settings.items()] if isinstance(settings, Mapping) else []
    return (
        _table(("data and model", ""), facts)
        + (_table(("settings", ""), chosen) if chosen else "")
        + _table(("file", "sha256"), manifest.files.items())
    )


def _said(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, default=str)


# -- charts -----------------------------------------------------------------------------------------------------------


def _curves(findings: Findings) -> str:
    charts = []
    for key, title in (("loss", "loss"), ("recall20", "held-out recall@20"), ("mrr20", "held-out MRR@20")):
        points = [(float(one["epoch"]), float(one[key])) for one in findings.epochs if key in one]
        if points:
            charts.append(chart(points, title, "epoch", mark=findings.best_epoch))
    if not charts:
        return ""
    return (
        f'<div class="charts">{"".join(charts)}</div><p>The network by itself, before it is mixed with what the last '
        "items bring. The dot is the epoch that was kept.</p>\n"
    )


def _calibration(curve: Sequence[Point]) -> str:
    shown = [(alpha, share) for alpha, share in curve if alpha > 0 and share > 0]
    if not shown:
        return ""
    logs = [(math.log10(alpha), math.log10(share)) for alpha, share in shown]
    picture = chart(logs, "share with p <= alpha", "alpha", diagonal=True, power=True)
    rows = [(f"{alpha:g}", f"{share:.4%}") for alpha, share in curve]
    return (
        "<p>The earlier half of the held-out clicks calibrates, the later half is judged: on the dashed line the share "
        "of alarms is the promised one, above it there are more.</p>\n"
        f'<div class="charts">{picture}</div>' + _table(("alpha", "share of clicks with p <= alpha"), rows)
    )


STYLE = """
:root{color-scheme:light dark;--line:#888;--mark:#0a66c2;--soft:#8883}
@media(prefers-color-scheme:dark){:root{--mark:#6ab0f3}}
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem}h2{font-size:1.15rem;margin:2rem 0 .5rem}
.wide{overflow-x:auto}table{border-collapse:collapse;margin:.5rem 0 1rem;font-variant-numeric:tabular-nums}
th,td{padding:.2rem .7rem;text-align:right;border-bottom:1px solid var(--soft);font-weight:400;white-space:nowrap}
th:first-child,td:only-of-type{text-align:left}td:only-of-type{white-space:normal;overflow-wrap:anywhere}
tr:first-child th{font-weight:600}.strong th,.strong td{font-weight:700}
.charts{display:flex;flex-wrap:wrap;gap:1rem}svg{width:300px;max-width:100%}
svg text{font:11px system-ui,sans-serif;fill:currentColor}svg path,polyline{fill:none;stroke:var(--line)}
polyline{stroke:var(--mark);stroke-width:2}circle{fill:var(--mark)}path.same{stroke-dasharray:4 3}
path.bar{fill:var(--mark);stroke:none}path.spread{stroke:currentColor;stroke-width:1.5}
"""
