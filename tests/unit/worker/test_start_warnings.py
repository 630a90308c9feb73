"""A rule on an event type that nobody sends does nothing: a mistyped one is named at the start."""

import pytest

from stream.settings import Rules
from stream.worker.start_warnings import unknown_event_types


@pytest.mark.parametrize(
    ("rules", "found"),
    [
        (Rules(), []),
        (Rules(exclude_events="purchase, cart"), []),
        (Rules(exclude_events="purchas,cart"), [("exclude_events", ["purchas"])]),
        (Rules(exclude_events="cart", readmit_events="remove"), [("readmit_events", ["remove"])]),
    ],
)
def test_event_types_that_the_model_does_not_know_are_found(rules: Rules, found: list[tuple[str, list[str]]]) -> None:
    assert unknown_event_types(rules, ["view", "cart", "purchase"]) == found
