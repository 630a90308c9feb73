"""Makes the messages of the topic `triggers`."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from stream.events import Click, Origin, end_id
from stream.log_lines import counted
from stream.trigger import Trigger
from stream.triggers.fire import Firing
from stream.triggers.hourly.windows import Drop
from stream.triggers.rules import ABANDONED, AWAY, duration


def messages(
    firings: Sequence[Firing], names: npt.NDArray[np.object_], clicks: Sequence[Click], label: str
) -> list[Trigger]:
    """The messages on these triggers, in their order.

    names   (V,) item ids of the model
    clicks  of the batch
    label   "name/version" of the model
    """
    return [_message(firing, names, clicks, label) for firing in firings]


def _message(firing: Firing, names: npt.NDArray[np.object_], clicks: Sequence[Click], label: str) -> Trigger:
    (_, user), rule = firing.owner, firing.rule
    items = dict.fromkeys(str(names[item]) for item in firing.items if 0 <= item < len(names))  # each once
    return Trigger(
        id=f"{_about(firing)}:{rule.name}",
        user_id=user.decode(),
        rule=rule.name,
        kind=rule.kind,
        timestamp=firing.time_ms,
        group=rule.group(user),
        items=list(items),
        reason=_reason(firing, clicks),
        model=label,
        not_before=rule.quiet and rule.quiet.not_before(firing.time_ms),
    )


def _about(firing: Firing) -> str:
    """The click or the end of a session that it is about; of a rule about a full hour, the hour and the user."""
    (partition, user), origin = firing.owner, Origin(*firing.owner[0], 0).at(firing.offset)
    if firing.why is not None:
        return f"{partition}/{firing.time_ms}/{user.decode()}"
    return origin.id if firing.revision is None else end_id(origin, firing.revision)


def _reason(firing: Firing, clicks: Sequence[Click]) -> str:
    """What has happened, in words."""
    rule = firing.rule
    if rule.kind == AWAY:
        return f"no click for {duration(rule.after_ms)}"
    if isinstance(firing.why, Drop):
        what, then, now = firing.why
        return f"the price of {what} fell from {_price(then)} to {_price(now)}"
    if firing.why is not None:
        _, users, of, before, of_before, _ = trend = firing.why
        return (
            f"{trend.what} trends: {users:,} of {of:,} clicks in the hour, and {before:,} of {of_before:,} in the "
            f"{duration(rule.over_ms)} before; of a user's clicks on one {rule.of} in an hour one counts"
        )
    if rule.kind != ABANDONED:
        click = clicks[firing.click]
        return f"{click.event_type} of {click.item_id}"
    count = counted(firing.clicks, "click")
    without = f" and without {' or '.join(rule.without)}" if rule.without else ""
    returns = "" if firing.returns is None else f"; the user returns with probability {firing.returns:.2g}"
    return f"a session of {count} has ended, with {' or '.join(rule.has)}{without}{returns}"


def _price(price: np.float32) -> str:
    """The shortest decimal number that is this float32, with two decimals or more: 89.90."""
    return np.format_float_positional(price, min_digits=2)
