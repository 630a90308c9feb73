"""The files of a snapshot: one Parquet file for each partition, written and read again.

    DIRECTORY/state-00003.parquet   the rows of partition 3, and in the schema's metadata a Header

The rule that must not break: what is read is what was written, or an error says which file is not. So each row is
checked against its own checksum, and all rows of a file against the number and the sum of checksums in the mark.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Struct

from stream.errors import ConfigError
from stream.events import Partition
from stream.kafka.changelog import Mark
from stream.snapshot.tables import ROW, USER, Layout, Tables
from stream.state.checksum import intact
from stream.state.row import CHECKSUM_BYTES

FORMAT = 1
KEY = b"eddy.snapshot"
"""The key of the Header in the metadata."""

NAME = re.compile(r"state-(\d+)\.parquet")
ROWS = 8_192
"""Rows that are in memory at a time, and in a row group."""

REPEATED = ["last_item", "recent_items.list.element", "held_items.list.element"]
"""Columns that are written with a dictionary. For states it would take twice the time and more bytes."""

CHECKSUMS = 1 << 64

Seen = Callable[[int], object]
"""Called with how much more was done, for a progress bar."""


class Header(Struct, frozen=True):
    """What a file says of itself and of its snapshot.

    format      of the file
    snapshot    the same random text in all files of a snapshot
    created     time of the export, ISO 8601 in UTC
    eddy        version that wrote the file
    group, clicks, changelog  names of the group and the topics
    clicks_id   Kafka's id of the clicks topic; "" = unknown
    partitions  number of the files of the snapshot
    partition   the partition of this file
    model       NAME/VERSION
    row_mark    of the rows: 16 hexadecimal digits that tell model, layout and key of --pseudonymise apart
    row_fields  name and type of each field of a row, for a person
    users       number of rows in the file
    offset      the offset of the next click; None = nobody has read the partition
    mark        the value of the changelog's row POSITION_KEY; None as with `offset`
    """

    format: int
    snapshot: str
    created: str
    eddy: str
    group: str
    clicks: str
    clicks_id: str
    changelog: str
    partitions: int
    partition: int
    model: str
    row_mark: str
    row_fields: str
    users: int
    offset: int | None
    mark: bytes | None

    @property
    def decoded(self) -> Mark | None:
        """The mark. Raises ConfigError if another version of Eddy wrote it."""
        return None if self.mark is None else Mark.decode(self.mark, Partition(self.clicks, self.partition))


def file_of(directory: Path, partition: int) -> Path:
    """The file of a partition."""
    return directory / f"state-{partition:05d}.parquet"


def write_file(path: Path, header: Header, rows: dict[bytes, bytes], tables: Tables) -> None:
    """Write the rows of a partition, user id -> value of the changelog, sorted by user. The file is on the disk then.

    Raises OSError.
    """
    users = sorted(rows)
    schema = tables.schema.with_metadata({KEY: msgspec.json.encode(header)})
    with path.open("xb") as file:
        with pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=REPEATED) as writer:
            for start in range(0, len(users), ROWS):
                some = users[start : start + ROWS]
                writer.write_table(tables.table(header.partition, some, [rows[user] for user in some]))
        file.flush()
        os.fsync(file.fileno())


def read_headers(directory: Path) -> list[Header]:
    """The headers of all files of the snapshot in a directory, by partition.

    Raises ConfigError if files are missing, are damaged, or are not of one snapshot.
    """
    try:
        numbers = {int(found[1]): path for path in directory.iterdir() if (found := NAME.fullmatch(path.name))}
    except OSError as exc:
        raise ConfigError(f"snapshot {directory} cannot be read ({exc.strerror})") from exc
    if not numbers:
        raise ConfigError(f"{directory} has no file state-NUMBER.parquet; is it a directory of `eddy state export`?")
    headers = [_header(path) for _, path in sorted(numbers.items())]
    first, names = headers[0], [path.name for _, path in sorted(numbers.items())]
    for number, name, header in zip(sorted(numbers), names, headers, strict=True):
        if header.snapshot != first.snapshot:
            raise ConfigError(
                f"{name} and {names[0]} in {directory} are of two snapshots ({header.created} and {first.created}); "
                "copy the whole directory again"
            )
        if header.partition != number:
            raise ConfigError(f"{name} in {directory} is the file of partition {header.partition}; it was renamed")
    missing = sorted(set(range(first.partitions)) - numbers.keys())
    if missing:
        raise ConfigError(
            f"{directory} lacks {len(missing)} of {first.partitions} files of the snapshot, the first one is "
            f"{file_of(directory, missing[0]).name}; copy the whole directory again"
        )
    return headers


def _header(path: Path) -> Header:
    try:
        with pq.ParquetFile(path) as file:
            found, names = file.schema_arrow.metadata or {}, set(file.schema_arrow.names)
    except (pa.ArrowException, OSError) as exc:
        raise damaged(path) from exc
    if KEY not in found or not {USER, ROW} <= names:
        raise ConfigError(f"{path} was not written by `eddy state export`")
    try:
        version = msgspec.json.decode(found[KEY], type=dict[str, Any]).get("format")
        if version != FORMAT:
            raise ConfigError(f"{path} has format {version}, and this Eddy reads {FORMAT}; use the Eddy that wrote it")
        return msgspec.json.decode(found[KEY], type=Header)
    except msgspec.DecodeError as exc:
        raise damaged(path) from exc


def damaged(path: Path) -> ConfigError:
    """The error for a file that is not as it was written."""
    return ConfigError(f"{path} is damaged; copy it again from where the snapshot was written")


def check_rows(directory: Path, headers: Sequence[Header], layout: Layout, seen: Seen) -> None:
    """Read all rows once. Raises ConfigError if they are of another model, or not those that were written."""
    mark = f"{layout.mark:016x}"
    for header in headers:
        path = file_of(directory, header.partition)
        if header.row_mark != mark:
            raise ConfigError(
                f"{path.name} has the states of model {header.model}, Eddy {header.eddy}; --model {layout.model}, this "
                "version or --pseudonymise is another one, and a state has a meaning for its own model only"
            )
        users = checksum = 0
        for user, row in read_rows(path):
            if not intact(user, row):
                raise damaged(path)
            users += 1
            checksum += int.from_bytes(row[:CHECKSUM_BYTES], "little")
            if users % ROWS == 0:
                seen(ROWS)
        seen(users % ROWS)
        written = header.decoded or Mark(0, 0, 0)
        if (users, checksum % CHECKSUMS) != (written.users, written.checksum):
            raise damaged(path)


def read_rows(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """User id and row of each user in a file, in the order of the file. Raises ConfigError if it is damaged."""
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(ROWS, columns=[USER, ROW]):
                users, rows = (batch.column(batch.schema.get_field_index(name)).to_pylist() for name in (USER, ROW))
                yield from zip(map(str.encode, users), rows, strict=True)
    except (pa.ArrowException, OSError, TypeError) as exc:
        raise damaged(path) from exc
