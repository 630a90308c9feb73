"""Reads the parameters of a request. What is wrong with one is an Unanswered with status 400."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from stream.errors import Unanswered
from stream.settings import RECENT_ITEMS
from stream.web.alerts import KEPT
from stream.wire.fields import LONGEST_ID

LARGEST_K = 1000
MOST_EXCLUDED = 1000
"""Items in one request: the list is made from a ranking that is longer by as many."""

PARAMETERS = ("k", "exclude", "category", "because")
ALERT_PARAMETERS = ("user", "limit")


class Asked(NamedTuple):
    """The limits of a list.

    k         largest number of items
    exclude   ids of items that are left out
    category  only items of this category; None = all
    because   for each item, name at most so many clicks that it comes from; 0 = none
    """

    k: int
    exclude: tuple[str, ...] = ()
    category: str | None = None
    because: int = 0


def read(query: Mapping[str, Sequence[str]], k: int, names: Sequence[str] = PARAMETERS) -> Asked:
    """Read the parameters of a request.

    query  name -> its values, decoded
    k      the length of a list if the request gives none
    names  the parameters that the path has
    """
    _check(query, names)
    given = query.get("k")
    exclude = tuple(item for text in query.get("exclude", ()) for item in text.split(",") if item)
    if len(exclude) > MOST_EXCLUDED:
        raise Unanswered(400, f"exclude names {len(exclude)} items; give at most {MOST_EXCLUDED}")
    category = next(iter(query.get("category", ())), None)
    if category is not None and not 0 < len(category) <= LONGEST_ID:
        raise Unanswered(400, f"category has {len(category)} characters; it must have 1 to {LONGEST_ID}")
    reasons = query.get("because")
    because = _number("because", reasons[0], RECENT_ITEMS) if reasons else 0
    return Asked(_number("k", given[0], LARGEST_K) if given else k, exclude, category, because)


def read_alerts(query: Mapping[str, Sequence[str]]) -> tuple[str | None, int]:
    """The user whose alerts are asked for, None = all, and how many alerts at most."""
    _check(query, ALERT_PARAMETERS)
    given = query.get("limit")
    return next(iter(query.get("user", ())), None), _number("limit", given[0], KEPT) if given else KEPT


def _check(query: Mapping[str, Sequence[str]], names: Sequence[str]) -> None:
    for name, values in query.items():
        if name not in names:
            there = f"there are {', '.join(names)}" if names else "there are none"
            raise Unanswered(400, f"parameter {name[:64]!r} does not exist here; {there}")
        if name != "exclude" and len(values) > 1:
            raise Unanswered(400, f"parameter {name} is given {len(values)} times; give it once")


def _number(name: str, text: str, largest: int) -> int:
    if text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= largest:
        return int(text)
    raise Unanswered(400, f"{name} is {text[:64]!r}; it must be a whole number from 1 to {largest}")
