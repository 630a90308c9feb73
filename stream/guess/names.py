"""Names that shops and tracking programs give to the fields and types of events, for guesses only.

They are written without case, dots, blanks, dashes and underscores: `User ID`, `userId` and `user_id` are `userid`.
stream/guess/match.py compares them with paths.
"""

import re
import unicodedata

FIELDS: dict[str, tuple[str, ...]] = {
    "user_id": (
        "userid", "uid", "customerid", "userno", "usernr", "usernumber", "userref", "customerno", "customernr",
        "customernumber", "customerref", "kundenid", "kundennr", "kundennummer", "memberno", "membernr", "clientno",
        "clientnr", "customer", "memberid", "accountid", "profileid", "visitorid", "shopperid", "clientid", "user",
        "buyerid",
    ),
    "item_id": (
        "itemid", "productid", "*product1id", "articleid", "contentid", "sku", "offerid", "listingid", "pid", "asin",
        "itemno", "itemnr", "itemref", "itemcode", "itemsku", "productno", "productnr", "productref", "productcode",
        "productsku", "prodid", "prodno", "prodnr", "prodref", "prodcode", "articleno", "articlenr", "articleref",
        "articlenumber", "itemnumber", "productnumber",
        "artikelnr", "artikelnummer", "artno", "artnr", "skuid", "skuno", "skucode", "*sku",
        "item", "product", "article", "pks", "stockcode",
    ),
    "timestamp": (
        "eventtimestamp", "derivedtstamp", "timestamp", "eventtime", "originaltimestamp", "occurredat", "time", "ts",
        "datetime", "createdat", "collectortstamp", "sentat", "receivedat", "date",
        "eventdate", "unixtime", "unixtimestamp", "epoch", "epochtime", "servertimestamp", "servertime", "clienttime",
        "clienttimestamp", "cdt", "invoicedate", "orderdate", "data", "dataora",
    ),
    "event_type": (
        "*ecommerceaction1type", "eventtype", "eventname", "event", "action", "actiontype", "behaviortype",
        "behavior", "behaviour", "interactiontype", "interaction", "activity", "verb", "type",
        "eventkind", "action.name", "kind", "ea",
    ),
    "session_id": (
        "sessionid", "usersession", "domainsessionid", "gasessionid", "visitid", "session", "visit", "sid",
    ),
    "price": (
        "price", "unitprice", "itemprice", "productprice", "priceamount", "unitpriceamount", "itempriceamount",
        "pricevalue", "productviewprice", "pkp", "unitcost", "itemcost", "productcost", "articlecost", "~cost",
        "~amount",
    ),
    "quantity": ("quantity", "qty", "itemquantity", "productquantity"),
    "category": (
        "categoryid", "category", "itemcategory", "productcategory", "categorycode", "categoryname", "department",
        "pkc",
    ),
    "event_id": ("eventid", "messageid", "insertid", "eventuuid", "uuid", "id"),
}  # fmt: skip
"""Field -> its usual names, the most certain first. Those that begin with pk, and ea, are Matomo's. `data` is a date in
Italian, Portuguese and Polish.

*sku         it only has to be the end of a name
action.name  an object and its value, and no single name: Matomo's `action_name` is the title of a page
~cost        only of an item: at the top, in an object of the event, or in one of an item
"""

SHORT_WORDS = {
    "evt": "event", "evnt": "event", "ev": "event", "prod": "product", "prd": "product", "cat": "category",
    "categ": "category", "ctg": "category", "cust": "customer", "usr": "user", "sess": "session", "qnt": "quantity",
    "qnty": "quantity", "qty": "quantity", "amt": "amount", "prc": "price", "ts": "timestamp", "tstamp": "timestamp",
    "dt": "date", "nm": "name", "typ": "type", "itm": "item", "ident": "id", "identifier": "id", "items": "item",
    "products": "product", "articles": "article", "events": "event", "categories": "category", "actions": "action",
}  # fmt: skip
"""Abbreviation or plural -> the word in FIELDS."""

TRANSLATED = {
    english: words.split()
    for english, words in {
        "user": "nutzer benutzer utilisateur usuario utilizador utente gebruiker uzytkownik kullanici",
        "customer": "kunde kunden cliente clientes klant klanten klient musteri",
        "item": "ware",
        "product": "produkt produkte produit producto produto prodotto urun",
        "article": "artikel articulo artigo articolo towar",
        "event": "ereignis evenement evento gebeurtenis zdarzenie olay",
        "action": "aktion accion acao azione actie akcja",
        "timestamp": "zeitstempel zeitpunkt horodatage tijdstip",
        "time": "zeit uhrzeit heure hora ora tijd czas zaman",
        "date": "datum fecha tarih",
        "type": "tipo soort",
        "session": "sitzung sesion sessao sessione sessie sesja oturum",
        "price": "preis prix precio preco prezzo prijs cena fiyat",
        "amount": "betrag montant monto importe importo bedrag kwota tutar",
        "quantity": "menge anzahl quantite cantidad quantidade quantita aantal ilosc adet",
        "category": "kategorie categorie categoria kategoria kategori",
        "number": "nummer numero numer numara",
        "code": "codigo codice kod",
        "id": "kennung identifiant",
    }.items()
}
"""A word in FIELDS -> the same in German, French, Spanish, Portuguese, Italian, Dutch, Polish and Turkish.

Without accents and in small letters, as `folded` makes them.
"""

SHORT_WORDS |= {word: english for english, words in TRANSLATED.items() for word in words}

LEADING = ("id", "code", "cod", "number", "no", "ref", "type", "date", "time", "timestamp")
"""Words that many languages write before what they are of: `id_cliente`, `fecha_evento`."""

TYPED = (
    "$oid", "$date", "$numberLong", "$numberInt", "$numberDouble", "$numberDecimal",
    "string", "long", "int", "double", "float",
)  # fmt: skip
"""Names that only say of which type a value is: in MongoDB's extended JSON, and in Avro's JSON of a union."""

UNITS = (
    "ms",
    "millis",
    "milliseconds",
    "micros",
    "us",
    "sec",
    "secs",
    "seconds",
    "ns",
    "utc",
    "eur",
    "usd",
    "gbp",
    "chf",
)
"""Words after a name that say in which unit it is: `event_time_ms`, `price_eur`."""

# -- the objects that a value is in ------------------------------------------------------------------------------------

WRAPPERS = (
    "data", "payload", "body", "message", "msg", "value", "properties", "props", "attributes", "attrs", "params",
    "parameters", "detail", "details", "fields", "record", "after", "meta", "metadata", "header", "headers", "context",
    "ecommerce", "price", "category", "unit",
)  # fmt: skip
"""Names of objects that do not say what their values are about."""

EVENTS = ("event", "action", "hit", "interaction", "activity", "track", "click")
ITEMS = ("item", "product", "article", "sku", "offer", "variant", "listing", "goods", "merchandise")
USERS = ("user", "customer", "visitor", "account", "profile", "member", "shopper", "buyer", "person", "contact")
PAGES_AND_DEVICES = ("page", "screen", "device", "browser", "app", "geo", "location", "library", "referrer", "campaign")
COSTS = ("shipping", "delivery", "tax", "discount", "coupon", "voucher", "payment", "fee")
STOCKS = ("stock", "inventory", "warehouse")

FOREIGN: dict[str, tuple[str, ...]] = {
    "user_id": ITEMS,
    "item_id": USERS,
    "timestamp": (*ITEMS, *USERS, *PAGES_AND_DEVICES),
    "event_type": (*ITEMS, *USERS, *PAGES_AND_DEVICES, *COSTS),
    "price": (*USERS, *PAGES_AND_DEVICES, *COSTS, *STOCKS),
    "quantity": (*USERS, *PAGES_AND_DEVICES, *COSTS, *STOCKS),
    "category": (*USERS, *PAGES_AND_DEVICES, *COSTS, *STOCKS),
}
"""Field -> words in the names of objects whose values are not of this field: `product.type`, `shipping.price`."""

CLEAR_TYPES = ("eventtype", "eventname", "event")
"""Names of an event type that need no look at the object around them."""

ANONYMOUS = (
    "anonymousid", "userpseudoid", "domainuserid", "visitorid", "fullvisitorid", "deviceid", "cookieid", "clientid",
    "distinctid", "networkuserid", "visitorcookie", "usercookie", "customercookie", "clientcookie", "browsercookie",
    "shopcookie", "trackingcookie", "visitorcookieid", "cookie",
)  # fmt: skip
"""Names of an id that a user has before a user id is known."""

AMOUNTS = ("price", "amount", "total", "revenue", "cost", "discount", "quantity", "qty", "currency", "shipping", "amt")
"""Words in names of paths whose values are amounts of money or of items, and no ids."""

TYPES: dict[str, tuple[str, ...]] = {
    "view": (
        "view", "views", "productviewed", "productview", "viewproduct", "viewitem", "itemview", "itemviewed", "viewed",
        "detail", "detailview", "pv",
    ),
    "cart": (
        "cart", "addtocart", "productadded", "addedtocart", "itemadded", "addcart", "cartadd", "add2cart", "basketadd",
        "cartadded", "basketadded",
        "addtobasket", "addtobag",
    ),
    "purchase": (
        "purchase", "purchased", "transaction", "ordercompleted", "orderplaced", "buy", "bought", "order",
        "ordered",
    ),
    "remove_from_cart": ("removefromcart", "removedfromcart", "productremoved", "cartremove", "itemremoved"),
    "wishlist": ("addtowishlist", "productaddedtowishlist", "wishlist", "fav", "favorite", "favourite"),
}  # fmt: skip
"""Eddy's event type -> usual names of it."""

PAGES = ("cart", "detail", "wishlist", "order", "purchase", "transaction", "view", "views")
"""Event types whose names are types of pages too, or of what is shown, so that they say nothing by themselves."""

LISTS = (
    "productlistviewed", "productlistfiltered", "productssearched", "viewitemlist", "viewsearchresults",
    "selectpromotion", "viewpromotion", "promotionviewed", "impression", "impressions", "listview", "viewcart",
    "cartviewed",
)  # fmt: skip
"""Types of events on many items that the user has only been shown."""

SHORT = 8
"""A type's name of so many letters may have others before it, such as com.example.shop.product_viewed."""


def folded(name: str) -> str:
    """A name without accents, so that `événement` is `evenement`."""
    if name.isascii():
        return name
    parts = unicodedata.normalize("NFKD", name.translate({0x131: "i", 0x142: "l", 0x141: "L"}))
    return "".join(part for part in parts if not unicodedata.combining(part))


def plain(name: str) -> str:
    """A name without case, accents, and all that is no letter or digit."""
    return re.sub(r"[\W_]+", "", folded(name)).lower()


def event_type(theirs: str) -> str | None:
    """Eddy's name for an event type; None if no usual name is similar.

    Of a name with dots, as CloudEvents have it, the last one or two parts may be the name: com.shop.basket.added.
    """
    word = plain(theirs)
    for ours, names in TYPES.items():
        if any(word == name or (len(name) >= SHORT and word.endswith(name)) for name in names):
            return ours
    *before, last = theirs.split(".")
    if not before or shows_a_list(theirs):
        return None
    ends = plain(before[-1] + last), plain(last)
    return next((ours for end in ends for ours, names in TYPES.items() if end in names and end not in PAGES), None)


def shows_a_list(theirs: str) -> bool:
    """Whether events of this type usually are on many items that were only shown."""
    return any(plain(theirs).endswith(name) for name in LISTS)
