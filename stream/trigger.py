"""The event of a rule for marketing, as it is on the topic `triggers`."""

from msgspec import Struct

TREATED, CONTROL = "treated", "control"
"""The groups of a trigger."""


class Trigger(Struct, frozen=True, gc=False, omit_defaults=True):
    """A rule of the shop for marketing applies to a user now (docs/triggers.md).

    Do not act on one whose group is "control": the report compares these users with the treated ones.

    id          of the click, or of the end of the session, that it is about, with ":" and the name of the rule. Of
                "trending" and "price_drop": partition, hour and user instead
    kind        of the rule: "abandoned", "away", "after", "trending" or "price_drop"
    timestamp   time of the partition at which the rule applies, ms since the epoch
    group       "treated", or "control": the share of the users that the rule holds out
    items       what it is about. Of "after": the recommendations after the click. Of "trending": the items that the
                user has clicked and that trend. Of "price_drop": those whose price has fallen since the user's last
                click on them, the largest drop first. Of the others: the items of the user's last session, the last
                one first
    not_before  only in the rule's quiet hours: when they end, ms since the epoch. Do not act earlier
    """

    id: str
    user_id: str
    rule: str
    kind: str
    timestamp: int
    group: str
    items: list[str]
    reason: str
    model: str
    not_before: int | None = None
