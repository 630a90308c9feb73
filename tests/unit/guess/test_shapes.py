"""Shapes that events of shops have: what `eddy init` finds in each, and what it must not take for a field."""

from collections.abc import Callable
from typing import Any

import pytest

from stream.guess.guess import Guess, guess
from stream.guess.sample import describe
from stream.guess.text import understand

NOW_MS = 1_760_000_000_000
COUNT = 120
TYPES = ("view", "view", "view", "cart", "purchase")
Make = Callable[[int], dict[str, Any]]


def user(n: int) -> str:
    return f"u-{n % 17}"


def item(n: int) -> str:
    return f"i-{n % 23}"


def category(n: int) -> str:
    return f"c{n % 23 % 5}"


def price(n: int) -> float:
    return 9.9 + n % 23


def kind(n: int) -> str:
    return TYPES[n % 5]


def at(n: int) -> int:
    return NOW_MS + n * 1000


def day(n: int) -> str:
    return f"2025-10-09T08:{n // 60 % 60:02}:{n % 60:02}.000Z"


SHAPES: dict[str, tuple[Make, dict[str, str]]] = {
    "nested and abbreviated": (
        lambda n: {
            "evt": {"name": kind(n), "ts": at(n), "id": f"e{n}"},
            "usr": {"id": user(n), "name": "Ann"},
            "product": {"sku": item(n), "cat": category(n), "cost": price(n), "name": f"Boots {n % 23}"},
            "qty": 1 + n % 3,
        },
        {
            "event_type": "evt.name",
            "timestamp": "evt.ts",
            "user_id": "usr.id",
            "item_id": "product.sku",
            "category": "product.cat",
            "price": "product.cost",
            "quantity": "qty",
            "event_id": "evt.id",
        },
    ),
    "flat and abbreviated": (
        lambda n: {"uid": user(n), "pid": item(n), "ts": at(n), "evt": kind(n), "cat": category(n), "cost": price(n)},
        {
            "user_id": "uid",
            "item_id": "pid",
            "timestamp": "ts",
            "event_type": "evt",
            "category": "cat",
            "price": "cost",
        },
    ),
    "abbreviated words with underscores": (
        lambda n: {
            "evt_nm": kind(n),
            "evt_ts_ms": at(n),
            "cust_id": user(n),
            "prod_id": item(n),
            "prod_cat": category(n),
            "unit_prc_eur": price(n),
            "order_qty": 3,
            "item_qnt": 1,
        },
        {
            "event_type": "evt_nm",
            "timestamp": "evt_ts_ms",
            "user_id": "cust_id",
            "item_id": "prod_id",
            "category": "prod_cat",
            "price": "unit_prc_eur",
            "quantity": "item_qnt",
        },
    ),
    "abbreviated words without underscores": (
        lambda n: {"evttype": kind(n), "eventts": day(n), "usrid": user(n), "prodid": item(n), "catid": category(n)},
        {
            "event_type": "evttype",
            "timestamp": "eventts",
            "user_id": "usrid",
            "item_id": "prodid",
            "category": "catid",
        },
    ),
    "camel case in a payload": (
        lambda n: {
            "type": "track",
            "payload": {
                "evtName": kind(n),
                "eventTimeMs": at(n),
                "customerId": user(n),
                "sessId": f"s{n % 31}",
                "productSku": item(n),
                "productCat": category(n),
                "unitCost": price(n),
            },
        },
        {
            "event_type": "payload.evtName",
            "timestamp": "payload.eventTimeMs",
            "user_id": "payload.customerId",
            "session_id": "payload.sessId",
            "item_id": "payload.productSku",
            "category": "payload.productCat",
            "price": "payload.unitCost",
        },
    ),
    "everything in one object of the event": (
        lambda n: {
            "v": 2,
            "event": {
                "kind": kind(n),
                "at": day(n),
                "uid": user(n),
                "sku": item(n),
                "category": category(n),
                "amt": price(n),
            },
        },
        {
            "event_type": "event.kind",
            "timestamp": "event.at",
            "user_id": "event.uid",
            "item_id": "event.sku",
            "category": "event.category",
            "price": "event.amt",
        },
    ),
    "a list of items with short names": (
        lambda n: {
            "event": {"type": kind(n), "time": day(n)},
            "visitor": {"id": user(n)},
            "items": [{"id": item(n), "cat": category(n), "price": price(n), "qty": 1}],
        },
        {
            "event_type": "event.type",
            "timestamp": "event.time",
            "user_id": "visitor.id",
            "item_id": "items[0].id",
            "category": "items[0].cat",
            "price": "items[0].price",
            "quantity": "items[0].qty",
        },
    ),
    "as GA4's Measurement Protocol": (
        lambda n: {
            "client_id": f"{n % 19}.7",
            "user_id": user(n),
            "timestamp_micros": at(n) * 1000,
            "events": [
                {
                    "name": {"view": "view_item", "cart": "add_to_cart"}.get(kind(n), kind(n)),
                    "params": {
                        "currency": "EUR",
                        "value": 70.5 + n,
                        "items": [{"item_id": item(n), "item_category": category(n), "price": price(n), "quantity": 1}],
                    },
                }
            ],
        },
        {
            "event_type": "events[0].name",
            "timestamp": "timestamp_micros",
            "user_id": "user_id",
            "item_id": "events[0].params.items[0].item_id",
            "category": "events[0].params.items[0].item_category",
            "price": "events[0].params.items[0].price",
            "quantity": "events[0].params.items[0].quantity",
        },
    ),
    "as Matomo's tracking API": (
        lambda n: {
            "idsite": 1,
            "uid": user(n),
            "cdt": at(n) // 1000,
            "action_name": f"Boots {n % 23}",
            "e_c": "shop",
            "e_a": kind(n),
            "_pks": item(n),
            "_pkn": f"Boots {n % 23}",
            "_pkc": category(n),
            "_pkp": price(n),
        },
        {
            "user_id": "uid",
            "timestamp": "cdt",
            "event_type": "e_a",
            "item_id": "_pks",
            "category": "_pkc",
            "price": "_pkp",
        },
    ),
    "as Matomo's live API": (
        lambda n: {
            "visitorId": f"v{n % 17}",
            "serverTimestamp": at(n) // 1000,
            "actionDetails": [
                {"productViewSku": item(n), "productViewPrice": price(n), "subtitle": "x", "pageId": n % 40}
            ],
        },
        {
            "user_id": "visitorId",
            "timestamp": "serverTimestamp",
            "item_id": "actionDetails[0].productViewSku",
            "price": "actionDetails[0].productViewPrice",
        },
    ),
    "as Shopify's web pixels": (
        lambda n: {
            "id": f"sh-{n}",
            "name": {"view": "product_viewed", "cart": "product_added_to_cart"}.get(kind(n), "checkout_completed"),
            "clientId": user(n),
            "timestamp": day(n),
            "data": {
                "productVariant": {
                    "id": f"v{n % 29}",
                    "price": {"amount": price(n), "currencyCode": "EUR"},
                    "product": {"id": item(n), "title": "Boots", "type": "boots", "vendor": "x"},
                }
            },
            "context": {"document": {"title": "Boots"}, "window": {"innerHeight": 900}},
        },
        {
            "event_type": "name",
            "timestamp": "timestamp",
            "user_id": "clientId",
            "item_id": "data.productVariant.product.id",
            "price": "data.productVariant.price.amount",
            "event_id": "id",
        },
    ),
    "as Shopify's orders": (
        lambda n: {
            "id": 9_000_000 + n,
            "created_at": day(n),
            "customer": {"id": user(n), "created_at": "2019-01-01T00:00:00Z"},
            "total_price": 120.5 + n,
            "line_items": [{"id": 77_000_000 + n, "product_id": item(n), "price": f"{price(n)}", "quantity": 1}],
        },
        {
            "timestamp": "created_at",
            "user_id": "customer.id",
            "item_id": "line_items[0].product_id",
            "price": "line_items[0].price",
            "quantity": "line_items[0].quantity",
            "event_id": "id",
        },
    ),
    "a row of a changed table": (
        lambda n: {
            "op": "c",
            "ts_ms": at(n),
            "after": {"usr_id": user(n), "itm_id": item(n), "evt_typ": kind(n), "amt": price(n), "qty": 2},
        },
        {
            "timestamp": "ts_ms",
            "user_id": "after.usr_id",
            "item_id": "after.itm_id",
            "event_type": "after.evt_typ",
            "price": "after.amt",
            "quantity": "after.qty",
        },
    ),
    "a flat table in German": (
        lambda n: {"kundennr": user(n), "artikelnr": item(n), "date": day(n), "event": kind(n), "price": price(n)},
        {
            "user_id": "kundennr",
            "item_id": "artikelnr",
            "timestamp": "date",
            "event_type": "event",
            "price": "price",
        },
    ),
    "lines of invoices": (
        lambda n: {
            "InvoiceNo": f"{536_000 + n // 4}",
            "StockCode": item(n),
            "Description": f"BOOTS {n % 40}",
            "Quantity": 6,
            "InvoiceDate": day(n),
            "UnitPrice": price(n),
            "CustomerID": user(n),
            "Country": "France",
        },
        {
            "user_id": "CustomerID",
            "item_id": "StockCode",
            "timestamp": "InvoiceDate",
            "price": "UnitPrice",
            "quantity": "Quantity",
        },
    ),
    "objects that are about something else": (
        lambda n: {
            "evt": {"name": kind(n), "dt": day(n), "category": "Ecommerce"},
            "user": {"id": user(n), "type": "returning", "created_at": "2019-01-01T00:00:00Z"},
            "page": {"type": "cart", "category": f"p{n % 4}"},
            "shipping": {"price": 4.9, "cost": 4.9},
            "stock": {"qty": 100 + n},
            "product": {"id": item(n), "type": "shoe", "cost": price(n), "uid": f"x{n % 23}"},
        },
        {
            "event_type": "evt.name",
            "timestamp": "evt.dt",
            "user_id": "user.id",
            "item_id": "product.id",
            "price": "product.cost",
        },
    ),
    "a category of ten digits": (
        lambda n: {
            "usr": user(n),
            "product": {"id": item(n), "cat": 1_487_580_000 + n % 23, "cost": "on request"},
            "when": at(n),
            "action": {"name": kind(n)},
        },
        {
            "user_id": "usr",
            "item_id": "product.id",
            "category": "product.cat",
            "timestamp": "when",
            "event_type": "action.name",
        },
    ),
}


def fields(found: Guess) -> dict[str, str]:
    return {name: ", ".join(paths) for name, paths in found.mapping.topic.fields.items()}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_fields_of_a_shape_are_found_and_no_others(shape: str) -> None:
    """By their names, with abbreviations, units and objects around them; every event becomes a click."""
    make, expected = SHAPES[shape]
    sample = describe([make(n) for n in range(COUNT)])
    found = guess(sample)
    assert fields(found) == expected
    assert len(understand(sample, found.mapping, 65_536, 10**9, NOW_MS).clicks) == COUNT


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"name": ["view", "shoe"]}, "event_type"),
        ({"kind": ["view", "cart"]}, "event_type"),
        ({"cost": ["9 EUR", "free"]}, "price"),
        ({"amount": [1, 2]}, "price"),
        ({"qty": ["one", "two"]}, "quantity"),
        ({"cat": [{}, {}]}, "category"),
    ],
    ids=str,
)
def test_a_value_of_the_product_that_does_not_fit_is_no_field(more: dict[str, list[Any]], field: str) -> None:
    """A name of a product is no event type, a text no price, and an amount in whole numbers may be a quantity."""
    [(name, values)] = more.items()
    found = guess(
        describe(
            [{"userId": user(n), "ts": at(n), "product": {"id": item(n), name: values[n % 2]}} for n in range(COUNT)]
        )
    )
    assert field not in fields(found)


def test_the_id_of_a_user_does_not_stand_for_a_missing_item() -> None:
    """Events without a product have an id of the user too, which has the same last name."""
    rows = [
        {"user": {"id": user(n)}, "evt": {"name": kind(n), "ts": at(n)}}
        | ({"product": {"id": item(n)}} if n % 3 else {})
        for n in range(COUNT)
    ]
    found = guess(describe(rows))
    assert fields(found)["item_id"] == "product.id"
    assert found.mapping.drop_without == ("item_id",)


def test_a_price_by_a_name_of_other_amounts_is_to_be_checked() -> None:
    """A cost may be what the shop pays; a price needs no look."""
    rows = [{"uid": user(n), "sku": item(n), "ts": at(n), "cost": price(n)} for n in range(COUNT)]
    line = "price is cost by its name alone; check that it is what the user pays for one item"
    assert line in guess(describe(rows)).unsure
    found = guess(describe([row | {"price": 5.5} for row in rows]))
    assert fields(found)["price"] == "price"
    assert not [one for one in found.unsure if one.startswith("price is")]
