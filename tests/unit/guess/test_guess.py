"""What is guessed from a sample, and what a person has to check."""

import json
from typing import Any

import pytest

from stream.errors import ConfigError
from stream.guess.guess import Guess, guess, unused
from stream.guess.match import rank
from stream.guess.names import event_type
from stream.guess.sample import describe
from stream.guess.text import report, toml, understand
from stream.mapping.parse import parse_mapping

NOW_MS = 1_760_000_000_000


def events(count: int = 60, **more: Any) -> list[dict[str, Any]]:
    """Events with names that say nothing, but for those in `more`, whose values are functions of the number."""
    plain = {"a": lambda n: f"user {n % 7}", "b": lambda n: f"item-{n % 11}", "c": lambda n: NOW_MS - n * 1000}
    return [{name: make(n) for name, make in (plain | more).items()} for n in range(count)]


def keyed(rows: list[dict[str, Any]], name: str) -> list[bytes | None]:
    return [str(row[name]).encode() for row in rows]


def fields(found: Guess) -> dict[str, tuple[str, ...]]:
    return found.mapping.topic.fields


def test_values_decide_where_names_say_nothing() -> None:
    """The key is the user, the only time is the time, and an id that comes again is the item; each is to be checked."""
    rows = events(d=lambda n: n)
    found = guess(describe(rows, keyed(rows, "a")))
    assert fields(found) == {"user_id": ("a",), "item_id": ("b",), "timestamp": ("c",)}
    assert [line.partition(" is ")[0] for line in found.unsure if "only because of its values" in line] == [
        "timestamp", "item_id", "user_id",
    ]  # fmt: skip


def test_a_name_without_fitting_values_is_not_used() -> None:
    """A `timestamp` that is no time, an `event` that is an id of the event, and a `price` with a currency."""
    rows = events(
        userId=lambda n: n % 7,
        itemId=lambda n: n % 9,
        timestamp=lambda n: "soon",
        event=lambda n: f"event {n}",
        price=lambda n: "9 EUR",
    )
    found = guess(describe(rows))
    assert fields(found) == {"user_id": ("userId",), "item_id": ("itemId",), "timestamp": ("c",)}


@pytest.mark.parametrize("field", ["user", "item", "time"])
def test_a_sample_without_a_needed_field_is_refused_with_what_it_has(field: str) -> None:
    """One line with the fields that were seen; nothing is written that cannot work."""
    row = {"user_id": "u", "item_id": "i", "timestamp": NOW_MS}
    del row[{"user": "user_id", "item": "item_id", "time": "timestamp"}[field]]
    with pytest.raises(ConfigError, match=rf"no field of 1 event looks like the {field}.*Fields with a value, "):
        guess(describe([row]))


@pytest.mark.parametrize("date", ["1/12/2024 3:00 PM", "26.11.2026 14:05:00", "26/11/2026", "26-11-2026 14:05"])
def test_dates_with_the_day_or_the_month_first_are_named_with_what_is_read_instead(date: str) -> None:
    """1/12/2024 can be two days, so no mapping can read it: the reader must change the values, and learns to what.

    The field with a usual name of the time is named, and no other one with such dates.
    """
    row = {"user_id": "u", "item_id": "i", "birthday": "1.2.1990", "date": date}
    with pytest.raises(ConfigError) as refused:
        guess(describe([row]))
    message = str(refused.value)
    assert message.startswith("no field of 1 event looks like a time that is read. ")
    assert f" date ({date!r}) has dates that begin with the day or the month" in message
    assert "write them as ISO 8601 (2024-12-01T15:30:00Z) or as s or ms since 1970" in message
    assert "birthday" not in message


def test_a_text_that_is_no_time_is_shown() -> None:
    """The reader sees why the field with the right name is not it."""
    row = {"user_id": "u", "item_id": "i", "date": "yesterday"}
    with pytest.raises(ConfigError, match=r"docs/events.md lists what is read as times: .*date \(100%, 'yesterday'\)"):
        guess(describe([row]))


def test_the_state_of_an_anonymous_id_goes_over_where_events_have_both_ids_and_are_rekeyed() -> None:
    """Else the second half of the way is missing; without an event with both, nobody knows who the user is."""
    rows = events(userId=lambda n: f"u{n % 5}" if n % 3 else None, anonymousId=lambda n: f"a{n % 8}", item=lambda n: n)
    found = guess(describe(rows, [None] * len(rows)))
    assert (fields(found)["user_id"], fields(found)["anonymous_id"]) == (("userId",), ("anonymousId",))
    assert any("the state goes to the user when" in line for line in found.unsure)
    assert parse_mapping(toml(found, "a test"), "test") == found.mapping
    assert "[key]  # what the keys of the messages are: correct it with user_id\n" in toml(found, "a test")
    assert "anonymous_id" in report(describe(rows), found, understand(describe(rows), found.mapping, 9_999, 0, NOW_MS))
    either = [row | {"anonymousId": None} if row["userId"] else row for row in rows]
    assert fields(guess(describe(either, [None] * len(rows))))["user_id"] == ("userId", "anonymousId")
    keys = [str(row["userId"] or row["anonymousId"]).encode() for row in rows]
    assert fields(guess(describe(rows, keys)))["user_id"] == ("userId", "anonymousId")


def test_an_anonymous_id_stands_for_a_missing_user_id() -> None:
    """Only where it is missing; a line has the share."""
    rows = events(
        userId=lambda n: f"u{n % 5}" if n % 3 else None, anonymous_id=lambda n: f"a{n % 8}", item=lambda n: n % 9
    )
    found = guess(describe(rows))
    assert fields(found)["user_id"] == ("userId", "anonymous_id")
    assert any("where userId has no value (33% of the events)" in line for line in found.unsure)
    always = guess(describe([row | {"userId": "u1"} for row in rows]))
    assert fields(always)["user_id"] == ("userId",)


def test_sessions_are_users_where_there_are_no_users() -> None:
    """As `eddy train` reads such a log; and events without a user are said to become dead letters."""
    rows = [
        {name: value for name, value in row.items() if name != "a"} for row in events(session=lambda n: f"s{n % 9}")
    ]
    found = guess(describe(rows))
    assert fields(found)["user_id"] == ("session",)
    assert "session_id" not in fields(found)
    assert "no field looks like the user: each session is a user" in found.unsure
    guest = guess(describe(events(userId=lambda n: n % 7 if n % 4 else None, itemId=lambda n: n % 9)))
    assert any("userId has no value in 25% of the events, which become dead letters" in line for line in guest.unsure)


def test_an_event_without_user_and_item_is_left_out_and_not_said_to_become_a_dead_letter() -> None:
    """Such as an empty object: drop_without has the item."""
    rows = events(userId=lambda n: n % 7 if n % 4 else None, itemId=lambda n: n % 9 if n % 4 else None)
    found = guess(describe(rows))
    assert found.mapping.drop_without == ("item_id",)
    assert not any("dead letters" in line for line in found.unsure)
    assert any("without an item are left out" in line for line in found.unsure)


def test_a_header_is_read_only_if_the_message_has_nothing() -> None:
    """Many headers are of programs that carry the message: their time is not that of the click."""
    rows = [
        {
            "userId": f"user {n % 7}",
            "itemId": f"item-{n % 11}",
            "at": NOW_MS - n * 1000,
            "$headers": {"timestamp": str(NOW_MS), "ce_type": ("view", "cart")[n % 2], "userId": "producer"},
        }
        for n in range(60)
    ]
    assert fields(guess(describe(rows))) == {
        "user_id": ("userId",),
        "item_id": ("itemId",),
        "timestamp": ("$headers.timestamp",),
        "event_type": ("$headers.ce_type",),
    }
    for row in rows:
        row["time"] = row.pop("at")
    assert fields(guess(describe(rows)))["timestamp"] == ("time",)
    for row in rows:
        row["$headers"] = {"received": row.pop("time")}
    with pytest.raises(ConfigError, match=r"looks like the timestamp.* \$headers\.received"):
        guess(describe(rows))


def test_the_message_key_is_found_out() -> None:
    """The user's id, another id of the user (which then is the user), another field, or nothing.

    Events without an item may have any key, because they are no clicks.
    """
    rows = events(userId=lambda n: f"u{n % 5}", visitorId=lambda n: f"v{n % 6}", itemId=lambda n: n % 9)
    for name, key, user in (
        ("userId", "user_id", "userId"),
        ("visitorId", "user_id", "visitorId"),
        ("itemId", "other", "userId"),
    ):
        found = guess(describe(rows, keyed(rows, name)))
        assert (found.mapping.key, fields(found)["user_id"]) == (key, (user,)), name
        assert found.mapping.rekey == (key != "user_id")
    assert guess(describe(rows, keyed(rows, "userId")), mixed=True).mapping.rekey, "two partitioners"
    unkeyed = guess(describe(rows, [None] * len(rows)))
    assert (unkeyed.mapping.key, unkeyed.mapping.rekey) == ("nothing", True)
    pages: list[dict[str, Any]] = [{"userId": None, "visitorId": "v1", "c": NOW_MS}] * 60
    assert guess(describe([*rows, *pages], [*keyed(rows, "userId"), *[None] * 60])).mapping.key == "user_id"
    assert guess(describe(rows)).mapping.key == "user_id"


@pytest.mark.parametrize(
    ("make", "unit"),
    [
        (lambda n: NOW_MS - n, "ms"),
        (lambda n: NOW_MS // 1000 - n, "s"),
        (lambda n: str(NOW_MS * 1000 - n), "us"),
        (lambda n: "2025-10-09T08:53:20Z", ""),
        (lambda n: NOW_MS - n if n % 2 else "2025-10-09T08:53:20Z", ""),
    ],
)
def test_the_unit_of_the_times_is_that_of_all_numbers(make: Any, unit: str) -> None:
    """Text and mixed times have none: they are read by what they look like."""
    rows = events(userId=lambda n: n % 7, itemId=lambda n: n % 9, time=make)
    assert guess(describe(rows)).mapping.topic.unit == unit


def test_events_without_an_item_and_lists_of_shown_items_are_left_out() -> None:
    """Both are said with their types, so that a person can decide otherwise."""
    names = ["Product Viewed", "Product List Viewed", "Page"]
    rows = events(
        userId=lambda n: n % 7,
        event=lambda n: names[n % 3],
        product=lambda n: {"id": n % 9} if n % 3 < 2 else None,
    )
    found = guess(describe(rows))
    assert fields(found)["item_id"] == ("product.id",)
    assert found.mapping.drop == ("Product List Viewed",)
    assert found.mapping.drop_without == ("item_id",)
    left_out = "20 events without an item are left out, because a click needs an item; event types: Page (20)"
    assert left_out in found.unsure


def test_usual_names_of_event_types_get_eddy_s() -> None:
    """Also with a prefix; a name that is not usual keeps its own."""
    names = {
        "addtocart": "cart",
        "com.shop.product_viewed": "view",
        "ORDER_COMPLETED": "purchase",
        "com.shop.viewed": "view",
        "com.shop.basket.added": "cart",
        "com.shop.ordered": "purchase",
        "com.shop.cart.viewed": None,
        "page.cart": None,
        "com.shop.order": None,
        "v1.0": None,
        "review": None,
        "x": None,
    }
    assert {theirs: event_type(theirs) for theirs in names} == names


def test_a_path_is_known_by_its_last_names() -> None:
    """`product.id` and `productId` are one name; the place in the list is how certain it is."""
    names = ("productid", "*1id")
    assert [rank(path, names) for path in (("product", "id"), ("x", "Product_ID"), ("a1", 0, "id"), ("id",))] == [
        0,
        0,
        1,
        None,
    ]


def test_the_written_file_is_the_guess_whatever_the_names_are() -> None:
    """Names with quotes, dots, control characters and other scripts."""
    rows = events(**{"u.ser id": lambda n: n % 7, 'it"em': lambda n: n % 9, "größe\u2028[0]": lambda n: n % 3})
    odd = [
        row | {"event": ['vi"ew', "a\tb", "\u00e9\\", "= #", "addtocart"][n % 5], "user id": n % 7}
        for n, row in enumerate(rows)
    ]
    sample = describe(odd)
    found = guess(sample)
    assert parse_mapping(toml(found, "topic a\nb"), "x") == found.mapping
    shown = report(sample, found, understand(sample, found.mapping, 65_536, 0, NOW_MS))
    assert "user id" in shown
    assert all(character.isprintable() or character == "\n" for character in shown)


def test_the_report_counts_what_a_worker_would_do() -> None:
    """Clicks, events that are left out, dead letters with a reason, and fields that are not used."""
    rows = events(
        userId=lambda n: n % 7, itemId=lambda n: "x" * 300 if n == 5 else n % 9, event=lambda n: ["seen", "view"][n % 2]
    )
    rows[7]["userId"] = None
    sample = describe(rows)
    found = guess(sample)
    understood = understand(sample, found.mapping, 65_536, 0, NOW_MS)
    assert (len(understood.clicks), understood.refused) == (58, {"wrong_fields": 2})
    assert {seen.path for seen in unused(sample, found.mapping)} >= {("a",), ("b",)}
    shown = report(sample, found, understood)
    assert "58 clicks in 60 events" in shown
    assert "would be dead letters: 2 events: wrong_fields" in shown
    assert json.loads(shown.split("understood:\n")[1].splitlines()[0]) == {
        "user_id": "0", "item_id": "0", "timestamp": NOW_MS, "event_type": "seen",
    }  # fmt: skip
