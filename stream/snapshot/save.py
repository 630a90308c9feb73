"""`eddy state export`: the states of a group, partition by partition, from its changelog into the files of a snapshot.

The mark is the last record of each transaction in a partition, and a read_committed consumer gets whole transactions,
in order. So the rows that were read belong together exactly when the last record was a mark. Each partition is read to
its high watermark at that moment, and from there on to the next mark, if the watermark was within a transaction.
Workers may run meanwhile. The partitions of a snapshot are not of the same moment, and need not be: a user's state and
the offset where it continues are in one partition.
"""

import shutil
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from stream import DISTRIBUTION
from stream.access.refusal import refused
from stream.errors import ConfigError
from stream.events import Partition
from stream.kafka.changelog import FETCHED, POSITION_KEY, STABLE_S, Changelog, Mark
from stream.places.parquet import synchronise
from stream.snapshot.cluster import Cluster
from stream.snapshot.files import CHECKSUMS, FORMAT, Header, Seen, file_of, write_file
from stream.snapshot.tables import Layout, Tables
from stream.state.checksum import Totals, intact
from stream.state.event_ids import SIZES
from stream.state.row import CHECKSUM_BYTES, Head
from stream.worker.cycles.recovery import missing_rows

TRIES = 3
"""How often a partition is read. If the changelog is compacted while it is read, a row may be gone whose newer version
is behind the end of the reading."""

UNFINISHED = ".unfinished"


class States(NamedTuple):
    """A partition as one transaction left it.

    mark    of these rows; None = nobody has read the partition
    rows    user id in UTF-8 -> value of the changelog
    broken  number of rows that were left out, because their bytes are not those that were written
    """

    mark: Mark | None
    rows: dict[bytes, bytes]
    broken: int


def length(cluster: Cluster) -> int:
    """How many offsets of the changelog an export reads. Raises ConfigError if Kafka does not answer."""
    try:
        return sum(high - low for low, high in _ends(cluster.changelog, cluster.partitions).values())
    except KafkaException as exc:
        raise _unreadable(cluster.changelog, exc) from exc


def export_states(cluster: Cluster, layout: Layout, directory: Path, seen: Seen) -> dict[str, Any]:
    """Write a snapshot to a directory that does not exist yet. Returns what was written, ready for JSON.

    seen  called with the number of offsets that were read since the last call
    The files are written to DIRECTORY.unfinished, which then gets the directory's name. Raises ConfigError; nothing is
    left then.
    """
    if directory.exists():
        raise ConfigError(f"--out {directory} is there already, and nothing is overwritten; give a new directory")
    unfinished = directory.with_name(f"{directory.name}{UNFINISHED}")
    try:
        unfinished.mkdir(parents=True)
    except FileExistsError:
        raise ConfigError(
            f"{unfinished} is there: another export writes it now, or one was killed; remove it if none runs"
        ) from None
    except OSError as exc:
        raise ConfigError(f"--out {directory} cannot be written ({exc.strerror})") from exc
    try:
        done = _write(cluster, layout, unfinished, seen)
        synchronise(unfinished)
        unfinished.rename(directory)
        synchronise(directory.absolute().parent)
    except OSError as exc:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise ConfigError(f"--out {directory} cannot be written ({exc.strerror or exc})") from exc
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return {"directory": str(directory), **done}


def _write(cluster: Cluster, layout: Layout, directory: Path, seen: Seen) -> dict[str, Any]:
    snapshot, created = uuid.uuid4().hex, datetime.now(UTC).isoformat(timespec="seconds")
    tables = Tables(layout)
    of_partitions: dict[str, Any] = {}
    for partition in cluster.partitions:
        states = read_states(cluster.changelog, partition, layout, seen)
        header = Header(
            FORMAT,
            snapshot,
            created,
            version(DISTRIBUTION),
            cluster.changelog.group,
            cluster.topics.clicks,
            cluster.clicks_id,
            cluster.topics.changelog,
            len(cluster.partitions),
            partition.number,
            layout.model,
            f"{layout.mark:016x}",
            str(layout.dtype.descr),
            len(states.rows),
            None if states.mark is None else states.mark.next,
            None if states.mark is None else states.mark.encode(),
        )
        path = file_of(directory, partition.number)
        write_file(path, header, states.rows, tables)
        of_partitions[str(partition)] = {
            "users": header.users,
            "offset": header.offset,
            "broken": states.broken,
            "bytes": path.stat().st_size,
        }
    totals = {name: sum(one[name] for one in of_partitions.values()) for name in ("users", "broken", "bytes")}
    return {"snapshot": snapshot, "created": created, "model": layout.model, **totals, "partitions": of_partitions}


def read_states(changelog: Changelog, partition: Partition, layout: Layout, seen: Seen) -> States:
    """The states of one partition of the clicks as a transaction left them: the last one, or a later one.

    Raises ConfigError if rows are missing or of another model, or if the changelog cannot be read.
    """
    for left in reversed(range(TRIES)):
        try:
            mark, values = _read(changelog, partition, seen)
        except TimeoutError as exc:
            raise ConfigError(f"{exc}; wait until it has ended, and export again") from exc
        except KafkaException as exc:
            raise _unreadable(changelog, exc) from exc
        rows = {user: row for user, row in values.items() if _whole(user, row)}
        if not all(_fits(row, layout) for row in rows.values()):
            raise ConfigError(
                f"the changelog of partition {partition} was written with another model, Eddy version or key of "
                "--pseudonymise; give those of the group's workers"
            )
        checksum = sum(int.from_bytes(row[:CHECKSUM_BYTES], "little") for row in rows.values()) % CHECKSUMS
        written, read = mark or Mark(0, 0, 0), Totals(len(rows), checksum)
        broken = sorted(values.keys() - rows.keys())
        if written.accounts_for(*read, len(broken)):
            return States(mark and mark._replace(users=read.users, checksum=checksum), rows, len(broken))
        if not left:
            raise missing_rows(partition, Totals(written.users, written.checksum), read, broken)
    raise AssertionError("the last try returns or raises")


def _unreadable(changelog: Changelog, exc: KafkaException) -> ConfigError:
    return refused(exc) or ConfigError(
        f"the changelog {changelog.topic} cannot be read ({exc.args[0].str()}); is the broker still up?"
    )


def _whole(user: bytes, row: bytes) -> bool:
    try:
        user.decode()
    except UnicodeDecodeError:
        return False
    return intact(user, row)


def _fits(row: bytes, layout: Layout) -> bool:
    return len(row) - layout.dtype.itemsize in SIZES and Head.of(row).model == layout.mark


def _read(changelog: Changelog, partition: Partition, seen: Seen) -> tuple[Mark | None, dict[bytes, bytes]]:
    """Mark and rows of a partition when the last record that was read is a mark, at its high watermark or behind it.

    Raises TimeoutError if nothing more can be read for STABLE_S.
    """
    low, high = _ends(changelog, [partition])[partition]
    rows: dict[bytes, bytes] = {}
    mark: Mark | None = None
    consumer = changelog.consumer("read_committed")
    try:
        consumer.assign([TopicPartition(changelog.topic, partition.number, low)])
        deadline_s, at, ended = time.monotonic() + STABLE_S, low, low == high
        while not ended:
            messages, before = consumer.consume(FETCHED, 0.05), at
            if messages:
                deadline_s = time.monotonic() + STABLE_S
            elif time.monotonic() > deadline_s:
                raise TimeoutError(
                    f"partition {partition.number} of the changelog {changelog.topic} could not be read to its end: a "
                    "transaction is open there"
                )
            for message in messages:
                at, error = message.offset(), message.error()
                if error is not None:
                    if error.code() != KafkaError._PARTITION_EOF:
                        raise KafkaException(error)
                    ended = at >= high  # else an open transaction lies before the end
                elif message.value() is None:
                    rows.pop(message.key(), None)
                elif message.key() == POSITION_KEY:
                    mark = Mark.decode(message.value(), partition)
                    ended = at + 1 >= high
                else:
                    rows[message.key()] = message.value()
                if ended:
                    break
            seen(min(at, high) - min(before, high))
    finally:
        consumer.close()
    return mark, rows


def _ends(changelog: Changelog, partitions: Sequence[Partition]) -> dict[Partition, tuple[int, int]]:
    """First offset and high watermark of the changelog's partition, by partition of the clicks."""
    found = changelog.ends([Partition(changelog.topic, partition.number) for partition in partitions])
    return {partition: found[Partition(changelog.topic, partition.number)] for partition in partitions}
