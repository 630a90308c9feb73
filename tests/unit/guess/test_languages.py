"""Names of fields in other languages than English, and values that are wrapped in the name of their type."""

from collections.abc import Callable
from typing import Any

import pytest

from stream.guess.guess import Guess, guess
from stream.guess.match import rank
from stream.guess.names import FIELDS, SHORT_WORDS, TRANSLATED, folded
from stream.guess.sample import describe
from stream.guess.text import toml, understand
from stream.mapping.parse import parse_mapping

NOW_MS = 1_760_000_000_000
COUNT = 120
TYPES = ("view", "view", "cart", "purchase")
USER: Callable[[int], Any] = lambda n: 100 + n % 17  # noqa: E731
ITEM: Callable[[int], Any] = lambda n: f"x{n % 23}"  # noqa: E731
TIME: Callable[[int], Any] = lambda n: NOW_MS + n * 1000  # noqa: E731
TYPE: Callable[[int], Any] = lambda n: TYPES[n % 4]  # noqa: E731
PRICE: Callable[[int], Any] = lambda n: 1.5 + n % 9  # noqa: E731

SHOPS = {
    "German": "Nutzer Artikel Zeit Ereignis Preis",
    "German, ids": "benutzer_id produkt_id zeitstempel ereignistyp preis",
    "German, numbers": "Kundennummer Artikelnummer Zeitpunkt Ereignis Preis",
    "German, camel": "nutzerId artikelId ereigniszeit aktion preisEur",
    "French": "utilisateur produit date_événement événement prix",
    "French, ids": "id_client id_produit horodatage type_evenement prix",
    "Spanish": "usuario producto fecha evento precio",
    "Spanish, ids": "id_usuario id_articulo fecha_evento tipo_evento precio",
    "Portuguese": "id_cliente código_produto data ação preço",
    "Italian": "utente codice_articolo data_ora evento prezzo",
    "Dutch": "klantnummer artikelnummer tijdstip gebeurtenis prijs",
    "Polish": "użytkownik produkt czas zdarzenie cena",
    "Turkish": "kullan\u0131c\u0131_id ürün_kodu zaman olay fiyat",
    "PrestaShop": "id_customer id_product date_add event price",
}
"""Shop -> its names of user, item, time, event type and price."""


def rows(names: str, **more: Callable[[int], Any]) -> list[dict[str, Any]]:
    makes = dict(zip(names.split(), (USER, ITEM, TIME, TYPE, PRICE), strict=True)) | more
    return [{name: make(n) for name, make in makes.items()} for n in range(COUNT)]


def fields(found: Guess) -> dict[str, tuple[str, ...]]:
    return found.mapping.topic.fields


@pytest.mark.parametrize("shop", SHOPS)
def test_the_names_of_a_shop_in_its_own_language_are_found(shop: str) -> None:
    """With names and titles beside the ids, which are text of the same language."""
    titles = {"Titel": lambda n: f"title {n % 23}", "Ort": lambda n: f"city {n % 5}", "Seite": lambda n: f"/p/{n % 9}"}
    found = fields(guess(describe(rows(SHOPS[shop], **titles))))
    wanted = zip(("user_id", "item_id", "timestamp", "event_type", "price"), SHOPS[shop].split(), strict=True)
    assert found == {field: (name,) for field, name in wanted}


def test_an_id_comes_before_the_name_of_the_same_thing() -> None:
    """`Kunde` is the name of a customer, and `Artikel` the title, where the numbers are there too."""
    found = fields(
        guess(
            describe(
                rows(
                    "Kundennummer Artikelnummer Zeit Ereignis Preis",
                    Kunde=lambda n: f"Ms {n % 17}",
                    Artikel=lambda n: f"a red shoe {n % 23}",
                )
            )
        )
    )
    assert (found["user_id"], found["item_id"]) == (("Kundennummer",), ("Artikelnummer",))


@pytest.mark.parametrize(
    ("name", "value"),
    [("Datum der Lieferung", TIME), ("Menge", lambda n: n % 3 + 1), ("Gesamtpreis", lambda n: n % 9), ("data", str)],
)
def test_a_name_in_another_language_whose_values_do_not_fit_is_no_field(name: str, value: Callable[[int], Any]) -> None:
    """A date of something else, a quantity, an amount, and `data` that is no date are neither user, item nor time."""
    events = [{name: value(n), "Nutzer": USER(n), "Artikel": ITEM(n), "Zeitpunkt": TIME(n)} for n in range(COUNT)]
    found = fields(guess(describe(events)))
    assert (found["user_id"], found["item_id"], found["timestamp"]) == (("Nutzer",), ("Artikel",), ("Zeitpunkt",))


def test_a_date_of_the_user_is_not_the_time_of_the_click() -> None:
    """What the object around a value is about is understood in these languages, too."""
    events = [{"cliente": {"id": USER(n), "fecha": TIME(n % 17)}, "producto": {"id": ITEM(n)}, "hora": TIME(n)}
              for n in range(COUNT)]  # fmt: skip
    assert fields(guess(describe(events))) == {
        "user_id": ("cliente.id",),
        "item_id": ("producto.id",),
        "timestamp": ("hora",),
    }


def test_a_translated_word_is_folded_and_has_one_meaning() -> None:
    """And no word of Eddy's own names has another one."""
    words = [word for of in TRANSLATED.values() for word in of]
    assert len(words) == len(set(words))
    assert [word for word in words if word != folded(word).lower()] == []
    assert [word for word in words if rank((word,), [n for names in FIELDS.values() for n in names]) is None] == [
        word for word in words if SHORT_WORDS[word] in ("number", "code")
    ]


MONGO = {
    "relaxed": lambda n: {
        "_id": {"$oid": f"{n:024x}"},
        "userId": {"$oid": f"{n % 17:024x}"},
        "item": ITEM(n),
        "createdAt": {"$date": f"2025-10-09T08:{n // 60:02}:{n % 60:02}Z"},
        "event": TYPE(n),
        "price": {"$numberDecimal": f"{1.5 + n % 9}"},
    },
    "canonical": lambda n: {
        "_id": {"$oid": f"{n:024x}"},
        "userId": {"$numberLong": f"{USER(n)}"},
        "item": {"id": {"$numberInt": f"{n % 23}"}},
        "createdAt": {"$date": {"$numberLong": f"{TIME(n)}"}},
        "event": TYPE(n),
        "price": {"$numberDouble": f"{1.5 + n % 9}"},
    },
    "Avro's JSON": lambda n: {
        "_id": {"string": f"{n:024x}"},
        "userId": {"long": USER(n)},
        "item": {"string": ITEM(n)},
        "createdAt": {"long": TIME(n)},
        "event": {"string": TYPE(n)},
        "price": {"double": PRICE(n)},
    },
}
PATHS = {
    "relaxed": ("_id.$oid", "userId.$oid", "item", "createdAt.$date", "event", "price.$numberDecimal"),
    "canonical": (
        "_id.$oid", "userId.$numberLong", "item.id.$numberInt", "createdAt.$date.$numberLong", "event",
        "price.$numberDouble",
    ),
    "Avro's JSON": ("_id.string", "userId.long", "item.string", "createdAt.long", "event.string", "price.double"),
}  # fmt: skip


@pytest.mark.parametrize("form", MONGO)
def test_values_in_the_name_of_their_type_are_found_and_read(form: str) -> None:
    """mongoexport, the Kafka connector of MongoDB, and Avro's JSON of a union write {"$numberLong": "123"}."""
    sample = describe([MONGO[form](n) for n in range(COUNT)])
    found = guess(sample)
    names = ("event_id", "user_id", "item_id", "timestamp", "event_type", "price")
    assert fields(found) == {name: (path,) for name, path in zip(names, PATHS[form], strict=True)}
    assert parse_mapping(toml(found, "a test"), "test") == found.mapping
    read = understand(sample, found.mapping, 65_536, 0, NOW_MS * 2)
    assert (len(read.clicks), read.clicks[3].event_type, read.clicks[3].price) == (COUNT, "purchase", 4.5)
