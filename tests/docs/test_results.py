"""The tables of docs/results.md and README hold the figures of the committed result files."""

import json
import re
from typing import Any

import pytest

from tests.docs.blocks import ROOT

PAGE = (ROOT / "docs" / "results.md").read_text()
LOGS = {
    "bolcom sample": "bolcom",
    "Yoochoose 1/64": "yoochoose64",
    "Diginetica": "diginetica",
    "REES46": "rees46",
    "REES46, three hours of October": "rees46-oct",
    "retailrocket sample": "retailrocket",
    "Taobao, two hours": "taobao",
    "Taobao, 114 users": "taobao-users",
    "trivago": "trivago",
    "simulated returns": "returns",
    "simulated log": "successors",
    "UCI, a wholesaler's invoices": "uci",
}
ISOLATIONS = ("read_uncommitted", "read_committed")
P_VALUES = ("p<=0.05", "p<=0.01", "p<=0.001")


def results(name: str) -> dict[str, Any]:
    """A file of bench/results."""
    loaded = json.loads((ROOT / "bench" / "results" / f"{name}.json").read_text())
    assert isinstance(loaded, dict)
    return loaded


def table(text: str, title: str) -> list[list[str]]:
    """The rows of the first table under a heading, without its head."""
    section = re.split(r"^## ", text.split(f"## {title}\n")[1], flags=re.MULTILINE)[0]
    rows = [line.strip("|").split(" | ") for line in section.split("\n\n|")[1].splitlines()[2:] if line.startswith("|")]
    return [[cell.strip(" |") for cell in row] for row in rows]


def pair(figures: dict[str, float]) -> str:
    """recall@20 / MRR@20 as the tables write it."""
    return f"{figures['recall20']:.4f} / {figures['mrr20']:.4f}".replace("0.", ".")


def share(figure: float) -> str:
    return f"{figure:.4f}".removeprefix("0")


def test_items_without_training_clicks() -> None:
    """Each row is one kind of next click, with and without a catalogue."""
    found = results("cold_items")["results"]["rees46-oct"]
    expected = [
        [str(one["judged"]), *(pair(one[f"{way} a catalogue"]) for way in ("without", "with"))]
        for one in found.values()
    ]
    assert [row[1:] for row in table(PAGE, "Items without training clicks")] == expected


def test_lists_on_public_logs() -> None:
    """Each log's row is its figures, its training clicks and its number of seeds."""
    report = results("quality")
    rows = table(PAGE, "Lists on public logs")
    assert [row[0] for row in rows] == list(LOGS)
    for name, clicks, seeds, *cells in rows:
        found, conditions = report["results"][LOGS[name]], report["conditions"][LOGS[name]]
        methods = ("eddy", "vsknn", "markov", "session_popularity")
        assert cells[:4] == [pair(found[method]) for method in methods], name
        assert (clicks, int(seeds)) == (f"{conditions['clicks_trained_on']:,}", len(conditions["seeds"])), name


def test_a_news_site_day_by_day() -> None:
    """Each day's row is its figures."""
    found = results("days")["results"]
    rows = table(PAGE, "A news site, day by day")
    assert len(rows) == len(found)
    for day, *cells in rows:
        methods = ("eddy", "eddy_carried", "vsknn", "markov", "popularity")
        assert cells == [pair(found[f"globo-day{day}"][method]) for method in methods], day


def test_the_topic_equals_the_offline_evaluation() -> None:
    """The four rows are those of the parity run."""
    found = results("parity")
    for row, name in zip(
        table(PAGE, "The topic equals the offline evaluation"),
        ("online", "offline", "markov", "popularity"),
        strict=True,
    ):
        assert row[1:] == [share(found[f"{name}_recall20"]), share(found[f"{name}_mrr20"])], name


def test_throughput_beside_other_stream_processors() -> None:
    """Each contender's row is its figures, and each stage of a click its CPU time."""
    report = results("throughput")
    rows = table(PAGE, "Throughput beside other stream processors")
    assert len(rows) == len(report["conditions"]["states"])
    for (_, _, *cells), name in zip(rows, report["conditions"]["states"], strict=True):
        found = report["results"][name]
        low, median, high = (
            f"{found[key]:.2f}".removeprefix("0") for key in ("of_limit_lowest", "of_limit", "of_limit_highest")
        )
        assert cells == [median, f"{low} to {high}", f"{found['cpu_us']:,.0f}"], name
    stages = PAGE.split("| stage of a click in Eddy | CPU us |\n|---|---|\n")[1].split("\n\n")[0]
    assert stages.splitlines() == [f"| {stage} | {us:.1f} |" for stage, us in report["eddy_stages_us"].items()]


def test_lists_for_last_clicks_only() -> None:
    """Each row is the figures for one number of users."""
    report = results("lists")
    expected = [
        [
            f"{int(users):,}",
            f"{found['clicks_per_list']:.1f}",
            f"{found['eddy_cpu_us']:.0f} / {found['eddy_last_cpu_us']:.0f}",
            f"{found['gain']:.2f}",
            f"{found['gain_lowest']:.2f} to {found['gain_highest']:.2f}",
        ]
        for users, found in report["results"].items()
        if users != "rounds"
    ]
    assert table(PAGE, "Lists for last clicks only") == expected


def test_latency() -> None:
    """Each row is the figures of one side at one rate; a share of the capacity is named."""
    report = results("latency")
    shares = report["conditions"].get("share of the capacity", {})
    expected = [
        [
            f"{rate:,}" + (f" ({100 * shares[str(rate)]:.0f} % of the capacity)" if str(rate) in shares else ""),
            *(f"{run[f'{isolation}_p50_ms']:.0f} / {run[f'{isolation}_p99_ms']:.0f}" for isolation in ISOLATIONS),
            f"{run['cpu_us']:.0f}",
        ]
        for rate in report["conditions"]["rates"]
        for run in report["results"][str(rate)].values()
    ]
    assert [[rate, *cells] for rate, _, *cells in table(PAGE, "Latency")] == expected


SOAKED = {
    "read_uncommitted_p50_ms": "read_uncommitted, p50, ms",
    "read_uncommitted_p99_ms": "read_uncommitted, p99, ms",
    "read_committed_p50_ms": "read_committed, p50, ms",
    "read_committed_p99_ms": "read_committed, p99, ms",
    "cpu_us": "CPU us per click",
    "anon_mb": "the worker's own memory, MB",
    "file_mb": "mapped files, MB",
    "lag": "clicks that wait",
}


def test_a_long_run() -> None:
    """Each row compares the two thirds; the text has the conditions, and the picture is of the same run."""
    report = results("soak")
    expected = [
        [SOAKED[name], f"{of['first']:,.0f}", f"{of['last']:,.0f}", f"{of['ratio']:.2f}"]
        for name, of in report["results"]["thirds"].items()
    ]
    assert table(PAGE, "A long run") == expected
    at, minutes, every = (report["conditions"][name] for name in ("rate", "minutes", "every_s"))
    assert f"{at:,.0f} clicks per second for {minutes:g} minutes, {of_capacity(report)}" in PAGE
    assert f"the results of {every:g} seconds" in PAGE
    assert report["date"] in (ROOT / "docs" / "soak.svg").read_text()


def test_a_minute_without_a_broker() -> None:
    """The figures of the catch-up; the picture is of the same run."""
    report = results("outage")
    found = report["results"]["outage"]
    expected = [
        ["seconds without a broker", f"{found['away_s']:.0f}"],
        ["clicks that waited at most", f"{found['largest_lag']:,}"],
        ["seconds from the broker's answer to the catch-up", f"{found['wait_s']:.0f}"],
        ["seconds of the catch-up", f"{found['catch_up_s']:.0f}"],
        ["clicks/s in the catch-up", f"{found['clicks_per_s']:,}"],
        ["of the capacity", f"{found['of_capacity']:.2f}"],
        ["clicks", f"{found['clicks']:,}"],
        ["clicks lost", str(found["lost"])],
        ["clicks decided twice", str(found["decided_twice"])],
        ["clicks that the producer stored twice", str(found["stored_twice"])],
    ]
    assert table(PAGE, "A minute without a broker") == expected
    assert f"{report['conditions']['rate']:,.0f} clicks per second, {of_capacity(report)}" in PAGE
    assert report["date"] in (ROOT / "docs" / "outage.svg").read_text()


def of_capacity(report: dict[str, Any]) -> str:
    """A rate as a share of what a worker with a backlog decides, as the page writes it."""
    share, most = (report["conditions"][name] for name in ("share", "capacity"))
    return f"{100 * share:.0f} % of the {most:,.0f} that it decides with a backlog"


def test_growth() -> None:
    """Each row is one number of items or users, and where the states are."""
    expected = [
        [
            f"{int(name.split()[0]):,} {name.split(maxsplit=1)[1]}",
            f"{row['cpu_us']:g}",
            f"{row['times']:.2f}",
            f"{row['wall_us']:g}",
            f"{row['model_mb']:,}",
            f"{row['users_mb']:,}",
            f"{row['users_anon_mb']:,}",
        ]
        for name, row in results("scaling")["results"].items()
    ]
    assert table(PAGE, "Growth") == expected


def test_the_model_on_a_gpu() -> None:
    """Each row is the figures of one catalogue and batch."""
    report = results("gpu")
    expected = [
        [
            f"{int(items.split()[0]):,}",
            f"{int(batch.split()[1]):,}",
            *(f"{row[f'{side} step']:g} / {row[f'{side} score']:g}" for side in ("gpu", "cpu")),
            f"{row['faster']:g}",
            f"{row['lists']:.3f}",
        ]
        for items, rows in report["results"].items()
        for batch, row in rows.items()
    ]
    assert table(PAGE, "The model on a GPU") == expected
    assert all(row["split"] == 0 for rows in report["results"].values() for row in rows.values())


def test_random_faults() -> None:
    """Each run's row is its figures, and each kind of fault has the longest pause of all runs."""
    runs = results("chaos")["results"]
    rows, longest = [], dict[str, tuple[int, float]]()
    for name, run in runs.items():
        found = run["after compaction"]
        lost, twice = (sum(n for key, n in found.items() if key.endswith(f" {word}")) for word in ("lost", "twice"))
        figures = (run["faults"], found["clicks"], found["bad messages"], lost, twice, found["rows"])
        rows.append([name, *(f"{n:,}" for n in figures), str(found["rows that differ from the plain loop"])])
        for kind, of in run["pauses"].items():
            times, pause_s = longest.get(kind, (0, 0.0))
            longest[kind] = times + of["faults"], max(pause_s, of["longest_pause_s"])
    pauses = [[kind, str(times), f"{pause_s:.1f} s"] for kind, (times, pause_s) in sorted(longest.items())]
    section = PAGE.split("## Random faults\n")[1].split("\n## ")[0]
    shown = [
        [[cell.strip(" |") for cell in line.strip("|").split(" | ")] for line in part.splitlines()[2:]]
        for part in section.split("\n\n")
        if part.startswith("|")
    ]
    assert shown == [rows, pauses]


def test_calibration() -> None:
    """Shares of small p-values by log, and the news site's lowest and highest day."""
    conditions = results("quality")["conditions"]
    days = [day["calibration"] for day in results("days")["conditions"].values()]
    expected = {name: [conditions[log]["calibration"][p] for p in P_VALUES] for name, log in LOGS.items()}
    expected["news site, days 3 to 12, lowest day"] = [min(day[p] for day in days) for p in P_VALUES]
    expected["news site, days 3 to 12, highest day"] = [max(day[p] for day in days) for p in P_VALUES]
    assert {name: cells for name, *cells in table(PAGE, "Calibration")} == {
        name: [share(figure) for figure in figures] for name, figures in expected.items()
    }


@pytest.mark.parametrize("row", table((ROOT / "README.md").read_text(), "Results"), ids=lambda row: str(row[0]))
def test_readme_repeats_the_results_page(row: list[str]) -> None:
    """README's small table is a part of the large one."""
    name, seeds = re.match(r"(.*?)(?: \(mean of (\d) seeds\))?$", row[0]).groups()  # type: ignore[union-attr]
    whole = {cells[0]: cells for cells in table(PAGE, "Lists on public logs")}[name]
    assert (row[1:], seeds or "1") == (whole[3:6], whole[2])
