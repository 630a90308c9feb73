"""docs/metrics.md lists exactly the metrics, phases, stages and alert rules that there are."""

import re

import yaml

from stream.meter import Meter
from stream.web.health import WHY_NOT_READY, Health
from stream.web.metrics import COUNTS, HISTOGRAMS, LEVELS, WorkerCollector
from tests.docs.blocks import ROOT

PAGE = (ROOT / "docs" / "metrics.md").read_text()


def table(head: str) -> list[list[str]]:
    """The cells of the table whose first line begins so."""
    rows = PAGE.split(f"\n{head}")[1].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_the_table_has_each_metric_with_its_type_and_labels() -> None:
    """The other way round, too: the page names no metric that the worker does not have."""
    labels = {figure.name: figure.labels for figure in (*COUNTS, *LEVELS, *HISTOGRAMS)}
    exposed = {}
    for family in WorkerCollector(Meter(), Health()).collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        exposed[name] = (family.type, labels.get(name, ()))
    shown = {}
    for name, kind, of, meaning in table("| metric |"):
        assert len(meaning) > 5, name
        shown[name.strip("`")] = (kind, tuple(re.findall(r"`(\w+)`", of)))
    assert shown == exposed
    assert set(re.findall(r"`(eddy_\w+)`", PAGE)) <= exposed.keys()


def test_the_table_has_each_phase_and_says_whether_it_is_ready() -> None:
    """As /readyz answers it."""
    shown = {phase.strip("`"): ready for phase, ready, _ in table("| phase |")}
    assert shown == {phase: "no" if reason else "yes" for phase, reason in WHY_NOT_READY.items()}


def test_the_table_has_each_alert_rule() -> None:
    """In the order of the file."""
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus" / "rules.yml").read_text())["groups"][0]["rules"]
    assert [name.strip("`") for name, _ in table("| alert |")] == [rule["alert"] for rule in rules]
