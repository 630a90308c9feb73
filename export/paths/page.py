"""Makes the page of `eddy paths` from its figures. It loads nothing and runs nothing; its texts are in paths.html."""

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from export.paths import drawing
from export.paths.tables import Figures, Table, arrows, share_of, summary, tables


def page(found: Figures) -> str:
    """Return the HTML of the page. All names are escaped, so a name cannot change the page."""
    template = Environment(
        loader=ChoiceLoader([PackageLoader("export.paths", "."), PackageLoader("export.report", ".")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("paths.html")
    pictures = {"paths": drawing.sankey(found["flow"])}
    if found["funnel"]:
        pictures["funnel"] = drawing.funnel(found["funnel"])
    return template.render(
        summary=summary(found),
        remarks=found["remarks"],
        tables=tables(found),
        flow=_flow(found),
        pictures=pictures,
    )


def _flow(found: Figures) -> Table:
    """The numbers of the picture of the flow."""
    total = found["sessions"]
    return Table(
        "flow",
        "",
        "",
        ("from one step to the next", "steps", "sessions", "of all"),
        [
            (
                arrows((link["from"], link["to"])),
                f"{link['column'] + 1} to {link['column'] + 2}",
                f"{link['sessions']:,}",
                share_of(link["sessions"] / total),
            )
            for link in found["flow"]["links"]
        ],
    )
