"""The interface between the loop (stream/sinks/run.py) and a place that keeps a copy of the output topics.

The rule that must not break: a sink stores the offset of a partition together with the data, in one step that happens
as a whole or not at all, and only if the stored offset is the one that the caller has read. Then a process that is
killed, frozen or started twice cannot write anything twice, and cannot replace newer data by older.
tests/contracts/test_sinks.py tests every sink.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from stream.behaviour import Behaviour
from stream.errors import EddyError
from stream.events import Anomaly, Partition, Recommendation, Session, SystemAlert
from stream.trigger import Trigger

Event = Recommendation | Anomaly | SystemAlert | Session | Trigger | Behaviour


class Part(NamedTuple):
    """What is written in one step: messages of one partition, in their order.

    output  name of the output, a key of stream.outputs.OUTPUTS
    begin   the stored offset that is expected; None if nothing was stored yet
    first   offset of the first message
    end     the offset to store: that of the next message to read
    events  may be fewer than end - first, because some offsets have no message, or one that could not be read
    raw, keys, times_ms  of the message of each event, as they are on the topic: value, key and timestamp (ms since the
            epoch)
    """

    output: str
    partition: Partition
    begin: int | None
    first: int
    end: int
    events: Sequence[Event]
    raw: Sequence[bytes]
    keys: Sequence[bytes | None]
    times_ms: Sequence[int]


class Away(EddyError):
    """The server of a sink does not answer, or cannot write now. Waiting may help."""


class Moved(EddyError):
    """The stored offset is not the expected one: another process has written, or the server has lost its last data."""

    def __init__(self, partition: Partition, expected: int | None) -> None:
        super().__init__(f"the stored offset of {partition} is not {expected}")


class Sink(Protocol):
    """A place that keeps data and offsets. All methods may raise Away, and ConfigError if waiting does not help.

    After Away or Moved, the caller calls `close`, `open` and `offsets` again: the outcome of the last write is unknown.
    """

    @property
    def where(self) -> str:
        """Where the data goes, for the log; without a password."""

    def open(self) -> None:
        """Connect, and check that everything is there."""

    def offsets(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        """The stored offsets; a partition without one is left out."""

    def write(self, part: Part) -> int:
        """Write the events of a part and store its offset, or do nothing and raise.

        Returns the number of events that were left out, because the server cannot hold their values.
        Raises Moved if the stored offset is not `part.begin`.
        """

    def close(self) -> None:
        """Disconnect. It raises nothing, and may be called at any time."""


def subject(event: Event) -> str:
    """What an event replaces an earlier one of: the user, the rule and the user, the partition and the sign, or the
    partition and the hour."""
    if isinstance(event, Behaviour):
        return event.id
    if isinstance(event, SystemAlert):
        return f"{event.partition} {event.sign}"
    return f"{event.rule} {event.user_id}" if isinstance(event, Trigger) else event.user_id


def latest(events: Iterable[Event]) -> dict[str, int]:
    """Subject -> position of its latest event. A decision whose list comes with a later click does not count."""
    return {
        subject(event): n
        for n, event in enumerate(events)
        if not isinstance(event, Recommendation) or event.superseded_by is None
    }
