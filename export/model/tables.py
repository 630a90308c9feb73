"""The large tensors of a model's graphs, in one file beside them: tables.bin.

A protobuf file ends at 2 GB, which a million items of 128 units exceed. Tensors with the same content are written once,
for all graphs: onnxruntime maps the file into memory, so they use the same pages.

Source: ONNX, docs/ExternalData.md.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

FILE = "tables.bin"

SMALLEST = 64 << 10
"""Bytes from which a tensor is moved to the file."""

ALIGNMENT = 4096
"""Every tensor begins at a multiple of this: the size of a page."""


class Tables:
    """tables.bin of one model directory. It is made with the first tensor."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE
        self._written: list[tuple[int, npt.NDArray[np.uint8]]] = []
        self._end = 0

    def move(self, graph: ir.Graph) -> None:
        """Write the graph's large initializers to the file. The graph then refers to it."""
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and tensor.nbytes >= SMALLEST:
                array = np.ascontiguousarray(tensor.numpy())
                content = array.reshape(-1).view(np.uint8)
                value.const_value = ir.ExternalTensor(
                    FILE,
                    self._offset(content),
                    len(content),
                    tensor.dtype,
                    shape=ir.Shape(array.shape),
                    name=tensor.name or value.name or "",
                    base_dir=self._path.parent,
                )

    def _offset(self, content: npt.NDArray[np.uint8]) -> int:
        """Where the file has this content. It may be the beginning of a longer tensor."""
        for offset, longer in self._written:
            if len(longer) >= len(content) and np.array_equal(longer[: len(content)], content):
                return offset
        offset = -(-self._end // ALIGNMENT) * ALIGNMENT
        with self._path.open("r+b" if self._written else "wb") as file:
            file.seek(offset)
            file.write(content.data)
        self._written.append((offset, content))
        self._end = offset + len(content)
        return offset
