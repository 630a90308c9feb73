"""docs/anomalies.md: its figures are those of the benchmark, its names those of the code."""

import json
import math
from typing import Any

import pytest

from stream.detect.episodes import GREW
from stream.detect.statistics import STATISTICS
from stream.detect.windows import LAST
from stream.events import DRIFT
from stream.model import forms
from stream.population import rates, surge
from stream.population.counts import FEWEST, OVER_NATS, OVER_RATIO, OVER_USERS, QUIET_MS, WARM_UP, WINDOW_MS
from stream.population.signs import SURGE, WHAT
from tests.docs.blocks import ROOT
from tests.docs.test_results import table

PAGE = (ROOT / "docs" / "anomalies.md").read_text()
RESULTS: dict[str, dict[str, Any]] = json.loads((ROOT / "bench" / "results" / "anomaly.json").read_text())["results"]
MANY: dict[str, dict[str, Any]] = json.loads((ROOT / "bench" / "results" / "system_alerts.json").read_text())["results"]
DELIVERED: dict[str, dict[str, int]] = json.loads((ROOT / "bench" / "results" / "delivered_alerts.json").read_text())[
    "results"
]
LOGS, OURS = ("rees46", "globo", "taobao"), "eddy p-value"
JUDGED = ("medium", "strong")


def share(figure: float) -> str:
    return f"{figure:.3f}".removeprefix("0")


def recall(method: dict[str, Any], kind: str, rate: int) -> float | None:
    """Mean over medium and strong episodes; None if the log has none of the kind."""
    found = [method["kinds"].get(f"{kind}, {strength}") for strength in JUDGED]
    return None if None in found else sum(one[f"recall_{rate}"] for one in found) / len(JUDGED)


def cells(kind: str) -> list[str]:
    """Eddy's recall and the best rule's, at one false session in 10,000, for each log."""
    row = []
    for log in LOGS:
        methods = RESULTS[log]
        ours = recall(methods[OURS], kind, 1)
        rules = [recall(method, kind, 1) for name, method in methods.items() if name != OURS]
        row += ["-", "-"] if ours is None else [share(ours), share(max(one for one in rules if one is not None))]
    return row


def test_every_statistic_is_explained() -> None:
    """By its name in the field `statistics` of an alert; the size of the window and of a growth are the code's."""
    assert [row[0].strip("`") for row in table(PAGE, "What is looked at")] == list(STATISTICS)
    assert f"last {LAST} clicks" in PAGE
    assert PAGE.count(f"`score` is {GREW:g} times that of the last alert") == 2


def test_what_is_found() -> None:
    """Recall of each kind, beside the best simple rule of each log and kind."""
    rows = table(PAGE, "What is found")
    kinds = {name.rpartition(", ")[0] for log in LOGS for name in RESULTS[log][OURS]["kinds"]}
    assert {row[0] for row in rows} == kinds
    for kind, *shown in rows:
        assert shown == cells(kind), kind


def test_the_means_of_all_kinds() -> None:
    """At 1 and at 10 false sessions in 10,000, beside the rule with the best mean."""
    key = "mean of medium and strong"
    for rate, (name, *shown) in zip((1, 10), table(PAGE, "All kinds together"), strict=True):
        assert name == f"{rate} in 10,000"
        expected = []
        for log in LOGS:
            rules = [method[key][f"recall_{rate}"] for other, method in RESULTS[log].items() if other != OURS]
            expected += [share(RESULTS[log][OURS][key][f"recall_{rate}"]), share(max(rules))]
        assert shown == expected


def test_the_rate_of_false_alerts() -> None:
    """Realised share of sessions at each nominal one, and in the worst hour."""
    for alpha, *shown in table(PAGE, "Does the rate hold"):
        found = [RESULTS[log][OURS]["nominal_and_realised"][f"{float(alpha):g}"] for log in LOGS]
        assert shown == [f"{one[key]:.5f}" for one in found for key in ("rate", "worst_hour")]


def test_harmless_behaviour() -> None:
    """Users of a control, and how many of them had an alert."""
    for kind, *shown in table(PAGE, "Harmless, but unusual"):
        found = [RESULTS[log][OURS]["controls"][kind] for log in LOGS]
        assert shown == [f"{one['users_alerted']:,} of {one['users']:,}" for one in found]


def test_every_sign_is_explained() -> None:
    """By its name in an alert on many users, with the numbers of the code."""
    signs = [row[0].strip("`") for row in table(PAGE, "Many users at once")]
    assert signs == [*WHAT, "alerts: STATISTIC", SURGE, DRIFT]
    assert (WINDOW_MS, QUIET_MS, FEWEST, OVER_USERS, OVER_RATIO, WARM_UP) == (300_000, 1_800_000, 50, 6, 1.5, 6)
    assert math.exp(-OVER_NATS) == pytest.approx(1e-6)
    assert (surge.PLACES, surge.OVER_RATIO, surge.TIMES) == (128, 2, 2)
    assert math.exp(-surge.OVER_NATS) * surge.PLACES == pytest.approx(1e-6)
    assert [forms.form(item) for item in ("4711", "14711", "SKU-17", "sku-17")] == ["0000", "00000", "A-00", "a-00"]
    assert forms.MOST == 1_000
    assert pytest.approx(0.56, abs=0.01) == surge.WORST_KEPT ** (86_400_000 / WINDOW_MS)


def test_how_p_values_follow_the_live_stream() -> None:
    """The numbers of the text are those of the code."""
    assert (rates.LEVELS, rates.EXCLUDED, rates.PRIOR, rates.MOST) == ((0.05, 0.01, 0.002), 0.00001, 300, 4)
    assert (rates.WINDOW_MS, rates.FEWEST) == (600_000, 50)
    assert pytest.approx(0.5) == rates.KEPT**18  # 18 windows of ten minutes are three hours
    assert (rates.LEVELS[rates.DRIFT_LEVEL], rates.DRIFT_OVER, rates.DRIFT_ENDS) == (0.01, 1.5, 1.2)
    assert math.exp(-rates.DRIFT_NATS) == pytest.approx(1e-6)


def test_how_soon_faults_are_found() -> None:
    """Begins with an alert within five minutes, of all, the median time to it, and how many had one later."""
    rows = table(PAGE, "Faults and campaigns")
    assert [row[0] for row in rows] == list(MANY[LOGS[0]]["faults"])
    for kind, *shown in rows:
        for log, cell in zip(LOGS, shown, strict=True):
            one = MANY[log]["faults"][kind]
            soon = sorted(delay for delay in one["minutes"] if delay is not None and delay <= 5)
            assert len(soon) == one["within_5_minutes"]
            median = f" in {soon[(len(soon) - 1) // 2]:.1f} min" if soon else ""
            later = f", {one['found'] - len(soon)} later" if one["found"] > len(soon) else ""
            assert cell == f"{len(soon)} of {one['begins']}{median}{later}"


def test_false_alerts_on_many_users() -> None:
    """On the clean clicks and in each control."""
    [shown] = table(PAGE, "Alerts where nothing is wrong")[:1]
    clean = [MANY[log]["clean"] for log in LOGS]
    assert shown[1:] == [
        f"{one['system_alerts']} and {one['alerts']:,} in {one['hours_with_clicks']} h" for one in clean
    ]
    for kind, *cells_ in table(PAGE, "Alerts where nothing is wrong")[1:]:
        found = [MANY[log]["controls"][kind] for log in LOGS]
        assert cells_ == [f"{one['system_alerts']} and {one['alerts'] + one['parts']:,}" for one in found]


def test_alerts_on_kafka_are_those_of_the_engine() -> None:
    """The counts of the benchmark, and no byte differed in any log."""
    rows = table(PAGE, "The same alerts on Kafka")
    for log, (_, *shown) in zip(LOGS, rows, strict=True):
        found = DELIVERED[log]
        assert shown == [f"{found[name]:,}" for name in ("clicks", "alerts", "system_alerts")]
        assert [n for name, n in found.items() if name.endswith(("_missing", "_surplus"))] == [0] * 4


def test_the_log_of_hdfs() -> None:
    """The rows that the page shows are those of the file."""
    found = json.loads((ROOT / "bench" / "results" / "hdfs.json").read_text())["results"]

    def cells(rule: str) -> list[str]:
        one = found[rule]
        names = ("f1", "precision", "recall")
        figures = ["1.0000" if one[name] == 1 else f"{one[name]:.4f}".removeprefix("0") for name in names]
        return [rule, *figures, f"{one['normal_found']:,}"]

    rows = table(PAGE, "The log of HDFS")
    assert rows == [cells(row[0]) for row in rows]
