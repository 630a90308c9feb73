"""Which items are similar for the model: the cosine of the rows that it has learned for the items.

The rows are a constant of step.onnx. They are read from the model directory as they are there, and stay in the file:
the operating system loads what is used, and the graphs of the worker share it.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stream.errors import Unanswered
from stream.model.external import constant
from stream.model.runtime import F32, Model

ITEM_ROWS = "network.item_rows"
"""The constant's name in step.onnx: one row for each item, and a last one for unknown items."""


class Similar:
    """The similar items of one model. `of` may be called in any thread."""

    def __init__(self, model: Model, directory: Path) -> None:
        self._model = model
        self._rows = _rows(directory, len(model.items))

    def of(self, item: str, k: int) -> dict[str, Any]:
        """The k items whose rows have the largest cosine with that of an item, without the item itself.

        Raises Unanswered if the model does not know the item, or has no rows.
        """
        at = self._model.index.get(item)
        if at is None:
            raise Unanswered(404, f"the model {self._model.manifest.label} does not know this item")
        if self._rows is None:
            raise Unanswered(404, f"step.onnx of {self._model.manifest.label} has no constant {ITEM_ROWS}")
        cosine = _cosines(self._rows, at)
        cosine[at] = -np.inf
        k = min(k, len(cosine) - 1)
        best = np.argpartition(-cosine, k)[:k] if k else np.empty(0, np.intp)
        best = best[np.lexsort((best, -cosine[best]))]
        return {
            "item_id": item,
            "items": self._model.names.take(best).tolist(),
            "similarity": cosine[best].astype(np.float64).round(5).tolist(),
            "model": self._model.manifest.label,
        }


def _cosines(rows: F32, at: int) -> npt.NDArray[np.float32]:
    """The cosine of each row (V, H) with one of them; 0 for a row of zeros."""
    norms = np.sqrt(np.einsum("vh,vh->v", rows, rows))
    norms[norms == 0] = np.inf
    found: npt.NDArray[np.float32] = rows @ rows[at] / (norms * norms[at])
    return found


def _rows(directory: Path, items: int) -> F32 | None:
    """The rows of the items (V, H); None if the graph has no such constant, or one of another size."""
    found = constant(directory, "step.onnx", ITEM_ROWS)
    if found is None or found.nbytes % (4 * (items + 1)) or not found.nbytes:
        return None
    return found.view(np.float32).reshape(items + 1, -1)[:items]
