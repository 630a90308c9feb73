"""The published JSON Schemas are those of this version."""

import json

import jsonschema
import pytest
from click.testing import CliRunner

from stream.events import Anomaly, DeadLetter, Feedback, Recommendation, Session, SystemAlert
from stream.outputs import OUTPUTS, json_schema
from stream.sinks.command import schema
from tests.docs.blocks import ROOT

PUBLISHED = ROOT / "docs" / "schemas"


@pytest.mark.parametrize("name", OUTPUTS)
def test_the_published_schema_is_current(name: str) -> None:
    """`eddy schema NAME > docs/schemas/NAME.json` writes it again."""
    printed = CliRunner().invoke(schema, [name]).output
    assert (PUBLISHED / f"{name}.json").read_text() == printed
    jsonschema.Draft202012Validator.check_schema(json.loads(printed))


def test_there_are_no_others() -> None:
    """A schema of each output, and none that is left of an earlier version."""
    assert {path.stem for path in PUBLISHED.iterdir()} == set(OUTPUTS)
    assert list(OUTPUTS.values()) == [Recommendation, Anomaly, SystemAlert, Session, DeadLetter, Feedback]
    assert json.loads(CliRunner().invoke(schema, []).output) == {name: json_schema(name) for name in OUTPUTS}


@pytest.mark.parametrize(
    "change", [{"user_id": None}, {"timestamp": "now"}, {"items": [1]}, {"p_value": "small"}], ids=str
)
def test_a_schema_refuses_what_is_no_output(change: dict[str, object]) -> None:
    """Of the wrong type, or missing."""
    good = {
        "id": "c-0-1", "user_id": "u", "item_id": "i", "timestamp": 1, "items": [], "log_probs": [], "surprise": 1.0,
        "p_value": 1.0, "model": "m/1", "of_a_later_version": True,
    }  # fmt: skip
    validator = jsonschema.Draft202012Validator(json_schema("recommendations"))
    assert validator.is_valid(good)
    assert not validator.is_valid(good | change)
    assert not validator.is_valid({name: value for name, value in good.items() if name not in change})
