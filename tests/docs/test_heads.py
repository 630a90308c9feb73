"""The tables of docs/heads.md on rounded scores hold the figures of the committed result file."""

import re

from tests.docs.blocks import ROOT
from tests.docs.test_results import results, share


def test_lists_by_rounded_scores() -> None:
    """Time by number of items, and the lists of a trained model."""
    page = (ROOT / "docs" / "heads.md").read_text()
    section = re.split(r"^## ", page.split("## Rounded scores of all items\n")[1], flags=re.MULTILINE)[0]
    times, lists = (
        [[cell.strip(" |") for cell in line.strip("|").split(" | ")] for line in block.splitlines()[2:]]
        for block in section.split("\n\n")
        if block.startswith("|")
    )
    found = results("rounded")
    assert times == [
        [f"{int(items):,}", f"{us['exact']:.1f}", f"{us['rounded']:.1f}", f"{us['ratio']:.2f}".removeprefix("0")]
        for items, us in found["us"].items()
    ]
    of_log = found["lists"]["bolcom"]
    exact, rounded = ([share(of_log[name][key]) for key in ("recall20", "mrr20")] for name in ("exact", "rounded"))
    same, shared = (f"{of_log[key]:.{digits}f}"[1:] for key, digits in (("same_lists", 4), ("shared_items", 5)))
    mean, largest = (f"{of_log[f'log_prob_difference_{which}']:g}"[1:] for which in ("mean", "largest"))
    assert lists[0][1:3] == exact
    assert lists[1][1:] == [*rounded, same, shared, f"{mean} / {largest} nats"]
    assert f"({of_log['items']:,} items" in section
    assert f"({of_log['clicks']:,} clicks)" in section
