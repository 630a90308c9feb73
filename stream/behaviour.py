"""The event of what the users of a partition did in one hour, as it is on the topic of --behaviour-topic."""

from msgspec import Struct

START, END, OTHER = "(start)", "(end)", "(other)"
"""Names beside those of the event types: where a session begins and ends, and event types that have no row of their
own. The last ones are those that the model does not know, and rare ones where there are too many."""


class Behaviour(Struct, frozen=True, gc=False, omit_defaults=True):
    """What the users of a partition did in one full hour of the partition's time (docs/behaviour.md).

    Every number but `users` may be summed over partitions and hours. `users` may be summed over partitions.

    id           topic and partition of the clicks, and `hour`: "clicks-0/1760000400000"
    partition    of the clicks
    hour         begin of the hour, ms since the epoch
    clicks       decided clicks
    users        users with a decided click in the hour
    opened       sessions that began
    closed       sessions that ended; one that a late click goes on with ends again
    events       event type -> clicks
    reached      event type -> sessions that had their first click of this type. Without those of "(other)"
    transitions  event type before -> event type -> clicks. Before a session's first click is "(start)", and after its
                 last one "(end)". A late click that goes on with a session that has ended comes after "(end)"
    """

    id: str
    partition: int
    hour: int
    clicks: int
    users: int
    opened: int
    closed: int
    events: dict[str, int]
    reached: dict[str, int]
    transitions: dict[str, dict[str, int]]
    model: str
