"""The tables of docs/networks.md, and of what a user does next, hold the figures of the committed result files."""

import re

from tests.docs.blocks import ROOT
from tests.docs.test_results import PAGE, pair, results, table

NETWORKS = (ROOT / "docs" / "networks.md").read_text()
NAMES = {"last event": "last_event", "boosting with the click before": "boosting_more"}


def test_the_networks() -> None:
    """Cost, and quality alone and as served."""
    found = results("networks")["results"]
    costs = {row[0].strip("`"): row[1:] for row in table(NETWORKS, "What each costs")}
    assert costs == {name: [f"{one['step_us']:g}", f"{one['bytes']:,}"] for name, one in found["costs"].items()}
    for title, log in {"bolcom sample": "bolcom", "REES46": "rees46", "News site, days 1 and 2": "globo-day3"}.items():
        quality = {row[0].strip("`"): row[1:3] for row in table(NETWORKS, title)}
        assert quality == {
            name: [pair({"recall20": one["network_recall20"], "mrr20": one["network_mrr20"]}), pair(one)]
            for name, one in found[log].items()
        }


def tables(title: str) -> list[list[list[str]]]:
    """The rows of each table under a heading, without heads."""
    section = re.split(r"^## ", PAGE.split(f"## {title}\n")[1], flags=re.MULTILINE)[0]
    blocks = [block.splitlines()[2:] for block in section.split("\n\n") if block.startswith("|")]
    return [[[cell.strip(" |") for cell in line.strip("|").split(" | ")] for line in block] for block in blocks]


def test_what_a_user_does_next() -> None:
    """Each cell of the three tables begins with the figure of the file."""
    found = results("behaviour")["results"]
    _, next_action, intent, returns = tables("What a user does next")
    for log, method, log_loss, macro_f1 in next_action:
        one = found[log]["next_action"][NAMES.get(method, method)]
        assert (log_loss[:5], macro_f1[:5]) == (f"{one['log_loss']:.3f}", f"{one['macro_f1']:.3f}"), (log, method)
    for what, _, method, *cells in intent:
        log, which = what.split(", ")
        part = {"each click": "every_click", "the third click": "after_3_clicks"}[which]
        one = found[log]["intent"][part][NAMES.get(method, method)]
        figures = [one[name] for name in ("auprc", "lift_10", "calibration_error")]
        assert [cell[:5] for cell in cells] == [f"{figure:.3f}"[:5] for figure in figures], (what, method)
    for what, method, *cells in returns:
        log, days = what.split(", ")
        one = found[log][f"return_{days[0]}d"][method]
        figures = [one[name] for name in ("log_loss", "auroc", "calibration_error")]
        assert [cell[:5] for cell in cells] == [f"{figure:.3f}" for figure in figures], (what, method)
    assert (len(next_action), len(intent), len(returns)) == (30, 40, 9)


def test_cost_of_following_sessions() -> None:
    found = results("following")["results"]["cpu_us_per_click"]
    costs = {row[0]: row[1:] for row in table((ROOT / "docs" / "behaviour.md").read_text(), "Cost")}
    assert costs == {part: [f"{found[batch][part]:.2f}" for batch in ("160", "1000", "5000")] for part in found["1000"]}
