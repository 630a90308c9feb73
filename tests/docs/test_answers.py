"""docs/answers.md shows the paths, fields and errors that a worker has."""

import json
import re
from typing import Any

from stream.answers.asked import LARGEST_K, MOST_EXCLUDED, PARAMETERS
from stream.answers.openapi import CLICK, ERRORS, REASON, SCHEMAS, description
from stream.web.server import MOST_CONNECTIONS
from tests.docs.blocks import ROOT, blocks

PAGE = ROOT / "docs" / "answers.md"
TEXT = PAGE.read_text()


def examples() -> list[dict[str, Any]]:
    return [json.loads(block.text) for block in blocks(PAGE) if block.language == "text"]


def test_each_path_is_in_the_table_with_its_method() -> None:
    """And no other one."""
    shown = {(method, path) for method, path in re.findall(r"`(GET|DELETE) (/v1/[^`]*)`", TEXT)}
    paths = description()["paths"]
    shown -= {("GET", "/v1/openapi.json")}
    assert shown == {(method.upper(), path) for path, methods in paths.items() for method in methods}


def test_each_example_has_the_fields_of_its_schema() -> None:
    """Their types, too: the examples are what a worker sends."""
    shown = [example for example in examples() if "because" not in example]
    names = ("Recommendations", "User", "Similar", "Forgotten")
    assert [list(example) for example in shown] == [SCHEMAS[name]["required"] for name in names]
    kinds = {"string": str, "integer": int, "number": float, "boolean": bool, "array": list}
    for example, name in zip(shown, names, strict=True):
        for field, value in example.items():
            kind = SCHEMAS[name]["properties"][field].get("type")
            if isinstance(kind, str):
                assert isinstance(value, kinds[kind]), field


def test_the_example_of_reasons_has_their_fields() -> None:
    """A list of reasons for each item."""
    [example] = [example for example in examples() if "because" in example]
    assert len(example["items"]) == len(example["because"])
    for reasons in example["because"]:
        assert all(reason.keys() == REASON.keys() for reason in reasons)
    assert all(reason.keys() == {*CLICK, "without"} for reason in example["intent_because"])
    assert all(reason["without"] < example["intent"] for reason in example["intent_because"])


def test_each_field_parameter_and_status_is_explained() -> None:
    """A field that is in the decision may be explained there."""
    fields = {field for name in ("Recommendations", "User", "Status") for field in SCHEMAS[name]["required"]} - {
        "user_id"
    }
    for name in (*fields, "propensities", "explored", "intent_because", *PARAMETERS):
        assert f"`{name}`" in TEXT, name
    listed = TEXT.split("| status |")[1].split("\n\n")[0]
    assert {int(status) for status in re.findall(r"\b[45]\d\d\b", listed)} == ERRORS.keys()
    assert f"1 to {LARGEST_K}" in TEXT
    assert f"at most {MOST_EXCLUDED:,}" in TEXT
    assert f"at most {MOST_CONNECTIONS} connections" in TEXT


def test_the_table_has_the_figures_of_the_result_file() -> None:
    """As bench.answers has written them."""
    result = json.loads((ROOT / "bench" / "results" / "answers.json").read_text())
    kinds = [result[kind] for kind in ("without", "livez", "with")]
    pairs = [f"{kind['answer_p50_ms']} / {kind['answer_p99_ms']}" for kind in kinds[1:]]
    decisions = [f"{kind['decision_p50_ms']} / {kind['decision_p99_ms']}" for kind in kinds]
    for cells in (
        ["latency of an answer, p50 / p99, ms", "", *pairs],
        ["clicks decided a second", *(str(kind["clicks_per_s"]) for kind in kinds)],
        ["latency of a decision, p50 / p99, ms", *decisions],
        ["CPU time of the worker for each click, us", *(str(kind["cpu_us_per_click"]) for kind in kinds)],
        ["cores that other programs used", *(str(kind["others_cores"]) for kind in kinds)],
    ):
        assert f"| {' | '.join(cells)} |".replace("|  |", "| |") in TEXT
    assert f"`{result['command']}`" in TEXT
    assert not result["lost"] + result["decided_twice"]
