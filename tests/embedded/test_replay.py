"""`eddy replay` on an embedded broker: the messages that a log becomes on the topic."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from confluent_kafka import Consumer

from export.cli import replay as command
from export.log.log import read_log
from export.replay import Form, replay
from stream.demo.broker import EmbeddedBroker
from stream.errors import ConfigError
from stream.events import Click
from stream.wire.json import JsonCodec, encode

CLICKS = 300
CODEC = JsonCodec(max_message_bytes=10_000, max_future_ms=0)
FORM = Form(encode, CODEC)


@pytest.fixture
def log_file(tmp_path: Path) -> Path:
    rows = [f"u{i % 7},i{i % 11},cart,{1_700_000_000 + i},s{i % 7}" for i in range(CLICKS)]
    path = tmp_path / "log.csv"
    path.write_text("\n".join(["user_id,item_id,event_type,timestamp,session_id", *reversed(rows)]) + "\n")
    return path


def read_all(broker: str, topic: str = "clicks", count: int = CLICKS) -> dict[int, list[Click]]:
    """The first `count` clicks of the topic by partition, as a worker decodes them."""
    consumer = Consumer({"bootstrap.servers": broker, "group.id": "reader", "auto.offset.reset": "earliest"})
    consumer.subscribe([topic])
    found: dict[int, list[Click]] = {}
    try:
        while sum(map(len, found.values())) < count:
            messages = consumer.consume(count, timeout=20)
            assert messages, "the broker gave no more clicks"
            for message in messages:
                assert message.error() is None
                click = CODEC.decode(message.key(), message.value(), 1_800_000_000_000)
                assert message.key() == click.user_id.encode()
                found.setdefault(message.partition() or 0, []).append(click)
    finally:
        consumer.close()
    return found


def test_a_log_arrives_keyed_by_user_in_time_order(log_file: Path) -> None:
    """Every click arrives once with all fields; a user's clicks are in one partition; each partition is in time
    order."""
    with EmbeddedBroker({"clicks": 4}) as broker:
        sent = replay(read_log(log_file), broker.address, "clicks", None, FORM)
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
        assert replay(read_log(log_file), broker.address, "clicks", 1000.0, FORM)["seconds"] >= 0.29


HEADER = "user_id,item_id,event_type,timestamp,session_id,category,price\n"


def test_category_price_and_session_arrive(tmp_path: Path) -> None:
    """Optional fields of the log are on the topic; a click without a field has no such field in its message."""
    (tmp_path / "log.csv").write_text(HEADER + "u1,i1,cart,1700000000,s1,shoes,49.5\nu1,i2,view,1700000001,s1,,\n")
    with EmbeddedBroker({"clicks": 1}) as broker:
        replay(read_log(tmp_path / "log.csv"), broker.address, "clicks", None, FORM)
        (first, second) = read_all(broker.address, count=2)[0]
    assert first == Click("u1", "i1", 1_700_000_000_000, "cart", "s1", 49.5, None, "shoes")
    assert second == Click("u1", "i2", 1_700_000_001_000, "view", "s1")


def test_clicks_that_a_worker_would_reject_are_not_published(tmp_path: Path) -> None:
    """They are left out and counted by the worker's reason; all other clicks arrive."""
    bad = {
        "future_timestamp": "u1,i1,view,4100000000,s1,,",
        "too_early": "u1,i1,view,86400,s1,,",  # 2 January 1970: its ms would be read as seconds
    }
    good = [f"u1,i{n},view,{1_700_000_000 + n},s1,," for n in range(5)]
    (tmp_path / "log.csv").write_text(HEADER + "\n".join([*bad.values(), *good]) + "\n")
    with EmbeddedBroker({"clicks": 1}) as broker:
        sent = replay(read_log(tmp_path / "log.csv"), broker.address, "clicks", 1000.0, FORM)
        found = read_all(broker.address, count=5)[0]
    assert [click.item_id for click in found] == ["i0", "i1", "i2", "i3", "i4"]
    assert (sent["clicks"], sent["left_out"]) == (5, dict.fromkeys(bad, 1))


def test_a_log_without_an_acceptable_click_is_refused(tmp_path: Path) -> None:
    """A log with the wrong time unit is an error with the reason, not a success with an empty topic."""
    (tmp_path / "log.csv").write_text(HEADER + "u1,i1,view,4100000000,s1,,\n")
    with EmbeddedBroker({"clicks": 1}) as broker, pytest.raises(ConfigError, match="1 future_timestamp"):
        replay(read_log(tmp_path / "log.csv"), broker.address, "clicks", None, FORM)


def test_the_command_uses_the_workers_variables(log_file: Path) -> None:
    """Broker, topic and limits come from the variables that the worker reads; the output shows how many clicks were
    left out."""
    with EmbeddedBroker({"in": 1}) as broker:
        environ = {"EDDY_BROKER": broker.address, "EDDY_CLICKS_TOPIC": "in", "EDDY_MAX_MESSAGE_BYTES": "256"}
        with log_file.open("a") as log:
            log.write(f"u1,{'x' * 200},view,1700000500,s1\n")
        done = CliRunner().invoke(command, [str(log_file), "--speed", "max"], env=environ, catch_exceptions=False)
        assert len(read_all(broker.address, "in")[0]) == CLICKS
    assert f"published {CLICKS} clicks to in in" in done.stdout
    assert "clicks left out because a worker would reject them: 1 (1 too_large)" in done.stdout


def test_a_missing_topic_is_named(log_file: Path) -> None:
    """If the topic does not exist, nothing is sent."""
    with EmbeddedBroker({"other": 1}) as broker, pytest.raises(ConfigError, match="no topic 'clicks'"):
        replay(read_log(log_file), broker.address, "clicks", None, FORM)
