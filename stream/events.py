"""The events that Eddy reads and writes. On the topics they are JSON objects with these fields.

For each click Eddy writes exactly one Recommendation (the decision). It also writes an Anomaly if the click is too
unlikely. For a message that is not a valid click it writes a DeadLetter instead. The `id` of every output is the
click's topic, partition and offset, so a consumer can recognise repeats.
"""

import re
from typing import NamedTuple

from msgspec import Struct


class Partition(NamedTuple):
    """One partition of one topic. Data per partition has this key, because the number alone is not unique."""

    topic: str
    number: int

    def __str__(self) -> str:
        return f"{self.topic}-{self.number}"


class Origin(NamedTuple):
    """The topic, partition and offset of a message. They identify the message."""

    topic: str
    partition: int
    offset: int

    @property
    def id(self) -> str:
        return f"{self.topic}-{self.partition}-{self.offset}"

    def at(self, offset: int) -> "Origin":
        """The message at an offset that the row of a user of this partition has; it may be as `elsewhere` gives it."""
        number, offset = divmod(offset, ELSEWHERE)
        return Origin(self.topic, number - 1 if number else self.partition, offset)


def click_of(id_: str) -> str:
    """The id of the click that a decision is about: clicks-0-17 of clicks-0-17@shop/3."""
    return id_.partition("@")[0]  # a topic has no @ in its name


ELSEWHERE = 1 << 48
"""More than any offset. A larger number in a row is an offset of another partition, where the state was before."""


def elsewhere(partition: int, offset: int) -> int:
    """What stands for an offset of this partition in a row that goes to another one."""
    return offset if offset >= ELSEWHERE else (partition + 1) * ELSEWHERE + offset


class Click(Struct, frozen=True, gc=False, omit_defaults=True):
    """One event of one user, such as a view, a cart or a purchase.

    timestamp  ms since the epoch, UTC
    event_id   the producer's id of the event. A click with one of the user's last 16 ids is a repeat: it is not applied
    consent    whether the user agrees to marketing messages; the last value that a click of the user has counts
    """

    user_id: str
    item_id: str
    timestamp: int
    event_type: str = "view"
    session_id: str | None = None
    price: float | None = None
    quantity: float | None = None
    category: str | None = None
    event_id: str | None = None
    consent: bool | None = None


class Recommendation(Struct, frozen=True, gc=False, omit_defaults=True):
    """The decision on one click: the recommended items for the user's next click, best first.

    id             of the click, "@" and `model`: two models that decide the same click make two decisions
    log_probs      natural logarithm of the model's probability of each item, over the whole catalogue. The values do
                   not increase, except where diversity or exploration moved an item
    surprise       nats, of the click itself under the state before it
    p_value        of the click together with the user's last clicks, in (0, 1]; small = unusual
    model          "name/version" of the model
    propensities   only with exploration: the probability that each slot shows its item, given the click
    explored       only with exploration: the slots (0 = first) that it filled
    items_cut      number of omitted items at the end of the list; above 0 only if it was too large for its topic
    superseded_by  only with `--lists last`: the id of the decision on the user's later click, which has the list. Then
                   `items` is empty, and both decisions are in one transaction
    next           if the model predicts it: event type -> probability that the session's next click is one of it. With
                   `leaves` and event types that the model does not know the sum is 1
    leaves         if the model predicts it: probability that no click follows within half an hour
    returns_7d     if the model predicts it: probability that the user comes back within 7 days, if this click is the
                   last one of the session
    intent         if the model predicts it: probability that the session still has a purchase, after this click; or an
                   event of the type of `eddy train --intent-event`
    """

    id: str
    user_id: str
    item_id: str
    timestamp: int
    items: list[str]
    log_probs: list[float]
    surprise: float
    p_value: float
    model: str
    propensities: list[float] | None = None
    explored: list[int] | None = None
    items_cut: int = 0
    superseded_by: str | None = None
    next: dict[str, float] | None = None
    leaves: float | None = None
    returns_7d: float | None = None
    intent: float | None = None


class Expected(Struct, frozen=True, gc=False):
    """An item that the model expected, and its probability."""

    item_id: str
    probability: float


SESSION_END = "session end"
"""The event type of an alert on the end of a session, which is not a click."""

WHOLE_SESSIONS = "whole sessions"
"""The pool of such an alert."""


def end_id(first: Origin, revision: int) -> str:
    """The id of an alert on the end of a session. first: its first click. revision: how often it had ended before"""
    return f"{first.id}-end-{revision}" if revision else f"{first.id}-end"


def clicks_topic_of(alert_id: str) -> str:
    """The topic of the clicks in the id of an alert on a user."""
    of_end = re.fullmatch(r"(.+-\d+-\d+)-end(-\d+)?", alert_id)
    return (of_end[1] if of_end else alert_id).rsplit("-", 2)[0]


class Anomaly(Struct, frozen=True, gc=False, omit_defaults=True):
    """An alert: a click with which a user's last clicks become unusual, or much more unusual than at the last alert.

    Or the end of an unusual session. Then `id` is that of the session with "-end" (and "-" and the revision, if it had
    ended before), item_id and timestamp are those of the last click, event_type is "session end", `expected` is empty.

    item_id       of an end: empty if the model does not know the item
    episode       id of the click that opened the user's episode; equal to `id` in its first alert
    surprise      nats, of the click's item; of an end: of a session that ends after this item
    p_value       of the click together with the user's last clicks, as in the recommendation
    score         high = anomalous: -log10 of the p-value
    threshold     an unusual click has at most this p_value. It is the nominal share of sessions with a false alert
    statistics    name -> p-value of each unusual statistic, the strongest first, persistence last (docs/anomalies.md)
    pool          the held-out clicks that its statistics were compared with: those after so many clicks of a session;
                  of an end: "whole sessions"
    pool_size     number of held-out sessions
    expected      the most probable items for the state before the click, best first
    expected_cut  number of omitted `expected` items; above 0 only if the alert was too large for its topic
    part_of       `episode` of the alert on many users that this one is part of; None = of none
    """

    id: str
    user_id: str
    item_id: str
    event_type: str
    timestamp: int
    episode: str
    reason: str
    surprise: float
    p_value: float
    score: float
    threshold: float
    statistics: dict[str, float]
    pool: str
    pool_size: int
    expected: list[Expected]
    model: str
    expected_cut: int = 0
    part_of: str | None = None


DRIFT = "drift"
"""The sign of an alert on sessions, not on users: more of them than nominal have a small p-value."""


class SystemAlert(Struct, frozen=True, gc=False, omit_defaults=True):
    """An alert on a whole partition: many users show the same sign at once, as in a fault, a campaign or a sale.

    id           id of the click with which the users became too many, or after which the episode ended. Alerts with
                 other signs can have the same id
    episode      id of the click that opened the episode; equal to `id` in its first alert
    phase        "opened", or "closed": for half an hour no window had too many
    partition    of the clicks. Each partition has alerts of its own
    sign         what the users have in common (docs/anomalies.md)
    timestamp    time of the partition, ms since the epoch: the largest timestamp of a decided click up to this one
    users        users with the sign since the window began; if it closes, since the episode began, each once a window.
                 Of a drift: sessions of the last hours that are as unusual
    usual_share  usual share of users with the sign
    of_users     only if it opens: all users with a click since the window began, or all sessions of the last hours
    p_value      only if it opens: probability that a window has as many users with the sign by chance
    item_id, event_type  only if it opens, and not of a drift: of the click, as an example
    alerts       only if it closes: alerts on single users that are part of it
    """

    id: str
    episode: str
    phase: str
    partition: int
    sign: str
    timestamp: int
    reason: str
    users: int
    usual_share: float
    model: str
    of_users: int | None = None
    p_value: float | None = None
    item_id: str | None = None
    event_type: str | None = None
    alerts: int | None = None


class Run(Struct, frozen=True, gc=False):
    """Clicks of a session that follow on each other and have one event type. event_type: empty if the model does not
    know it
    """

    event_type: str
    clicks: int


class Session(Struct, frozen=True, gc=False, omit_defaults=True):
    """A user's session has begun or has ended. It ends after half an hour without a click of the user.

    id              id of its first click
    phase           "opened", or "closed". A late click goes on with a session that has ended; then it ends again
    timestamp       opened: of the first click; closed: the largest one of its clicks. ms since the epoch
    started         timestamp of the first click, ms since the epoch
    clicks          number of its decided clicks so far
    events          event type -> clicks
    revision        how often it had ended before. Of several ends of a session the one with the largest revision counts
    unknown_events  clicks with event types that the model does not know
    p_value         closed, and only if the model scores ends: of the end, in (0, 1]; small = unusual
    intent_first, intent_highest, intent_last  closed, and only if the model predicts it: `intent` of the recommendation
                    after the first click, the highest one, and after the last click
    returns_7d      closed, and only if the model predicts it: as in the recommendation after the last click
    path            closed: runs of clicks with one event type, in their order; at most the first 11 and the last one
    path_cut        closed: number of omitted runs before the last one
    reached_ms      closed: event type -> time from `started` to the earliest click of it, at least 0
    items           closed: number of different items; estimated if there are more than 16 clicks
    categories      closed, and only if a click has a category: number of different ones; estimated if there are more
                    than five
    value           closed, and only if above 0: sum of price times quantity over the purchases
    alerts          closed: number of its clicks with an alert that opened an episode
    """

    id: str
    user_id: str
    phase: str
    timestamp: int
    started: int
    clicks: int
    events: dict[str, int]
    model: str
    revision: int = 0
    unknown_events: int = 0
    p_value: float | None = None
    intent_first: float | None = None
    intent_highest: float | None = None
    intent_last: float | None = None
    returns_7d: float | None = None
    path: list[Run] | None = None
    path_cut: int = 0
    reached_ms: dict[str, int] | None = None
    items: int | None = None
    categories: int | None = None
    value: float | None = None
    alerts: int = 0


class DeadLetter(Struct, frozen=True, gc=False):
    """A message that is not a valid click, with the reason and its topic, partition and offset.

    timestamp               Kafka's timestamp of the message, ms since the epoch
    key, value              the original bytes in base64, shortened if the record would be too large for its topic.
                            None if the message had none
    key_bytes, value_bytes  length of the original key and value in bytes; 0 if the message had none
    """

    id: str
    reason: str
    detail: str
    topic: str
    partition: int
    offset: int
    timestamp: int
    key: str | None
    value: str | None
    value_bytes: int
    key_bytes: int
