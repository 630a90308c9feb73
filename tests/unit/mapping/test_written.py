"""`eddy replay` writes what a mapping's topic has."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.errors import ConfigError
from stream.events import Click
from stream.mapping.parse import parse_mapping
from stream.mapping.shape import message_shape
from stream.mapping.written import written
from stream.wire.json import JsonCodec

NOW_MS = 1_760_000_000_000
MAPPING = """
[fields]
user_id = ["who.id", "who.anonymous"]
item_id = "what.all[1].id"
timestamp = "at"
event_type = "kind"
price = "what.all[1].price"
category = "what.kind"

[event_types]
"Product Passed" = "view"
"Product Seen" = "view"
"Product Viewed" = "view"

[events]
drop = ["Product Passed"]

[time]
unit = "us"
"""
IDS = st.text(st.characters(categories=["Ll", "Lo"]), min_size=1, max_size=9)


def test_each_value_is_at_its_first_path() -> None:
    """With their name of the event type and their unit; what the mapping does not read is not written."""
    click = Click("u1", "i1", NOW_MS, "view", "s", 9.5, 2.0, "shoes", "e")
    assert json.loads(written(parse_mapping(MAPPING, "x"), click)) == {
        "who": {"id": "u1"},
        "what": {"all": [{}, {"id": "i1", "price": 9.5}], "kind": "shoes"},
        "at": NOW_MS * 1000,
        "kind": "Product Seen",
    }


def test_the_name_of_an_event_type_is_one_that_is_kept() -> None:
    """Two of their names are Eddy's view, and the mapping keeps events of one: the other one would be left out."""
    text = MAPPING.replace("[events]", '[events]\nkeep = ["Product Viewed", "cart"]')
    for theirs, ours in (("Product Viewed", "view"), ("cart", "cart")):
        message = json.loads(written(parse_mapping(text, "x"), Click("u1", "i1", NOW_MS, ours)))
        assert message["kind"] == theirs


@given(
    click=st.builds(
        Click,
        user_id=IDS,
        item_id=IDS,
        timestamp=st.integers(10**12, NOW_MS),
        event_type=st.sampled_from(["view", "cart"]),
        price=st.none() | st.floats(0, 1e9),
        category=st.none() | IDS,
    )
)
def test_what_is_written_is_read_as_the_same_click(click: Click) -> None:
    """For every click of a log whose fields the mapping reads."""
    mapping = parse_mapping(MAPPING, "x")
    codec = JsonCodec(4096, 0, message_shape(mapping.of_topic()))
    assert codec.decode(click.user_id.encode(), written(mapping, click), NOW_MS) == click


def test_paths_that_no_message_can_have_are_refused() -> None:
    """A value cannot be text and an object at once."""
    mapping = parse_mapping("[fields]\nuser_id = 'a'\nitem_id = 'a.b'\ntimestamp = 'c'", "x")
    with pytest.raises(ConfigError, match=r"no message can have a value at a\.b"):
        written(mapping, Click("u", "i", NOW_MS))
