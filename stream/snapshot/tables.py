"""State rows as Arrow tables: what a person can read of each user, and the row's bytes, which a restore needs.

    field of the row           -> column
    item numbers               -> item ids; null = an item that the model does not know
    times, ms since the epoch  -> timestamps; null = none
    tensors of the model       -> lists of a fixed size, `state_` and the tensor's name

A restore reads `user_id` and `row` only. All other columns are made from `row`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stream.manifest import read_manifest
from stream.model.runtime import read_items
from stream.settings import ALPHA
from stream.state.row import NO_ITEM, Rows
from stream.wire.pseudonym import read_pseudonyms
from stream.worker.served import open_judge, row_layout

USER, ROW = "user_id", "row"
NAMES = {"last_ms": "last_click", "seen_ms": "last_seen", "session_last_ms": "session_last_click"}
"""Names of columns that are not the field's own."""

BYTES_ONLY = {"checksum", "model", "spare", "recent", "held", "past"}
"""Fields without a column of their own: they mean nothing to a person, as hashes do, or have a column with item ids."""

TIME = pa.timestamp("ms", tz="UTC")


class Layout(NamedTuple):
    """The state rows of a model.

    model    NAME/VERSION
    dtype    of a row; the hashes of event ids may follow it
    mark     the row_mark that every row has
    items    index -> item id
    tensors  names of the model's state tensors
    """

    model: str
    dtype: np.dtype[np.void]
    mark: int
    items: list[str]
    tensors: tuple[str, ...]


def open_layout(directory: Path, key_file: str) -> Layout:
    """The layout of the rows that a worker with this model directory writes.

    key_file  the worker's --pseudonymise; "" = none
    Raises ArtifactError if the directory is not a complete model, ConfigError if the key is not usable.
    """
    manifest = read_manifest(directory)
    users_mark = read_pseudonyms(key_file).mark if key_file else 0
    dtype, mark = row_layout(manifest, *open_judge(directory, manifest, ALPHA), users_mark)
    tensors = tuple(tensor.name for tensor in manifest.state)
    return Layout(manifest.label, dtype, mark, read_items(directory, manifest), tensors)


class Tables:
    """Makes tables of the rows of one layout."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._unknown = len(layout.items)
        self._names = pa.array([*layout.items, None], pa.string())
        self.schema = self.table(0, (), ()).schema

    def table(self, partition: int, users: Sequence[bytes], rows: Sequence[bytes]) -> Any:
        """The table of n users of a partition.

        users  (n,) user ids in UTF-8
        rows   (n,) values of the changelog: the row, and the hashes of event ids that follow it
        """
        size = self._layout.dtype.itemsize
        fixed = np.frombuffer(b"".join(row[:size] for row in rows), self._layout.dtype)
        columns = {
            USER: pa.array([user.decode() for user in users], pa.string()),
            "partition": pa.array(np.full(len(users), partition, np.int32)),
            **dict(self._columns(fixed)),
            ROW: pa.array(rows, pa.binary()),
        }
        return pa.table(columns)

    def _columns(self, rows: Rows) -> Iterator[tuple[str, Any]]:
        yield "last_item", self._items(rows["recent"][:, 0])
        yield "recent_items", self._lists(rows["recent"])
        yield "held_items", self._lists(rows["held"])
        for name in self._layout.dtype.names or ():
            if name in BYTES_ONLY:
                continue
            values = np.ascontiguousarray(rows[name])
            if name in self._layout.tensors:
                if values.dtype == np.float16:
                    values = values.astype(np.float32)  # few programs read halves
                yield f"state_{name}", _fixed(values)
            elif values.ndim > 1:
                yield name, _fixed(values)
            elif name.endswith("_ms") and values.dtype == np.int64:
                time = pa.array(values, pa.int64(), mask=values == 0).cast(TIME)
                yield NAMES.get(name, name.removesuffix("_ms")), time
            else:
                yield name, pa.array(values)

    def _items(self, numbers: npt.NDArray[np.int32]) -> Any:
        """The ids (n,) of item numbers (n,)."""
        return self._names.take(pa.array(np.where(numbers == NO_ITEM, self._unknown, numbers)))

    def _lists(self, numbers: npt.NDArray[np.int32]) -> Any:
        """The lists (n,) of the ids in item lists (n, N), without NO_ITEM."""
        there = numbers != NO_ITEM
        ends = np.append(0, np.cumsum(there.sum(axis=1))).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(ends), self._items(numbers[there]))


def _fixed(values: npt.NDArray[Any]) -> Any:
    """Values (n, ...) as n lists of a fixed size; a scalar of each user as a list of one."""
    width = int(np.prod(values.shape[1:], dtype=np.int64))
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), width)
