"""What aiokafka knows of the partitions that it has: where it reads, and where they end.

Source: aiokafka/consumer/subscription_state.py.
"""

from typing import Any, NamedTuple

import faust

from stream.events import Partition


class Held(NamedTuple):
    """Messages of one partition that Kafka holds back, because the transaction of the first one is open.

    begin    offset of the first one
    waiting  how many there are
    """

    begin: int
    waiting: int


def positions(consumer: Any) -> dict[Any, int]:
    """Return partition -> next offset to read, for every partition that has a position."""
    return {tp: state.position for tp, state in _states(consumer).items() if state.has_valid_position}


def high_watermarks(app: faust.App) -> dict[Partition, int]:
    """Return partition -> high watermark of the latest fetch, for every partition of which a fetch has found one.

    Also of a fetch without a click, as behind a transaction that is open. May be called in any thread.
    """
    return {Partition(*tp): state.highwater for tp, state in _of_app(app).items() if state.highwater is not None}


def held_back(app: faust.App) -> dict[Partition, Held]:
    """Return what was not read at the latest fetch, of each partition that is read up to an open transaction.

    May be called in any thread.
    """
    return {
        Partition(*tp): Held(state.lso, state.highwater - state.lso)
        for tp, state in _of_app(app).items()
        if state.has_valid_position and state.lso is not None and state.lso <= state.position < state.highwater
    }


def _of_app(app: faust.App) -> dict[Any, Any]:
    """As `_states`, of the app's consumer; empty before there is one."""
    thread = app.consumer._thread
    return _states(thread._consumer) if thread and thread._consumer else {}


def _states(consumer: Any) -> dict[Any, Any]:
    """Return partition -> aiokafka's state of it. A rebalance makes new states, so these stay together."""
    subscription = consumer._subscription.subscription
    assignment = subscription and subscription.assignment
    states = {tp: assignment.state_value(tp) for tp in assignment.tps} if assignment else {}
    return {tp: state for tp, state in states.items() if state is not None}
