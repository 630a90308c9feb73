"""Defines the row: the state of one user as one fixed-size NumPy record. Its bytes are the changelog value.

Two rows are the same state exactly if their bytes are equal. So the row must have no padding bytes, whose values are
undefined. Therefore the eight-byte fields come first, and the length of the row is a multiple of eight bytes.
"""

import hashlib
import struct
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from stream.errors import ConfigError
from stream.events import Partition
from stream.manifest import Tensor

Rows = npt.NDArray[np.void]
Index = npt.NDArray[np.intp]
NO_OFFSET = -1
NO_ITEM = -1

CHECKSUM_BYTES = 8
"""The checksum of a row is in its first bytes, so that rows of any layout can be checked."""

_FIELDS: list[tuple[str, Any]] = [
    ("checksum", "<u8"),  # of the user id and the bytes that follow; state.checksum computes it
    ("model", "<u8"),  # row_mark: identifies the model and the row layout that wrote the row
    ("source_offset", "<i8"),  # offset of the last processed click. A click at or below this offset is a repeat
    ("last_ms", "<i8"),  # largest click time so far, ms since the epoch. A late click does not lower it
    ("seen_ms", "<i8"),  # the partition's time at the last decided click, ms since the epoch; 0 = none
    ("clicks", "<u4"),  # number of processed clicks
]

HEAD = struct.Struct("<QQqqqI")
"""The layout of _FIELDS: the beginning of every row, whatever the model."""


class Head(NamedTuple):
    """The fields of _FIELDS of one row."""

    checksum: int
    model: int
    source_offset: int
    last_ms: int
    seen_ms: int
    clicks: int

    @classmethod
    def of(cls, row: bytes) -> "Head":
        """Raises struct.error if `row` is shorter than a head."""
        return cls(*HEAD.unpack_from(row))


def row_dtype(state: tuple[Tensor, ...], recent: int, kept: tuple[Tensor, ...] = ()) -> np.dtype[np.void]:
    """Return the dtype of a row.

    state   the state tensors of the model
    recent  the length of two item lists: `recent` (the user's last items) and `held` (items that a rule excludes from
            the user's lists, such as bought items). Both are newest first, NO_ITEM = none
    kept    the fields that a detector needs in each user's row
    """
    fields = [*_FIELDS, ("recent", "<i4", (recent,)), ("held", "<i4", (recent,))]
    fields += [(tensor.name, np.dtype(tensor.dtype).newbyteorder("<"), tensor.shape) for tensor in (*state, *kept)]
    size = np.dtype(fields).itemsize
    if size % 8:
        fields.append(("spare", "u1", (8 - size % 8,)))
    return np.dtype(fields)


def row_mark(model: int, dtype: np.dtype[np.void]) -> int:
    """Return a 64-bit hash of the model's identity and the row layout.

    A worker accepts only rows with its own mark, so it never reads a row of another model or layout.
    """
    layout = f"{model} {dtype.descr}"
    return int.from_bytes(hashlib.sha256(layout.encode()).digest()[:8], "little")


def new_rows(count: int, dtype: np.dtype[np.void], model: int) -> Rows:
    """Return `count` rows for new users: the state is zero, without items and without an offset."""
    rows = np.zeros(count, dtype)
    rows["model"] = model
    rows["source_offset"] = NO_OFFSET
    rows["recent"] = NO_ITEM
    rows["held"] = NO_ITEM
    return rows


def hold_items(rows: Rows, user: Index, item: npt.NDArray[np.int64], hold: npt.NDArray[np.int8]) -> None:
    """Insert each item at the start of `held` in its user's row (hold = 1) or remove it (-1). No item occurs twice."""
    which = np.flatnonzero(hold)
    if not len(which):
        return
    user, item, new = user[which], item[which], hold[which] > 0
    held = rows["held"][user]
    held[held == item[:, None]] = NO_ITEM
    held = np.take_along_axis(held, np.argsort(held == NO_ITEM, axis=1, kind="stable"), 1)
    held[new, 1:] = held[new, :-1]
    held[new, 0] = item[new]
    rows["held"][user] = held


def as_bytes(rows: Rows) -> Rows:
    """View rows as one value of bytes each. NumPy copies such values at once, but records field by field."""
    return rows.view(f"V{rows.dtype.itemsize}")


def other_model(partition: Partition) -> ConfigError:
    """The error for a row with another mark or of another length."""
    return ConfigError(
        f"the changelog of partition {partition} was written with another model, Eddy version or key of "
        "--pseudonymise; start with another --group and --changelog-topic (all users then begin without history), "
        "or with those that wrote it"
    )
