"""Topics whose names say little: what the values and the keys of the messages show."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from stream.errors import ConfigError
from stream.guess.guess import Guess, guess
from stream.guess.match import rank
from stream.guess.names import ANONYMOUS, FIELDS
from stream.guess.sample import describe
from stream.guess.text import understand

NOW_MS = 1_760_000_000_000
COUNT = 300
Rows = list[dict[str, Any]]


def login(n: int) -> str | None:
    """A user who is known in about half of the events."""
    return f"c-{n % 17}" if n * 7 % 25 > 11 else None


def cookie(n: int) -> str:
    return f"k-{n % 29}"


def rows(user: str = "who", guest: str = "guest", **more: Callable[[int], Any]) -> Rows:
    """Events of users who are known by a cookie before they log in. `more`: name -> its value by the number."""
    return [
        {"actor": {user: login(n), guest: cookie(n)}, "ref": f"x-{n % 23}", "at": NOW_MS + n * 1000}
        | {name: make(n) for name, make in more.items()}
        for n in range(COUNT)
    ]


def keys() -> list[bytes | None]:
    return [(login(n) or cookie(n)).encode() for n in range(COUNT)]


def fields(found: Guess) -> dict[str, tuple[str, ...]]:
    return found.mapping.topic.fields


@pytest.mark.parametrize(
    ("user", "guest"), [("customerNo", "visitorCookie"), ("who", "guest"), ("who", "visitorCookie"), ("userNr", "tmp")]
)
def test_the_key_is_a_user_id_or_a_cookie_until_login(user: str, guest: str) -> None:
    """Both paths are the user, by usual names or by the keys alone; each event has its key as the user."""
    sample = describe(rows(user, guest, articleNo=lambda n: f"a-{n % 31}"), keys())
    found = guess(sample)
    assert fields(found)["user_id"] == (f"actor.{user}", f"actor.{guest}")
    assert (found.mapping.key, found.mapping.rekey) == ("user_id", False)
    read = understand(sample, found.mapping, 65_536, 0, NOW_MS * 2)
    assert [click.user_id.encode() for click in read.clicks] == keys()
    assert any(
        line.startswith(f"user_id: where actor.{user} has no value (48% of the events)") for line in found.unsure
    )
    assert not any("dead letters" in line for line in found.unsure)


def test_of_equal_fields_the_one_with_a_usual_name_is_the_user() -> None:
    """The key decides against an anonymous id with a usual name, and a copy of the user id comes after the user id."""
    both = [
        {"copy": login(n)} | row | {"deviceId": f"d-{n % 19}"}
        for n, row in enumerate(rows("customerNo", "visitorCookie"))
    ]
    found = guess(describe([row | {"itemId": f"i-{n % 31}"} for n, row in enumerate(both)], keys()))
    assert fields(found)["user_id"] == ("actor.customerNo", "actor.visitorCookie")


def test_a_pair_that_is_the_key_of_something_else_is_not_the_user() -> None:
    """A user that its name shows stays the user, and the messages are re-keyed."""
    more = {"userId": lambda n: f"u-{n % 13}", "itemId": lambda n: f"i-{n % 31}"}
    found = guess(describe(rows("shop", "branch", **more), keys()))
    assert fields(found)["user_id"] == ("userId",)
    assert (found.mapping.key, found.mapping.rekey) == ("other", True)


def test_without_a_user_the_candidates_are_said() -> None:
    """Neither names nor keys show it: one line with the fields that could be it, and how many events have them."""
    with pytest.raises(ConfigError, match="looks like the user_id") as refused:
        guess(describe(rows(articleNo=lambda n: f"a-{n % 31}", total=lambda n: n + 0.5), [b"other"] * COUNT))
    message = str(refused.value)
    assert "actor.guest (100%, 'k-0', 'k-1', 'k-2'), " in message
    assert "actor.who (52%, " in message
    assert "total" not in message
    assert "at (" not in message


def test_all_fields_that_are_missing_are_said_at_once() -> None:
    """Whoever has written one into the producer would else learn of the next one only then."""
    some = [{"who": f"u-{n % 13}", "articleNo": f"a-{n % 31}", "day": f"{n % 28 + 1:02}.11.2026"} for n in range(COUNT)]
    with pytest.raises(ConfigError) as refused:
        guess(describe(some))
    assert str(refused.value).startswith("no field of 300 events looks like the user_id; write the mapping by hand")
    assert "who (100%, 'u-0', " in str(refused.value)
    assert ". No field of 300 events looks like a time that is read. day ('01.11.2026', " in str(refused.value)
    assert "item_id" not in str(refused.value)


@pytest.mark.parametrize("name", ["timestamp", "moment"])
@pytest.mark.parametrize(("scale", "unit"), [(1, "s"), (1000, "ms")])
def test_one_broken_time_among_many_changes_nothing(name: str, scale: int, unit: str) -> None:
    """Neither whether a field without a usual name is the time, nor the unit. The broken event is a dead letter."""
    both = [
        {"userId": f"u-{n % 13}", "itemId": f"i-{n % 31}", name: (1_760_000_000 + n) * scale if n != 7 else "yesterday"}
        for n in range(COUNT)
    ]
    found = guess(describe(both))
    assert fields(found)["timestamp"] == (name,)
    assert found.mapping.topic.unit == unit


@pytest.mark.parametrize("name", ["articleNo", "prodRef", "item_sku", "artikelnr", "product.code"])
def test_other_names_of_an_item(name: str) -> None:
    """Also if events have none, and although the price has a value in each event."""
    parts = name.split(".")

    def item(n: int) -> Any:
        value = f"SKU-sofa-{n % 40:03}" if n % 14 else None
        return value if len(parts) == 1 else {parts[1]: value}

    price = {"unitPrice": lambda n: {"amount": 540.93 + n * 1.01, "currency": "EUR"}}
    found = guess(describe(rows("userId", "guest", **{parts[0]: item, **price})))
    assert fields(found)["item_id"] == (name,)
    assert fields(found)["price"] == ("unitPrice.amount",)


@pytest.mark.parametrize(
    "value",
    [
        lambda n: {"worth": 540.93 + n % 200},
        lambda n: {"worth": f"{540.93 + n % 200:.2f}"},
        lambda n: {"worth": n if n < COUNT - 5 else 0},
        lambda n: {"amount": n % 200},
    ],
    ids=["decimals", "decimals as text", "nearly all distinct", "by its name"],
)
def test_an_amount_is_never_an_item_by_its_values(value: Callable[[int], Any]) -> None:
    """An item with fewer different values is taken; without one the command says so, and takes no amount for it."""
    both = [row | {"actor": {"userId": row["actor"]["userId"]}} for row in rows("userId", x=value)]
    assert fields(guess(describe(both)))["item_id"] == ("ref",)
    without = [{name: part for name, part in row.items() if name != "ref"} for row in both]
    with pytest.raises(ConfigError, match="looks like the item_id"):
        guess(describe(without))


NAMES = ["Product Viewed", "Product Viewed", "Product Added", "Order Completed", "Page"]


@pytest.mark.parametrize("more", [{}, {"type": lambda n: "track"}], ids=["no name", "a name with unknown values"])
def test_an_event_type_is_known_by_its_values(more: dict[str, Callable[[int], Any]]) -> None:
    """Purchases are not lost as views, and the price in text is found."""
    sample = describe(
        rows(
            "userId",
            "guest",
            meta=lambda n: {"what": NAMES[n % 5], "lang": ["de", "en"][n % 2]},
            unitPrice=lambda n: {"amount": "540.93"},
            **more,
        )
    )
    found = guess(sample)
    assert fields(found)["event_type"] == ("meta.what",)
    assert found.mapping.event_types == {
        "Product Viewed": "view", "Product Added": "cart", "Order Completed": "purchase",
    }  # fmt: skip
    assert fields(found)["price"] == ("unitPrice.amount",)
    assert any(line.startswith("event_type is meta.what only because of its values") for line in found.unsure)


def test_a_type_of_page_is_no_event_type() -> None:
    """Pages have names that events have too: `cart` is no addition to the cart. A usual name decides where both are."""
    pages = ["home", "detail", "cart", "purchase"]
    found = guess(describe(rows("userId", pagetype=lambda n: pages[n % 4])))
    assert "event_type" not in fields(found)
    assert "no field looks like the event type: all events are views, purchases too" in found.unsure
    both = guess(describe(rows("userId", label=lambda n: NAMES[n % 5], action=lambda n: ["view", "buy"][n % 2])))
    assert fields(both)["event_type"] == ("action",)


def test_events_without_an_item_or_a_type_are_said_in_plain_words() -> None:
    """Types are named only where they are known."""
    none = guess(describe(rows("userId", itemId=lambda n: f"i-{n % 9}" if n % 3 else None)))
    assert "100 events without an item are left out, because a click needs an item" in none.unsure
    some = guess(
        describe(
            rows(
                "userId",
                itemId=lambda n: f"i-{n % 9}" if n % 3 else None,
                event=lambda n: None if n < 150 else "view" if n % 3 else "page",
            )
        )
    )
    assert any(line.endswith("event types: none (50), page (50)") for line in some.unsure)


def test_each_name_is_of_one_field() -> None:
    """Else the order of the fields would decide. A user id may be anonymous."""
    names = [name for field, of_field in FIELDS.items() for name in of_field]
    assert len(names) == len(set(names))
    assert rank(("unitPrice", "amount"), FIELDS["price"]) is not None
    assert len(ANONYMOUS) == len(set(ANONYMOUS))
    assert json.dumps(names).islower()


def test_an_id_that_is_another_one_in_each_event_is_not_the_user() -> None:
    """`evt.uid` is an id of the event, whatever its name: with it, no user would have a second click."""
    events = [{"evt": {"uid": f"u-{n}"}, "itemId": f"i-{n % 7}", "at": NOW_MS + n, "who": {}} for n in range(COUNT)]
    with_cookie = [{**event, "visitor": {"cookie": cookie(n)}} for n, event in enumerate(events)]
    found = guess(describe(with_cookie))
    assert fields(found)["user_id"] == ("visitor.cookie",)
    assert "user_id is visitor.cookie, because evt.uid is another one in each event" in found.unsure
    with_customer = [{**event, "customerId": f"c-{n % 9}"} for n, event in enumerate(events)]
    assert fields(guess(describe(with_customer)))["user_id"] == ("customerId",)
    alone = guess(describe(events))
    assert fields(alone)["user_id"] == ("evt.uid",)
    assert "user_id: evt.uid is another one in each event; is it the id of the event?" in alone.unsure


def test_event_types_of_which_none_is_known_are_to_be_named() -> None:
    """Without a purchase in the model, there is no forecast of one, and no rule about one."""
    line = "no event type is known by its name: if one is a cart or a purchase, name it so in [event_types]"
    more: dict[str, Callable[[int], Any]] = {"userId": lambda n: f"u-{n % 7}", "itemId": lambda n: f"i-{n % 9}"}
    unknown = guess(describe(rows(**more, eventType=lambda n: ["gekauft", "angesehen"][n % 2])))
    assert any(note.startswith(line) for note in unknown.unsure)
    one_known = guess(describe(rows(**more, eventType=lambda n: ["purchase", "angesehen"][n % 2])))
    assert not any(note.startswith(line) for note in one_known.unsure)


def test_a_share_of_few_events_is_not_0_percent() -> None:
    """ "No value in 0% of the events" would be read as: all have one."""
    events = [{"userId": f"u-{n % 7}" if n else "", "itemId": f"i-{n % 9}", "at": NOW_MS + n} for n in range(COUNT)]
    assert any("has no value in less than 1% of the events" in line for line in guess(describe(events)).unsure)
