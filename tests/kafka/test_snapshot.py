"""`eddy state export` and `import`: a worker that starts from a snapshot decides as if no worker had ever stopped."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from signal import SIGTERM
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from confluent_kafka import Message
from confluent_kafka.admin import AdminClient, NewTopic

from stream.errors import ConfigError
from stream.events import Partition
from stream.kafka.changelog import Changelog
from stream.settings import Topics
from stream.snapshot import restore
from stream.snapshot.command import state
from tests.kafka.lane import LISTS_EVERY, Lane, clicks
from tests.oracle import POSITION, Oracle

NO_OFFSET = (-1).to_bytes(8, "little", signed=True)


@dataclass
class Moved(Lane):
    """The clicks and outputs of another lane, with a group and a changelog of its own."""

    of: Lane | None = None

    @property
    def topics(self) -> Topics:
        assert self.of is not None
        return msgspec.structs.replace(self.of.topics, changelog=f"{self.name}-changelog")


def run(lane: Lane, command: str, *words: object) -> dict[str, Any]:
    """What the command prints with --json. Raises what it raises."""
    topics = ["clicks", "changelog"] + ["recommendations"] * (command == "import")
    options = [f"--{name}-topic={getattr(lane.topics, name)}" for name in topics]
    options += [f"--broker={lane.broker}", f"--group={lane.name}", f"--model={lane.model}", "--json"]
    done = CliRunner().invoke(state, [command, *options, *map(str, words)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def refusal(lane: Lane, *words: object) -> str:
    with pytest.raises(ConfigError) as refused:
        run(lane, "import", *words)
    return str(refused.value)


class Killed(Exception):
    """Ends an import where `kill -9` would."""


def dies(records: Any) -> Any:
    """The records of an import that dies after a few of them."""

    def some(*arguments: Any) -> Iterator[Any]:
        yield from islice(records(*arguments), 7)
        raise Killed

    return some


def decide(oracle: Oracle, messages: list[Message], begins: dict[int, int], ends: dict[int, int]) -> None:
    """Let the oracle decide on the clicks from `begins` to `ends`, the offsets of each partition."""
    for message in sorted(messages, key=lambda m: (m.partition(), m.offset())):
        if begins[message.partition()] <= message.offset() < ends[message.partition()]:
            oracle.decide(message.topic(), message.partition(), message.offset(), message.key(), message.value())


def offsets(done: dict[str, Any]) -> dict[int, int]:
    """Partition -> the offset at which its states continue."""
    return {int(name.rpartition("-")[2]): one["offset"] or 0 for name, one in done["partitions"].items()}


def rows_in(directory: Path) -> dict[tuple[int, bytes], bytes]:
    """The rows in the files of a snapshot, by partition and user."""
    columns = pq.read_table(directory, columns=["partition", "user_id", "row"]).columns
    return {(p, user.encode()): row for p, user, row in zip(*(c.to_pylist() for c in columns), strict=True)}


def assert_rows(oracle: Oracle, directory: Path) -> None:
    """The files have exactly the oracle's rows, bit by bit."""
    found = rows_in(directory)
    mark = int.from_bytes(next(iter(found.values()))[8:16], "little")
    assert found == {(partition, user): row for partition, user, row, _ in oracle.rows(mark)}


def test_a_worker_goes_on_from_a_snapshot_as_if_none_had_stopped(
    lane: Lane, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Into another changelog and group; an import that died is run again; a second one is refused. A snapshot that was
    taken from under a working worker has the rows of one transaction in each partition."""
    lane.produce(clicks(240, users=60))
    worker = lane.start(max_cycle_clicks=4)
    lane.wait_for_clicks(0.1)
    live = run(lane, "export", "--out", tmp_path / "live")
    lane.wait_for_clicks()
    assert worker.end(SIGTERM) == 0, worker.log
    done = run(lane, "export", "--out", tmp_path / "states")
    oracle, sent = Oracle(model, lists_every=LISTS_EVERY), lane.read(lane.topics.clicks)
    none = dict.fromkeys(range(lane.partitions), 0)
    decide(oracle, sent, none, offsets(live))
    assert_rows(oracle, tmp_path / "live")
    decide(oracle, sent, offsets(live), offsets(done))
    assert_rows(oracle, tmp_path / "states")

    moved = Moved(lane.broker, f"{lane.name}-moved", model, tmp_path, of=lane)
    moved.create()
    with monkeypatch.context() as patch:
        patch.setattr(restore, "_records", dies(restore._records))
        with pytest.raises(Killed):
            run(moved, "import", tmp_path / "states")
    assert moved.read(moved.topics.changelog) == []
    assert run(moved, "import", tmp_path / "states")["users"] == done["users"]
    assert "has states already" in refusal(moved, tmp_path / "states")
    again = moved.start()
    lane.produce(clicks(80, users=60, seed=1))
    moved.wait_for_clicks()
    assert "has 1 member (" in refusal(moved, tmp_path / "states")
    assert again.end(SIGTERM) == 0, again.log
    moved.assert_as_if_nothing_had_happened()

    # On another cluster the clicks are at other offsets, so no click may count as one that was decided.
    other = Lane(lane.broker, f"{lane.name}-other", model, tmp_path)
    other.create()
    assert "is not the one of which the snapshot was made" in refusal(other, tmp_path / "states")
    assert "ends at 0" in refusal(other, tmp_path / "states", "--start-at=snapshot")
    begun = run(other, "import", tmp_path / "states", "--start-at=latest")
    assert set(offsets(begun).values()) == {0}
    messages = other.read(other.topics.changelog)
    rows = {(m.partition(), m.key()): m.value() for m in messages if m.key() != POSITION}
    want = {owner: row[8:16] + NO_OFFSET + row[24:] for owner, row in rows_in(tmp_path / "states").items()}
    assert {owner: row[8:] for owner, row in rows.items()} == want
    for message in messages:
        if message.key() == POSITION:
            sums = [int.from_bytes(row[:8], "little") for (p, _), row in rows.items() if p == message.partition()]
            assert message.value().startswith(b"0 %d %016x " % (len(sums), sum(sums) % 2**64))
    partitions = [Partition(other.topics.clicks, number) for number in range(4)]
    committed = Changelog(other.broker, other.name, other.topics.changelog).committed(partitions)
    assert set(committed.values()) == {0}


def test_the_source_of_re_keyed_clicks_is_not_taken_for_the_topic_of_a_group_without_a_warning(
    lane: Lane, tmp_path: Path
) -> None:
    """The settings file of the workers names the source, and a snapshot of it would have the offsets of the copies."""

    def warned(out: str) -> str:
        words = [f"--broker={lane.broker}", f"--group={lane.name}", f"--model={lane.model}", f"--out={tmp_path / out}"]
        topics = [f"--clicks-topic={lane.topics.clicks}", f"--changelog-topic={lane.topics.changelog}"]
        done = CliRunner().invoke(state, ["export", *words, *topics], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stderr

    assert "WARNING" not in warned("before")
    copies = f"{lane.topics.clicks}-by-user"
    admin = AdminClient({"bootstrap.servers": lane.broker})
    admin.create_topics([NewTopic(copies, 4, 1)])[copies].result()
    assert f"WARNING: {copies} has re-keyed copies of {lane.topics.clicks}; if the group reads them" in warned("after")
