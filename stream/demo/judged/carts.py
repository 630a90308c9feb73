"""The triggers of the demo's rules, and whether the one for abandoned carts finds each of them."""

from collections import Counter
from collections.abc import Collection, Sequence

from stream.trigger import CONTROL, Trigger

ABANDONED_CART = "cart"

RULES = """
[[trigger]]
name = "cart"
kind = "abandoned"
has = ["cart"]
without = ["purchase"]
cooldown = "0s"
control = 0.1

[[trigger]]
name = "more"
kind = "after"
events = ["purchase"]
cooldown = "12h"

"""
AWAY = """[[trigger]]
name = "back"
kind = "away"
after = "4h"
cooldown = "1d"
"""


def rules_for(event_types: Collection[str]) -> str:
    """The file of --triggers: the rules whose event types the model has."""
    return RULES + AWAY if {"cart", "purchase"} <= set(event_types) else AWAY


class Carts:
    """Counts of triggers, and of the sessions of people in which a cart was left behind.

    by_rule  rule -> triggers
    control  those of the control groups
    found    abandoned carts with a trigger
    wrong    triggers for a cart, where the simulated user has bought after all, after a pause of half an hour
    """

    def __init__(self) -> None:
        self.by_rule: Counter[str] = Counter()
        self.control = 0
        self.found = 0
        self.wrong = 0
        self._fired: set[str] = set()  # ids of clicks: the first ones of the sessions that triggers are about
        self._missed: dict[str, int] = {}  # id of a click -> number of the abandoned cart in whose session it is
        self._abandoned = 0

    @property
    def missed(self) -> int:
        """Abandoned carts without a trigger."""
        return self._abandoned - self.found

    def fired(self, trigger: Trigger) -> None:
        """Count a trigger that was read."""
        self.by_rule[trigger.rule] += 1
        self.control += trigger.group == CONTROL
        if trigger.rule != ABANDONED_CART:
            return
        first = trigger.id.partition("-end")[0]
        cart = self._missed.get(first)
        if cart is None:
            self._fired.add(first)
            return
        self.found += 1
        self._missed = {id_: number for id_, number in self._missed.items() if number != cart}

    def over(self, ids: Sequence[str], abandoned: bool) -> None:
        """Count a session that is over. ids: those of its clicks"""
        fired = self._fired.intersection(ids)
        self._fired -= fired
        self._abandoned += abandoned
        if not abandoned:
            self.wrong += bool(fired)
        elif fired:
            self.found += 1
        else:
            self._missed |= dict.fromkeys(ids, self._abandoned)

    def counts(self) -> dict[str, int]:
        return {"found": self.found, "missed": self.missed, "wrong": self.wrong}
