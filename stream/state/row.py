"""One user's state as one fixed-size numpy row, whose bytes are the changelog value.

Eight-byte fields stand first and the row is a multiple of eight bytes long, so the row needs no padding: every byte is
written by a step, and two rows are the same state exactly when their bytes are equal.
"""

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

from stream.manifest import Tensor

Rows = npt.NDArray[np.void]
NO_OFFSET = -1
NO_ITEM = -1

_FIELDS: list[tuple[str, Any]] = [
    ("model", "<u8"),  # row_mark of the model and the layout: a row of another one means nothing to this one
    ("source_offset", "<i8"),  # offset of the last click applied: a click at or below it is a repeat
    ("last_ms", "<i8"),  # latest click's time; a late click does not turn it back
    ("clicks", "<u4"),  # how many were applied
]


def row_dtype(state: tuple[Tensor, ...], recent: int, kept: tuple[Tensor, ...] = ()) -> np.dtype[np.void]:
    """The row of a model whose state is these tensors.

    recent  so many last items are kept, and beside them as many last items that a rule holds back (bought, in the
            cart) for longer than they are recent; both newest first, NO_ITEM = none
    kept    what a detector keeps of each user
    """
    fields = [*_FIELDS, ("recent", "<i4", (recent,)), ("held", "<i4", (recent,))]
    fields += [(tensor.name, np.dtype(tensor.dtype).newbyteorder("<"), tensor.shape) for tensor in (*state, *kept)]
    size = np.dtype(fields).itemsize
    if size % 8:
        fields.append(("spare", "u1", (8 - size % 8,)))
    return np.dtype(fields)


def row_mark(model: int, dtype: np.dtype[np.void]) -> int:
    """64 bits of the model's identity and the row's layout: a row is read only by what would have written it so."""
    layout = f"{model} {dtype.descr}"
    return int.from_bytes(hashlib.sha256(layout.encode()).digest()[:8], "little")


def new_rows(count: int, dtype: np.dtype[np.void], model: int) -> Rows:
    """`count` rows of users never seen: a zero state, no items, no offset."""
    rows = np.zeros(count, dtype)
    rows["model"] = model
    rows["source_offset"] = NO_OFFSET
    rows["recent"] = NO_ITEM
    rows["held"] = NO_ITEM
    return rows
