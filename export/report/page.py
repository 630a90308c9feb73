"""Writes the training report into the model directory: report.html for people, and report.json for programs.

The template page.html has all texts of the page. This module converts the figures to tables and charts. The page is
self-contained: it loads no scripts, fonts or images. The worker does not read the report, so the report is not in the
manifest, and a change of the report does not change the identity of the model.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from export.evaluate.held_out import Findings
from export.measure.metrics import COLD
from export.report import charts
from export.report.verdict import METHODS, verdict
from stream.manifest import Manifest

PAGE, DATA = "report.html", "report.json"

CURVES = (("loss", "loss", float("inf")), ("recall20", "held-out recall@20", 1.0), ("mrr20", "held-out MRR@20", 1.0))
"""For each learning curve: key in the figures of an epoch, title, and largest possible value."""

KINDS = (("by_position", "clicks so far"), ("by_popularity", "next item"))

Figures = Mapping[str, Any]
Cells = list[tuple[str, ...]]


@dataclass(frozen=True)
class About:
    """The origin of the figures: name of the log, end of the training (UTC), and version of Eddy."""

    log: str
    date: str
    eddy: str


def write_report(directory: Path, manifest: Manifest, findings: Findings, about: About) -> None:
    """Write report.html and report.json. The page omits sections without measurements."""
    found = {**asdict(about), "verdict": verdict(findings.held_out.get("lead", {}))._asdict(), **asdict(findings)}
    (directory / DATA).write_text(json.dumps(found, indent=1) + "\n")
    (directory / PAGE).write_text(page(manifest, findings, about), encoding="utf-8")


def page(manifest: Manifest, findings: Findings, about: About) -> str:
    """Return the HTML of the page. All names are escaped, so a name cannot change the page."""
    held_out = findings.held_out
    methods = {METHODS.get(name, name): one for name, one in held_out.items() if _is_method(one)}
    template = Environment(
        loader=PackageLoader("export.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("page.html")
    return template.render(
        label=manifest.label,
        about=about,
        verdict=verdict(held_out.get("lead", {})),
        judged=f"{held_out.get('judged', 0):,}",
        cold=COLD,
        methods=_methods(methods),
        methods_chart=_methods_chart(methods),
        remarks=held_out.get("remarks", ()),
        kinds=[_kinds(methods, *kind) for kind in KINDS] if methods else [],
        curves=_curves(findings),
        ablations=_ablations(findings.ablations),
        calibration=_calibration(findings.calibration),
        card=_card(manifest),
    )


def _is_method(value: object) -> bool:
    return isinstance(value, Mapping) and "recall20" in value and "recall20_95" in value


def _methods(methods: Mapping[str, Figures]) -> Cells:
    """Return a table row for each method, with its figures and intervals."""

    def ranged(one: Figures, measure: str) -> str:
        low, high = one[f"{measure}_95"]
        return f"{one[measure]:.4f} ({low:.4f} to {high:.4f})"

    return [
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


def _methods_chart(methods: Mapping[str, Figures]) -> Markup:
    rows = [(name, one["recall20"], one["recall20_95"]) for name, one in methods.items()]
    return charts.ranges(rows, "recall@20 with its 95% interval") if rows else Markup("")


def _kinds(methods: Mapping[str, Figures], key: str, title: str) -> dict[str, Any]:
    """Return a table of recall@20 of every method, for the parts of the lists by one of KINDS."""
    parts = methods["Eddy"][key]
    return {
        "head": (title, *(f"{kind} ({part['judged']:,})" for kind, part in parts.items())),
        "rows": [(name, *(f"{one[key][kind]['recall20']:.4f}" for kind in parts)) for name, one in methods.items()],
    }


def _curves(findings: Findings) -> list[Markup]:
    found = []
    for key, title, highest in CURVES:
        points = [(float(one["epoch"]), float(one[key])) for one in findings.epochs if key in one]
        if points:
            found.append(charts.epochs(points, title, findings.best_epoch, highest))
    return found


def _ablations(ablations: Mapping[str, Figures]) -> dict[str, Any] | None:
    """Return the change of the lists without each part, as a chart and a table. None if it was not measured."""
    if not ablations:
        return None

    def apart(change: Figures) -> str:
        low, high = change["95"]
        return f"{change['mean']:+z.4f} ({low:+z.4f} to {high:+z.4f})"  # z: never -0.0000

    rows, losses = [], []
    for name, one in ablations.items():
        change = one.get("change")
        recall, mrr = ("", "") if change is None else (apart(change["recall20"]), apart(change["mrr20"]))
        rows.append((name, f"{one['recall20']:.4f}", recall, f"{one['mrr20']:.4f}", mrr))
        if change is not None:
            losses.append((name, change["recall20"]["mean"], change["recall20"]["95"]))
    return {
        "judged": f"{next(iter(ablations.values()))['judged']:,}",
        "chart": charts.ranges(losses, "recall@20 without it, difference", line=0.0) if losses else "",
        "rows": rows,
    }


def _calibration(curve: Sequence[charts.Point]) -> dict[str, Any] | None:
    shown = [(alpha, share) for alpha, share in curve if alpha > 0 and share > 0]  # a logarithmic axis cannot show 0
    return (
        {
            "chart": charts.calibration(shown, "nominal and realised false-alarm rate") if shown else "",
            "rows": [(f"{alpha:g}", f"{share:.4%}") for alpha, share in curve],
        }
        if curve
        else None
    )


def _card(manifest: Manifest) -> dict[str, Cells]:
    """Return the model card: facts about data and model, settings, and files."""
    training = dict(manifest.training)
    settings = training.pop("settings", {})
    facts: Cells = [
        ("model", manifest.label),
        ("cell", manifest.cell),
        ("items", f"{manifest.items:,}"),
        ("event types", ", ".join(manifest.event_types)),
        ("state of a user", ", ".join(f"{part.name} {list(part.shape)}" for part in manifest.state)),
        *((name.replace("_", " "), _written(value)) for name, value in training.items()),
        *((f"held-out {name}", _written(value)) for name, value in manifest.quality.items()),
    ]
    chosen = settings.items() if isinstance(settings, Mapping) else ()
    return {
        "facts": facts,
        "settings": [(str(name), _written(value)) for name, value in chosen],
        "files": list(manifest.files.items()),
    }


def _written(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, default=str)
