"""The parameters of a list under the shop's rules."""

from typing import NamedTuple

from stream.settings import Rules

WINDOW = 5
"""Diversity and exploration select from the window: the first WINDOW * k items that are allowed for the user."""


class Shape(NamedTuple):
    """The parameters of a list.

    k        largest number of items in the list
    window   number of top allowed items from which the list is selected
    cap      largest number of items of one category; 0 = no limit
    penalty  nats subtracted from an item whose category is already in the list
    """

    k: int
    window: int
    cap: int
    penalty: float


def shape_of(rules: Rules, k: int) -> Shape:
    """The parameters of a list of k items under these rules."""
    penalty = rules.diversity / (1 - rules.diversity)
    window = WINDOW * k if penalty or rules.explore else k
    return Shape(k, window, rules.max_per_category, penalty)
