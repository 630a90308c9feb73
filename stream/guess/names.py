"""Names that shops and tracking programs give to the fields and types of events, for guesses only.

A name is compared without case, dots, blanks, dashes and underscores: `User ID`, `userId` and `user_id` are `userid`.
It is compared with the last name of a path and with the last two together, so `product.id` is `productid`. One that
begins with * only has to be the end of them.
"""

import re

from stream.mapping.paths import Path

FIELDS: dict[str, tuple[str, ...]] = {
    "user_id": (
        "userid", "uid", "customerid", "userno", "usernr", "usernumber", "userref", "customerno", "customernr",
        "customernumber", "customerref", "kundenid", "kundennr", "kundennummer", "memberno", "membernr", "clientno",
        "clientnr", "customer", "memberid", "accountid", "profileid", "visitorid", "shopperid", "clientid", "user",
    ),
    "item_id": (
        "itemid", "productid", "*product1id", "articleid", "contentid", "sku", "offerid", "listingid", "pid", "asin",
        "itemno", "itemnr", "itemref", "itemcode", "itemsku", "productno", "productnr", "productref", "productcode",
        "productsku", "prodid", "prodno", "prodnr", "prodref", "prodcode", "articleno", "articlenr", "articleref",
        "articlenumber", "artikelnr", "artikelnummer", "artno", "artnr", "skuid", "skuno", "skucode", "*sku",
        "item", "product", "article",
    ),
    "timestamp": (
        "eventtimestamp", "derivedtstamp", "timestamp", "eventtime", "originaltimestamp", "occurredat", "time", "ts",
        "datetime", "createdat", "collectortstamp", "sentat", "receivedat", "date",
    ),
    "event_type": (
        "*ecommerceaction1type", "eventtype", "eventname", "event", "action", "actiontype", "behaviortype",
        "behavior", "behaviour", "interactiontype", "interaction", "activity", "verb", "type",
    ),
    "session_id": (
        "sessionid", "usersession", "domainsessionid", "gasessionid", "visitid", "session", "visit", "sid",
    ),
    "price": ("price", "unitprice", "itemprice", "productprice", "priceamount", "unitpriceamount", "itempriceamount"),
    "quantity": ("quantity", "qty"),
    "category": (
        "categoryid", "category", "itemcategory", "productcategory", "categorycode", "categoryname", "department",
    ),
    "event_id": ("eventid", "messageid", "insertid", "eventuuid", "uuid", "id"),
}  # fmt: skip
"""Field -> its usual names, the most certain first."""

ANONYMOUS = (
    "anonymousid", "userpseudoid", "domainuserid", "visitorid", "fullvisitorid", "deviceid", "cookieid", "clientid",
    "distinctid", "networkuserid", "visitorcookie", "usercookie", "customercookie", "clientcookie", "browsercookie",
    "shopcookie", "trackingcookie", "visitorcookieid", "cookie",
)  # fmt: skip
"""Names of an id that a user has before a user id is known."""

AMOUNTS = ("price", "amount", "total", "revenue", "cost", "discount", "quantity", "qty", "currency", "shipping")
"""Words in names of paths whose values are amounts of money or of items, and no ids."""

TYPES: dict[str, tuple[str, ...]] = {
    "view": (
        "view", "views", "productviewed", "productview", "viewproduct", "viewitem", "itemview", "itemviewed", "viewed",
        "detail", "detailview", "pv",
    ),
    "cart": (
        "cart", "addtocart", "productadded", "addedtocart", "itemadded", "addcart", "cartadd", "add2cart", "basketadd",
    ),
    "purchase": (
        "purchase", "purchased", "transaction", "ordercompleted", "orderplaced", "buy", "bought", "order",
    ),
    "remove_from_cart": ("removefromcart", "productremoved", "cartremove", "itemremoved"),
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


def plain(name: str) -> str:
    """A name without case and without all that is no letter or digit."""
    return re.sub(r"[\W_]+", "", name).lower()


def rank(path: Path, names: tuple[str, ...]) -> int | None:
    """The place of a path's name among `names`; None if it has none of them."""
    words = [plain(step) for step in path if isinstance(step, str)]
    own = {words[-1], "".join(words[-2:])} if words else set()
    for place, name in enumerate(names):
        if name in own or (name.startswith("*") and any(word.endswith(name[1:]) for word in own)):
            return place
    return None


def is_amount(path: Path) -> bool:
    """Whether a name on the path is that of an amount."""
    return any(word in plain(step) for step in path if isinstance(step, str) for word in AMOUNTS)


def event_type(theirs: str) -> str | None:
    """Eddy's name for an event type; None if no usual name is similar."""
    word = plain(theirs)
    for ours, names in TYPES.items():
        if any(word == name or (len(name) >= SHORT and word.endswith(name)) for name in names):
            return ours
    return None


def shows_a_list(theirs: str) -> bool:
    """Whether events of this type usually are on many items that were only shown."""
    return any(plain(theirs).endswith(name) for name in LISTS)
