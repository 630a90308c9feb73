"""What the worker asks aiokafka about its partitions, on aiokafka's own states."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.structs import TopicPartition

from stream.events import Partition
from stream.kafka.consumer.offsets import Held, held_back, high_watermarks, positions

FETCHED, SOUGHT, NEW = (TopicPartition("clicks", number) for number in range(3))


def test_a_partition_without_a_successful_fetch_has_no_high_watermark() -> None:
    """After lost clicks the position is sought before any fetch has had an answer. The unknown end ended the worker
    with a stack trace."""

    async def story() -> None:
        subscriptions = SubscriptionState()
        consumer = SimpleNamespace(_subscription=subscriptions)
        app: Any = SimpleNamespace(consumer=SimpleNamespace(_thread=SimpleNamespace(_consumer=consumer)))
        assert (positions(consumer), high_watermarks(app)) == ({}, {})
        subscriptions.subscribe({"clicks"})
        assert (positions(consumer), high_watermarks(app)) == ({}, {})
        subscriptions.assign_from_subscribed({FETCHED, SOUGHT, NEW})
        subscriptions.seek(FETCHED, 5)
        subscriptions.seek(SOUGHT, 7)
        assignment: Any = subscriptions.subscription
        assignment.assignment.state_value(FETCHED).highwater = 9
        assert positions(consumer) == {FETCHED: 5, SOUGHT: 7}
        assert high_watermarks(app) == {Partition("clicks", 0): 9}

    asyncio.run(story())


@pytest.mark.parametrize(
    ("stable", "end", "held"),
    [(None, None, {}), (9, 9, {}), (6, 9, {}), (5, 9, {Partition("clicks", 0): Held(5, 4)}), (5, 5, {})],
)
def test_messages_are_held_back_from_the_open_transaction_on_that_was_reached(
    stable: int | None, end: int | None, held: dict[Partition, Held]
) -> None:
    """Not before the reader is there, and not if nothing is behind. `stable`: the last stable offset; read up to 5."""

    async def story() -> None:
        subscriptions = SubscriptionState()
        subscriptions.subscribe({"clicks"})
        subscriptions.assign_from_subscribed({FETCHED})
        subscriptions.seek(FETCHED, 5)
        assignment: Any = subscriptions.subscription
        state = assignment.assignment.state_value(FETCHED)
        state.lso, state.highwater = stable, end
        thread = SimpleNamespace(_consumer=SimpleNamespace(_subscription=subscriptions))
        app: Any = SimpleNamespace(consumer=SimpleNamespace(_thread=thread))
        assert held_back(app) == held

    asyncio.run(story())


def test_a_consumer_that_has_not_started_or_has_ended_knows_no_high_watermark() -> None:
    for thread in (None, SimpleNamespace(_consumer=None)):
        app: Any = SimpleNamespace(consumer=SimpleNamespace(_thread=thread))
        assert high_watermarks(app) == {}
