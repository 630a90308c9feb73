"""`eddy state import`: the rows, marks and offsets of a snapshot into an empty changelog and a new group.

1. check    all files, before anything is asked of Kafka (snapshot.files)
2. join     this process is the only member of the group. What an earlier import left open when it died is rolled back
3. look     the changelog has no record, the group has no offset, and it is known where reading begins
4. write    one transaction: all rows, marks and offsets

After a crash before the end of 4 nothing is visible, and the import can be run again. It is one transaction and not one
for each partition, because a worker that started after half an import would take the other half for new users.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException

from stream.access.begin import begin, metadata
from stream.access.refusal import refused
from stream.errors import ConfigError
from stream.events import Partition
from stream.kafka.changelog import POSITION_KEY, Mark
from stream.repair.transaction import Records, check_no_members, only_member, open_producer, transact
from stream.snapshot.cluster import Cluster
from stream.snapshot.files import CHECKSUMS, Header, Seen, file_of, read_rows
from stream.state.checksum import with_head
from stream.state.row import CHECKSUM_BYTES, NO_OFFSET

SNAPSHOT = "snapshot"
"""Value of --start-at: at the snapshot's offsets, whatever the id of the clicks topic."""

SAME_TOPIC = ""
"""Value of --start-at: at the snapshot's offsets, if the clicks topic is the one of the snapshot."""

STEP = 1_000


def import_states(
    cluster: Cluster, directory: Path, headers: Sequence[Header], start_at: str, seen: Seen
) -> dict[str, Any]:
    """Steps 2 to 4. Returns what was written, ready for JSON.

    headers   of the files in `directory`, which were checked
    start_at  SAME_TOPIC, SNAPSHOT, or a value of the worker's setting start_at: then the rows are those of users
              whose clicks so far are in no partition, so that no click counts as one that was decided
    seen      called with the number of rows that were written since the last call
    Raises ConfigError if changelog, group or clicks topic do not fit. Nothing is written then.
    """
    group, clicks, partitions = cluster.changelog.group, cluster.topics.clicks, headers[0].partitions
    if partitions != len(cluster.partitions):
        raise ConfigError(
            f"the snapshot has {partitions} partitions, {clicks} and {cluster.topics.changelog} have "
            f"{len(cluster.partitions)}: users would not be where their clicks are; create topics with {partitions} "
            "partitions"
        )
    check_no_members(cluster.admin, group)
    try:
        producer = open_producer(cluster.broker, cluster.config, group)
        with only_member(cluster.broker, cluster.config, group, clicks) as member:  # 2
            _check_empty(cluster)  # 3
            begins = _begins(cluster, headers, start_at)
            kept = start_at in (SAME_TOPIC, SNAPSHOT)
            records = _records(directory, headers, begins, kept, seen)
            if begins:
                beside = metadata(cluster.topics.recommendations)
                transact(producer, cluster.topics.changelog, records, begins, member, beside)  # 4
    except KafkaException as exc:
        error = exc.args[0]
        raise refused(exc) or ConfigError(
            f"the states were not written ({error.name()}: {error.str()}); import them again, while no worker starts"
        ) from exc
    return {
        "snapshot": headers[0].snapshot,
        "created": headers[0].created,
        "users": sum(header.users for header in headers),
        "partitions": {
            str(partition): {"users": header.users, "offset": begins.get(partition)}
            for partition, header in zip(cluster.partitions, headers, strict=True)
        },
    }


def _check_empty(cluster: Cluster) -> None:
    """Raises ConfigError if the changelog has a record or the group an offset."""
    new = "give another --group and --changelog-topic, and create the topic with `eddy topics create`"

    def refuse(partition: Partition, rows: Mapping[bytes, bytes | None]) -> None:
        raise ConfigError(f"the changelog {cluster.topics.changelog} has states already ({partition}); {new}")

    try:
        cluster.changelog.read_raw(cluster.partitions, refuse)
    except TimeoutError as exc:
        raise ConfigError(f"{exc}: a transaction is open there; {new}") from exc
    for partition, offset in cluster.changelog.committed(cluster.partitions).items():
        if offset is not None:
            raise ConfigError(
                f"group {cluster.changelog.group} has committed offset {offset} on {partition} already; {new}"
            )


def _begins(cluster: Cluster, headers: Sequence[Header], start_at: str) -> dict[Partition, int]:
    """Partition -> the offset of the next click. A partition that nobody has read has none, if `start_at` keeps so."""
    ends = cluster.changelog.ends(cluster.partitions)
    if start_at not in (SAME_TOPIC, SNAPSHOT):
        asked = begin(cluster.broker, cluster.config, cluster.topics.recommendations, start_at)(cluster.partitions)
        return {partition: max(low, asked.get(partition, low)) for partition, (low, _) in ends.items()}
    say = (
        "if it has the same clicks at other offsets, give --start-at earliest, latest or a time; if it has them at the "
        "same offsets, --start-at snapshot"
    )
    if start_at == SAME_TOPIC and headers[0].clicks_id != cluster.clicks_id:
        raise ConfigError(f"topic {cluster.topics.clicks} is not the one of which the snapshot was made; {say}")
    offsets = {p: header.offset for p, header in zip(cluster.partitions, headers, strict=True)}
    found = {partition: offset for partition, offset in offsets.items() if offset is not None}
    for partition, offset in found.items():
        if offset > ends[partition][1]:
            raise ConfigError(
                f"the snapshot continues at offset {offset} of {partition}, which ends at {ends[partition][1]}: it is "
                "another topic, or it lost clicks; give --start-at earliest, latest or a time"
            )
    return found


def _records(
    directory: Path, headers: Sequence[Header], begins: Mapping[Partition, int], kept: bool, seen: Seen
) -> Records:
    """The records of the changelog. kept: the rows keep the offset of their last click."""
    for partition, next_ in begins.items():
        header, checksum = headers[partition.number], 0
        for n, (user, row) in enumerate(read_rows(file_of(directory, header.partition)), 1):
            value = row if kept else with_head(user, row, source_offset=NO_OFFSET)
            checksum += int.from_bytes(value[:CHECKSUM_BYTES], "little")
            yield user, value, partition.number
            if n % STEP == 0:
                seen(STEP)
        seen(header.users % STEP)
        mark = header.decoded or Mark(0, 0, 0)
        mark = mark._replace(next=next_, checksum=checksum % CHECKSUMS)
        yield POSITION_KEY, mark.encode(), partition.number  # the last record: recovery looks for it at the end
