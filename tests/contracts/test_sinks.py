"""What every sink must do, on the real servers: data and offset change together, and never backwards.

tests/kafka/test_avro_sink.py runs the tests that have a `place` on topics in Avro, too.
"""

import json
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import polars as pl
import pytest

from stream.errors import ConfigError
from stream.events import Anomaly, Expected, Partition, Recommendation
from stream.places.parquet import ParquetSink
from stream.places.postgres import PostgresSink
from stream.places.redis import RedisSink
from stream.places.sink import Away, Moved, Part, Sink
from stream.places.url import Url
from tests.docs.blocks import ROOT
from tests.servers import Postgres, Redis

PAGE = ROOT / "docs" / "sinks.md"
RECS, ALERTS = Partition("recs", 3), Partition("alerts-x", 0)
NAMES = {RECS: "recommendations", ALERTS: "anomalies"}


class Place(NamedTuple):
    """One kind of sink on an empty place.

    make      a new Sink on it
    lists     user -> latest items that the place has
    alerts    the ids of the alerts that it has
    """

    make: Callable[[], Sink]
    lists: Callable[[], dict[str, list[str]]]
    alerts: Callable[[], list[str]]


@pytest.fixture(params=["redis", "postgres", "parquet"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "parquet":
        return in_parquet(tmp_path / "history")
    server = request.getfixturevalue(f"{request.param}_server")
    return in_redis(server) if request.param == "redis" else in_postgres(server)


def in_redis(server: Redis) -> Place:
    server.client.flushall()

    def found(word: str, field: str) -> dict[str, Any]:
        keys = server.client.keys(f"eddy:{word}:*")
        return {key.decode().removeprefix(f"eddy:{word}:"): json.loads(server.client.get(key))[field] for key in keys}

    return Place(
        lambda: RedisSink(Url(server.url)),
        lambda: found("recs", "items"),
        lambda: sorted(found("alerts", "id").values()),
    )


def in_postgres(server: Postgres) -> Place:
    server.rows("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    return Place(
        lambda: PostgresSink(Url(server.url), ("recommendations", "anomalies"), create=True),
        lambda: dict(server.rows("SELECT user_id, items FROM eddy_recommendations")),
        lambda: [id_ for (id_,) in server.rows("SELECT id FROM eddy_anomalies ORDER BY id")],
    )


def in_parquet(directory: Path) -> Place:
    def rows(topic: str) -> list[dict[str, Any]]:
        files = sorted((directory / topic).glob("*.parquet")) if directory.exists() else []
        return [row for file in files for row in pl.read_parquet(file).to_dicts()]

    return Place(
        lambda: ParquetSink(directory),
        lambda: {row["user_id"]: row["items"] for row in rows("recs") if row["superseded_by"] is None},
        lambda: sorted(row["id"] for row in rows("alerts-x")),
    )


def decision(user: str, *items: str, **changed: Any) -> Recommendation:
    given: dict[str, Any] = {"id": f"clicks-3-{user}", "user_id": user, "item_id": "i1", "timestamp": 1_735_689_602_600}
    given |= {"items": list(items), "log_probs": [-1.0] * len(items), "surprise": 2.5, "p_value": 0.5, "model": "m/1"}
    return Recommendation(**given | changed)


def alert(user: str, **changed: Any) -> Anomaly:
    given: dict[str, Any] = {"id": f"clicks-3-{user}", "user_id": user, "item_id": "i1", "event_type": "view"}
    given |= {"timestamp": 1_735_689_602_600, "episode": "clicks-3-1", "reason": "many", "surprise": 9.5}
    given |= {"p_value": 1e-5, "score": 5.0, "threshold": 1e-4, "statistics": {"twins": 1e-5}, "pool": "4 clicks"}
    given |= {"pool_size": 900, "expected": [Expected("i2", 0.5)], "model": "m/1"}
    return Anomaly(**given | changed)


def part(partition: Partition, begin: int | None, end: int, *events: Recommendation | Anomaly) -> Part:
    first = end - len(events) if begin is None else begin
    raw: Sequence[bytes] = [msgspec.json.encode(event) for event in events]
    keys = [event.user_id.encode() for event in events]
    times_ms = [time.time_ns() // 10**6] * len(events)  # Kafka deletes older messages
    return Part(NAMES[partition], partition, begin, first, end, events, raw, keys, times_ms)


def opened(place: Place) -> Sink:
    sink = place.make()
    sink.open()
    sink.offsets([RECS, ALERTS])
    return sink


def test_what_was_written_is_there_with_its_offsets(place: Place) -> None:
    """A second process finds where the first one ended, and each user's latest list."""
    sink = opened(place)
    assert sink.offsets([RECS, ALERTS]) == {}
    assert sink.write(part(RECS, None, 12, decision("a", "x"), decision("ü b", "y", "z"))) == 0
    assert sink.write(part(RECS, 12, 20, decision("a", "w"))) == 0
    assert sink.write(part(ALERTS, None, 5, alert("a"))) == 0
    sink.close()
    assert opened(place).offsets([RECS, ALERTS, Partition("recs", 4)]) == {RECS: 20, ALERTS: 5}
    assert place.lists() == {"a": ["w"], "ü b": ["y", "z"]}
    assert place.alerts() == ["clicks-3-a"]


@pytest.mark.parametrize("begin", [None, 5, 15])
def test_a_part_that_does_not_follow_on_the_stored_offset_changes_nothing(place: Place, begin: int | None) -> None:
    """Not by a process that has missed what another one wrote, and not by one that is ahead."""
    sink = opened(place)
    sink.write(part(RECS, None, 10, decision("a", "new")))
    with pytest.raises(Moved):
        sink.write(part(RECS, begin, 30, decision("a", "old"), decision("b", "old")))
    assert sink.offsets([RECS]) == {RECS: 10}
    assert place.lists() == {"a": ["new"]}


def test_a_second_process_cannot_write_what_the_first_has_written(place: Place) -> None:
    """It is refused at once, or when it writes; or the first one is from then on."""
    first = opened(place)
    try:
        second = opened(place)
    except ConfigError as refusal:
        assert "another eddy sink" in str(refusal)  # noqa: PT017, a second process is refused here or below
        return
    try:
        first.write(part(RECS, None, 10, decision("a", "new")))
    except ConfigError as refusal:
        assert "another eddy sink" in str(refusal)  # noqa: PT017, the same
        first = second
        first.write(part(RECS, None, 10, decision("a", "new")))
    with pytest.raises(Moved):
        second.write(part(RECS, None, 10, decision("a", "old")))
    assert place.lists() == {"a": ["new"]}


def test_a_decision_without_a_list_does_not_replace_one(place: Place) -> None:
    """With `--lists last`, the list comes with a later click."""
    sink = opened(place)
    sink.write(part(RECS, None, 1, decision("a", "x")))
    sink.write(part(RECS, 1, 2, decision("a", superseded_by="clicks-3-9")))
    assert sink.offsets([RECS]) == {RECS: 2}
    assert place.lists() == {"a": ["x"]}


@pytest.mark.parametrize("odd", [{"model": "nul \0"}, {"timestamp": 10**17}, {"items_cut": 10**30}, {"user_id": "\0"}])
def test_a_value_that_a_server_cannot_hold_stops_nothing(place: Place, odd: dict[str, Any]) -> None:
    """The other rows of the part are written, and the offset moves on."""
    sink = opened(place)
    left_out = sink.write(part(RECS, None, 3, decision("a", "x"), decision("odd", "y", **odd), decision("b", "z")))
    assert left_out in (0, 1)
    lists = place.lists()
    assert (lists.pop("a"), lists.pop("b")) == (["x"], ["z"])
    assert len(lists) == 1 - left_out
    sink.close()
    assert opened(place).offsets([RECS]) == {RECS: 3}


def test_few_questions_find_the_row_that_a_table_cannot_hold(
    postgres_server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A question for each row of the part would take longer than the workers need to write the next part."""
    sink = opened(in_postgres(postgres_server))
    assert isinstance(sink, PostgresSink)
    asked, fits = Counter[int](), sink._fits
    monkeypatch.setattr(sink, "_fits", lambda table, events: asked.update([len(events)]) or fits(table, events))
    alerts = [alert(f"u{n}", reason="nul \0" if n == 700 else "many") for n in range(1_000)]
    assert sink.write(part(ALERTS, None, 1_000, *alerts)) == 1
    assert asked.total() < 30
    assert postgres_server.rows("SELECT count(*) FROM eddy_anomalies") == [(999,)]


def test_a_list_is_kept_if_the_place_cannot_hold_the_next_one(place: Place) -> None:
    """Both are in one part: the earlier one is not left out with the later one."""
    sink = opened(place)
    left_out = sink.write(part(RECS, None, 2, decision("a", "x"), decision("a", "y", model="nul \0")))
    assert place.lists() == {"a": ["x"] if left_out else ["y"]}


def test_the_offset_moves_on_over_messages_of_which_none_is_written(place: Place) -> None:
    """Else the next part would be refused, or the bad messages read and counted again."""
    sink = opened(place)
    assert sink.write(part(RECS, None, 2)._replace(first=0)) == 0
    left_out = sink.write(part(RECS, 2, 3, decision("odd", "y", items_cut=10**30)))
    sink.write(part(RECS, 3, 4, decision("a", "x")))
    sink.close()
    assert opened(place).offsets([RECS]) == {RECS: 4}
    assert len(place.lists()) == 2 - left_out


def test_parquet_files_follow_on_each_other_and_are_read_by_another_library(tmp_path: Path) -> None:
    """The names are the offsets without a gap, the fields those of the message, and nothing else is left behind."""
    sink = ParquetSink(tmp_path)
    sink.open()
    sink.offsets([ALERTS])
    sink.write(part(ALERTS, None, 7, alert("a"), alert("b")))
    (tmp_path / "alerts-x" / "alerts-x-0-1-2.parquet.unfinished").write_bytes(b"half a f")
    sink.offsets([ALERTS])
    sink.write(part(ALERTS, 7, 30, alert("c", part_of="clicks-3-2")))
    files = sorted(path.name for path in (tmp_path / "alerts-x").iterdir())
    assert files == [f"alerts-x-0-{a:020d}-{b:020d}.parquet" for a, b in ((5, 6), (7, 29))]
    rows = pl.read_parquet(tmp_path / "alerts-x" / "*.parquet").sort("user_id").to_dicts()
    assert [row["part_of"] for row in rows] == [None, None, "clicks-3-2"]
    assert dict(rows[0]["statistics"]) == {"twins": 1e-5}
    assert rows[0]["expected"] == [{"item_id": "i2", "probability": 0.5}]
    assert rows[0]["timestamp"].isoformat() == "2025-01-01T00:00:02.600000+00:00"
    (tmp_path / "alerts-x" / f"alerts-x-0-{6:020d}-{8:020d}.parquet").touch()
    with pytest.raises(ConfigError, match="have the same offsets"):
        sink.offsets([ALERTS])


def test_a_file_in_the_place_of_the_parquet_directory_is_refused(tmp_path: Path) -> None:
    """The system calls this "File exists", which a directory should, too."""
    (tmp_path / "history").write_text("theirs")
    with pytest.raises(ConfigError, match=r"history cannot be written \(it is a file\); give another one"):
        ParquetSink(tmp_path / "history").open()


def test_a_key_of_redis_can_end(redis_server: Redis) -> None:
    """With a time to live, the list of a user who does not come back is deleted; the offsets are not."""
    redis_server.client.flushall()
    sink = RedisSink(Url(redis_server.url), "shop:", ttl_s=1000)
    sink.open()
    sink.write(part(RECS, None, 1, decision("a", "x")))
    assert 900 < redis_server.client.ttl("shop:recs:a") <= 1000
    assert redis_server.client.ttl("shop:offsets:recs") == -1


def test_missing_tables_are_an_error_that_names_the_option(postgres_server: Postgres) -> None:
    """Without --create nothing is created; a table of an earlier version gets the columns that it lacks."""
    postgres_server.rows("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    with pytest.raises(ConfigError, match="--create"):
        PostgresSink(Url(postgres_server.url), ["anomalies"]).open()
    PostgresSink(Url(postgres_server.url), ["anomalies"], create=True).open()
    PostgresSink(Url(postgres_server.url), ["anomalies"]).open()
    postgres_server.rows("ALTER TABLE eddy_anomalies DROP COLUMN part_of")
    with pytest.raises(ConfigError, match="part_of"):
        PostgresSink(Url(postgres_server.url), ["anomalies"]).open()
    PostgresSink(Url(postgres_server.url), ["anomalies"], create=True).open()
    with pytest.raises(ConfigError, match='database "nowhere" does not exist'):
        PostgresSink(Url(postgres_server.url.replace("/postgres", "/nowhere")), ["anomalies"]).open()


def test_a_postgres_that_is_frozen_is_an_outage(postgres_server: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process would wait for it without end, and would not end itself. Then it goes on where it was."""
    place = in_postgres(postgres_server)
    sink = opened(place)
    sink.write(part(RECS, None, 1, decision("a", "x")))
    [(server,)] = postgres_server.rows("SELECT pid FROM pg_stat_activity WHERE application_name = 'eddy sink'")
    monkeypatch.setattr("stream.places.postgres.ANSWER_S", 0.1)
    os.kill(server, signal.SIGSTOP)
    try:
        with pytest.raises(Away, match="no answer within 0 s"):
            sink.write(part(RECS, 1, 2, decision("a", "y")))
    finally:
        os.kill(server, signal.SIGCONT)
    monkeypatch.undo()
    sink.close()
    sink = opened(place)
    [stored] = sink.offsets([RECS]).values()
    assert stored in (1, 2)
    assert place.lists() == {"a": [" xy"[stored]]}


def test_the_url_can_name_a_schema_and_a_role_needs_three_rights(postgres_server: Postgres) -> None:
    """As docs/sinks.md says: search_path in the URL; SELECT, INSERT and UPDATE."""
    postgres_server.rows("DROP SCHEMA public CASCADE; CREATE SCHEMA public; CREATE SCHEMA shop; CREATE ROLE app LOGIN")
    url = f"{postgres_server.url}&options=-csearch_path%3Dshop"
    PostgresSink(Url(url), ["recommendations"], create=True).open()
    postgres_server.rows("GRANT USAGE ON SCHEMA shop TO app; GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA shop TO app")
    sink = PostgresSink(Url(url.replace("eddy@", "app:secret@")), ["recommendations"])
    sink.open()
    with pytest.raises(ConfigError, match="permission denied") as refusal:
        sink.write(part(RECS, None, 1, decision("a", "x")))
    assert "secret" not in str(refusal.value)
    postgres_server.rows("GRANT UPDATE ON ALL TABLES IN SCHEMA shop TO app")
    sink.write(part(RECS, None, 1, decision("a", "x")))
    sink.write(part(RECS, 1, 2, decision("a", "y")))
    assert postgres_server.rows("SELECT items FROM shop.eddy_recommendations") == [(["y"],)]


def test_a_user_of_redis_needs_the_rights_of_the_page(redis_server: Redis) -> None:
    """Those that docs/sinks.md lists, on the keys with the prefix."""
    listed = re.findall(r"`([a-z ]+)`", re.findall(r"needs the commands (.*)\.", PAGE.read_text())[0])
    rights = [f"+{name.replace(' ', '|')}" for name in listed]
    redis_server.client.flushall()
    redis_server.client.execute_command("ACL", "SETUSER", "app", "on", ">secret", "~eddy:*", *rights)
    url = redis_server.url.replace("unix://", "unix://app:secret@")
    sink = RedisSink(Url(url))
    sink.open()
    sink.write(part(RECS, None, 1, decision("a", "x")))
    assert sink.offsets([RECS]) == {RECS: 1}
    with pytest.raises(ConfigError, match="refuses this user") as refusal:
        RedisSink(Url(url.replace("secret", "s3cret"))).open()
    assert "s3cret" not in str(refusal.value)


def test_a_redis_that_wants_a_password_is_named_if_the_url_has_none(redis_server: Redis) -> None:
    """Redis itself answers with the commands of its protocol, which say nothing to a person."""
    redis_server.client.config_set("requirepass", "secret")
    try:
        with pytest.raises(ConfigError, match="wants a password; give it in EDDY_SINK_URL"):
            RedisSink(Url(redis_server.url)).open()
    finally:
        redis_server.client.config_set("requirepass", "")


@pytest.mark.parametrize(
    ("begins", "ends"),
    [
        ("CONFIG SET maxmemory 1mb", "CONFIG SET maxmemory 0"),
        ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
        ("CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0"),
    ],
)
def test_a_redis_that_takes_no_writes_for_now_is_waited_for(redis_server: Redis, begins: str, ends: str) -> None:
    """It is full; it has become a replica, as in a failover; it has too few replicas. Then it takes them again."""
    redis_server.client.flushall()
    sink = opened(in_redis(redis_server))
    redis_server.client.execute_command(*begins.split())
    try:
        with pytest.raises(Away):
            sink.write(part(RECS, None, 1, decision("a", "x")))
    finally:
        redis_server.client.execute_command(*ends.split())
    sink.write(part(RECS, None, 1, decision("a", "x")))


@pytest.mark.parametrize("database", ["shop", "0/1", "-1"])
def test_a_database_of_redis_is_a_number(database: str) -> None:
    """redis-py takes the database 0 for a name, so the lists would be where nobody looks for them."""
    with pytest.raises(ConfigError, match="is no URL of Redis; it looks like redis://HOST:6379/0"):
        RedisSink(Url(f"redis://localhost:6379/{database}"))
    RedisSink(Url("redis://localhost:6379/3")).close()
    RedisSink(Url("redis://localhost:6379")).close()
