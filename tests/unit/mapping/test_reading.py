"""Which value of a message each field of a click gets, and which messages are left out."""

from typing import Any

import pytest

from stream.errors import Dropped
from stream.mapping.parse import parse_mapping
from stream.mapping.reading import FIELDS

BASE = """
[fields]
user_id = ["userId", "anonymousId"]
item_id = ["item", "items[0].id"]
timestamp = "time"
event_type = "event"
price = "price"
"""
EVENT = {"userId": "u", "item": "i", "time": 1_700_000_000_000, "event": "seen"}


def read(more: str = "", **changes: Any) -> dict[str, Any]:
    """The values that are not None of EVENT with these changes, by BASE and more sections."""
    event = {name: value for name, value in (EVENT | changes).items() if value != "missing"}
    values = parse_mapping(BASE + more, "x").of_topic().values(event)
    return {name: value for name, value in zip(FIELDS, values, strict=True) if value is not None}


@pytest.mark.parametrize("nothing", [None, "", float("nan"), "missing"])
def test_the_first_path_with_a_value_counts(nothing: object) -> None:
    """Null, empty text, NaN and a missing field are no value; the order is that of the file."""
    assert read(anonymousId="a")["user_id"] == "u"
    assert read(userId=nothing, anonymousId="a")["user_id"] == "a"
    assert "user_id" not in read(userId=nothing)
    assert read(item=nothing, items=[{"id": 5}, {"id": 6}])["item_id"] == 5


def test_a_value_of_a_wrong_type_is_a_value() -> None:
    """Else an event would silently belong to another user: it is refused where values are checked."""
    assert read(userId=[1], anonymousId="a")["user_id"] == [1]


def test_an_event_type_gets_eddy_s_name() -> None:
    """By what it is as a word, so 3, 3.0 and "3" are one type; a type that is not listed keeps its name."""
    more = '[event_types]\nseen = "view"\n3 = "cart"'
    assert [read(more, event=theirs)["event_type"] for theirs in ("seen", 3, 3.0, "3", "3.0", "else")] == [
        "view", "cart", "cart", "cart", "cart", "else",
    ]  # fmt: skip


def test_a_missing_value_gets_the_default() -> None:
    """Also where the field has no path: a constant. A default is not renamed."""
    more = '[event_types]\nseen = "view"\n[defaults]\nevent_type = "seen"\nprice = 3\ncategory = "shop"'
    found = read(more, event=None)
    assert (found["event_type"], found["price"], found["category"]) == ("seen", 3.0, "shop")
    assert read(more, price=0)["price"] == 0
    assert read(event=None)["event_type"] == "view"


@pytest.mark.parametrize(
    ("section", "kept"),
    [
        ('keep = ["seen"]', ["seen"]),
        ('keep = ["cart"]', ["put"]),
        ('keep = ["put", "other"]', ["put", "other"]),
        ('drop = ["put"]', ["seen", "other", None, [1]]),
        ('drop = ["cart", "view"]', ["seen", "other"]),
    ],
)
def test_event_types_are_left_out_by_either_name(section: str, kept: list[object]) -> None:
    """`keep` and `drop` have their names or Eddy's. An event without a usable type is a view."""
    more = f'[event_types]\nput = "cart"\n[events]\n{section}'
    for theirs in ("seen", "put", "other", None, [1]):
        if theirs in kept:
            read(more, event=theirs)
            continue
        with pytest.raises(Dropped) as dropped:
            read(more, event=theirs)
        assert dropped.value.reason == "event_type"


def test_an_event_without_a_field_of_drop_without_is_left_out() -> None:
    """A default does not count, because the event has no value."""
    more = '[events]\ndrop_without = ["item_id", "price"]\n[defaults]\nprice = 1'
    assert read(more, price=3)["price"] == 3
    for changes in ({"item": None, "price": 3}, {"price": ""}):
        with pytest.raises(Dropped) as dropped:
            read(more, **changes)
        assert dropped.value.reason == "no_value"


@pytest.mark.parametrize(
    ("unit", "time", "ms"),
    [
        ("s", 1_700_000_000, 1_700_000_000_000),
        ("s", 1_700_000_000.25, 1_700_000_000_250),
        ("s", "1700000000", 1_700_000_000_000),
        ("s", 20_241_201, [20_241_201]),
        ("s", 1_700_000_000_000, [1_700_000_000_000]),
        ("ms", 1_700_000_000, [1_700_000_000]),
        ("ms", " 1700000000123 ", 1_700_000_000_123),
        ("us", 1_700_000_000_123_456, 1_700_000_000_123),
        ("ns", 1_700_000_000_123_456_789, 1_700_000_000_123),
        ("ns", 1e40, 1e40),
        ("s", "2025-01-01T00:00:00Z", "2025-01-01T00:00:00Z"),
        ("s", True, True),
    ],
)
def test_numbers_are_times_in_the_unit(unit: str, time: object, ms: object) -> None:
    """A number that is no time in its unit is no time (a list); text with a date stays as it is."""
    assert read(f'[time]\nunit = "{unit}"', time=time)["timestamp"] == ms


def test_the_users_of_a_message_are_found_for_hiding() -> None:
    """All ids that a log line must not show, also the ones that are not used."""
    reading = parse_mapping(BASE, "x").of_topic()
    assert reading.users({"userId": 17, "anonymousId": "a"}) == ["17", "a"]
    assert reading.users({"userId": 17.0, "anonymousId": "18.0"}) == ["17.0", "17", "18.0", "18"]
    assert reading.users({}) == []
