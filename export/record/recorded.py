"""What was recorded of a topic, and what was not."""

from collections import Counter
from collections.abc import Iterator

from msgspec import Struct, field

from stream.log_lines import printable

REQUEST, FORGOTTEN, LIMIT = "request", "forgotten", "limit"
"""Reasons for which a message is left out, beside those of BadClick."""

MEANT = {
    REQUEST: "requests about users, and what workers write to each other",
    FORGOTTEN: "clicks of users before a request to forget them",
    LIMIT: "messages after the last click of --limit",
}


class Recorded(Struct):
    """What was recorded; messages = clicks + the sum of left_out.

    deleted            offsets before the first message: what Kafka has deleted already
    left_out           reason -> messages that are not in the file
    details            the same reason -> what is wrong with the first one of these messages
    unused             fields and paths of the mapping at which no click has a value
    first_ms, last_ms  times of the earliest and the latest click, ms since the epoch; None = there is no click
    bytes              size of the file
    """

    topic: str
    partitions: int
    file: str = ""
    messages: int = 0
    clicks: int = 0
    deleted: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    details: dict[str, str] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    first_ms: int | None = None
    last_ms: int | None = None
    bytes: int = 0

    def leave_out(self, reason: str, detail: str = "") -> None:
        self.left_out[reason] += 1
        if reason not in self.details:
            self.details[reason] = printable(detail) or MEANT[reason]


def notes(found: Recorded) -> Iterator[str]:
    """Lines about what is not in the file; none if it has all messages and all fields of the mapping."""
    if found.left_out:
        counts = ", ".join(f"{count:,} {reason}" for reason, count in found.left_out.most_common())
        yield f"left out of {found.messages:,} messages: {counts}"
    for reason, _ in found.left_out.most_common():
        yield f"{reason}: {found.details[reason]}"
    if found.deleted:
        yield f"the topic once had {found.deleted:,} more messages before these: Kafka has deleted them (retention)"
    if found.unused:
        yield (
            f"no click has a value for {', '.join(found.unused)}; if a path in the mapping is mistyped, correct it and "
            "read the topic again"
        )
