"""The rows of a small model, and a snapshot of them in files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stream.kafka.changelog import Mark
from stream.manifest import Tensor
from stream.snapshot.files import Header, file_of, write_file
from stream.snapshot.tables import Layout, Tables
from stream.state.checksum import checksums
from stream.state.row import new_rows, row_dtype

TENSORS = (Tensor("h", (4,)), Tensor("c", (2, 3), "float16"))
OTHERS = (Tensor("session_start_ms", (), "int64"), Tensor("session_types", (3,), "int32"), Tensor("level", (), "int32"))
LAYOUT = Layout("m/1", row_dtype(TENSORS, 3, OTHERS), 7, ["boots", "socks", "hat"], ("h", "c"))

Rows = dict[bytes, bytes]


def row_of(user: bytes, rest: bytes = b"", layout: Layout = LAYOUT, **fields: Any) -> bytes:
    """The value in the changelog of a user. rest: hashes of event ids."""
    rows = new_rows(1, layout.dtype, layout.mark)
    for name, value in fields.items():
        rows[name] = value
    rows["checksum"] = checksums([user], rows, [rest])
    return rows.tobytes() + rest


def mark_of(rows: Mapping[bytes, bytes], next_: int = 40) -> Mark:
    """The mark of a partition, by adding up checksums. What is kept of it may be any bytes."""
    total = sum(int.from_bytes(row[:8], "little") for row in rows.values())
    return Mark(next_, len(rows), total % 2**64, 1_760_000_000_000, b"\xff kept \n\0")


def written(directory: Path, partitions: Sequence[Rows | None], snapshot: str = "one", **header: Any) -> Path:
    """A snapshot of these partitions; None = nobody has read the partition."""
    directory.mkdir(exist_ok=True)
    for number, rows in enumerate(partitions):
        mark = None if rows is None else mark_of(rows)
        fields: dict[str, Any] = {
            "format": 1,
            "snapshot": snapshot,
            "created": "2026-11-28T10:00:00+00:00",
            "eddy": "0.1.0",
            "group": "eddy",
            "clicks": "clicks",
            "clicks_id": "a",
            "changelog": "eddy-changelog",
            "partitions": len(partitions),
            "partition": number,
            "model": LAYOUT.model,
            "row_mark": f"{LAYOUT.mark:016x}",
            "row_fields": str(LAYOUT.dtype.descr),
            "users": len(rows or {}),
            "offset": None if mark is None else mark.next,
            "mark": None if mark is None else mark.encode(),
        }
        write_file(file_of(directory, number), Header(**fields | header), rows or {}, Tables(LAYOUT))
    return directory


def users(count: int, first: int = 0) -> Rows:
    """Rows of so many users."""
    made = np.random.default_rng(first)
    names = [b"user%d" % n for n in range(first, first + count)]
    return {name: row_of(name, clicks=n + 1, source_offset=n, h=made.random(4)) for n, name in enumerate(names)}
