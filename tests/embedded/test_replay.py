"""`eddy replay` on an embedded broker: what a log becomes on the topic."""

from pathlib import Path

import pytest
from confluent_kafka import Consumer

from export.log.log import read_log
from export.replay import replay
from stream.demo.broker import EmbeddedBroker
from stream.errors import ConfigError
from stream.events import Click
from stream.wire.json import JsonCodec

CLICKS = 300


@pytest.fixture
def log_file(tmp_path: Path) -> Path:
    rows = [f"u{i % 7},i{i % 11},cart,{1_700_000_000 + i},s{i % 7}" for i in range(CLICKS)]
    path = tmp_path / "log.csv"
    path.write_text("\n".join(["user_id,item_id,event_type,timestamp,session_id", *reversed(rows)]) + "\n")
    return path


def read_all(broker: str) -> dict[int, list[Click]]:
    """Every click of the topic by partition, as a worker decodes them."""
    codec = JsonCodec(max_message_bytes=10_000, max_future_ms=0)
    consumer = Consumer({"bootstrap.servers": broker, "group.id": "reader", "auto.offset.reset": "earliest"})
    consumer.subscribe(["clicks"])
    found: dict[int, list[Click]] = {}
    try:
        while sum(map(len, found.values())) < CLICKS:
            messages = consumer.consume(CLICKS, timeout=20)
            assert messages, "the broker gave no more clicks"
            for message in messages:
                assert message.error() is None
                click = codec.decode(message.key(), message.value(), 1_800_000_000_000)
                assert message.key() == click.user_id.encode()
                found.setdefault(message.partition() or 0, []).append(click)
    finally:
        consumer.close()
    return found


def test_a_log_arrives_keyed_by_user_in_time_order(log_file: Path) -> None:
    """Every click arrives once and whole, a user's clicks in one partition, each partition in time order."""
    with EmbeddedBroker({"clicks": 4}) as broker:
        sent = replay(read_log(log_file), broker.address, "clicks", None)
        found = read_all(broker.address)
    assert sent["clicks"] == CLICKS
    clicks = [click for partition in found.values() for click in partition]
    assert sorted(click.timestamp for click in clicks) == [1_700_000_000_000 + i * 1000 for i in range(CLICKS)]
    assert {click.event_type for click in clicks} == {"cart"}
    assert all(click.session_id == "s" + click.user_id[1:] for click in clicks)
    homes = {(click.user_id, number) for number, partition in found.items() for click in partition}
    assert len(homes) == 7
    for partition in found.values():
        times = [click.timestamp for click in partition]
        assert times == sorted(times)


def test_the_logs_own_pace_is_kept(log_file: Path) -> None:
    """At a thousand times its pace a log of 299 s takes 0.3 s, not less."""
    with EmbeddedBroker({"clicks": 1}) as broker:
        assert replay(read_log(log_file), broker.address, "clicks", 1000.0)["seconds"] >= 0.29


def test_a_missing_topic_is_named(log_file: Path) -> None:
    """A topic that is not there is refused before anything is sent."""
    with EmbeddedBroker({"other": 1}) as broker, pytest.raises(ConfigError, match="no topic 'clicks'"):
        replay(read_log(log_file), broker.address, "clicks", None)
