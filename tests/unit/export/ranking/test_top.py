"""The top k of score.onnx, by blocks, against sorting."""

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from export.ranking.exact import BLOCK, top


class Top(nn.Module):
    """`top` as a graph: the order of equal scores is ONNX Runtime's, torch promises none."""

    def forward(self, scores: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        best = k.item()
        torch._check(best >= 1)
        torch._check(best <= scores.shape[1])
        return top(scores, best)  # type: ignore[arg-type]


@pytest.mark.parametrize("blocks", [1, 3, 40])
def test_the_top_k_is_that_of_a_stable_sort(blocks: int) -> None:
    """For any k, with scores of which many are equal, and with scores that are all different."""
    rng, count = np.random.default_rng(0), blocks * BLOCK
    example = (torch.zeros(4, count), torch.tensor([2]))
    shapes = ({0: torch.export.Dim("B", min=1)}, None)
    program = torch.onnx.export(
        Top().eval(), example, dynamo=True, opset_version=20, dynamic_shapes=shapes, verbose=False
    )
    assert program is not None
    graph = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [part.name for part in graph.get_inputs()]
    for different in (2, 7, 10 * count):
        scores = rng.integers(0, different, (9, count)).astype(np.float32)
        order = np.argsort(-scores, axis=1, kind="stable")
        for k in {1, 2, 21, BLOCK, BLOCK + 1, count} & set(range(1, count + 1)):
            values, items = graph.run(None, dict(zip(names, (scores, np.array([k])), strict=True)))
            np.testing.assert_array_equal(items, order[:, :k])
            np.testing.assert_array_equal(values, np.take_along_axis(scores, order[:, :k], 1))
