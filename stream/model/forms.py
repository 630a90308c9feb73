"""The form of an item id: which kinds of characters it has, in which order.

Each digit counts; letters, with the digits among them, are one word, in capitals or not. "4711" is 0000, "SKU-17" is
A-00, "undefined" is a. A shop's new items have ids of the forms that its other items have. An id of another form is
often a fault of what sends it: another field, another range of numbers, no value.
"""

import re
from collections.abc import Iterable

MOST = 1000
"""A catalogue with more forms has ids that people write, such as titles: there, a new form says nothing."""

_WORD = re.compile(r"[^\W_]*[^\W\d_][^\W_]*")
_DIGIT = re.compile(r"\d")


def form(item_id: str) -> str:
    """The form of an id: each digit as 0, each word with a letter as A if it is in capitals, else as a."""
    if item_id.isdecimal():
        return "0" * len(item_id)
    return _DIGIT.sub("0", _WORD.sub(_word, item_id))


def forms(ids: Iterable[str]) -> frozenset[str] | None:
    """All forms of the ids; None if there are more than MOST."""
    found: set[str] = set()
    for item_id in ids:
        found.add(form(item_id))
        if len(found) > MOST:
            return None
    return frozenset(found)


def _word(found: re.Match[str]) -> str:
    return "A" if found[0].isupper() else "a"
