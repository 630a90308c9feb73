"""Approximate logits of many items: a product of bytes instead of float32.

A fixed rotation spreads an output evenly over its H numbers. So one step size fits all users, and a list does not
depend on the other users of its batch. An item row is rounded with a step size of its own.

Sources: quantised scores with exact ranking of the candidates as in Guo et al. 2020 (ScaNN); a rotation before the
rounding as in Ashkboos et al. 2024 (QuaRot).
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from export.network.network import SHARPNESS, Network
from export.ranking.exact import ABSENT

LARGEST_CODE = 63
"""Of a row. Processors without VNNI add two products in 16 bits: 2 * 255 * 64 still fits."""

ZERO = 128
"""The byte that stands for 0 in an output."""

SPREAD = 4.5
"""Largest number of a rotated output, in standard deviations; larger ones are cut off."""


class OutputBytes(nn.Module):
    """Rotates outputs and rounds them to bytes."""

    turn: Tensor  # (H, H) rotation, divided by the step size of an output
    step: Tensor  # () this step size

    def __init__(self, network: Network, rng: np.random.Generator) -> None:
        super().__init__()
        hidden = network.sizes.hidden
        rotation = torch.from_numpy(np.linalg.qr(rng.standard_normal((hidden, hidden)))[0]).float()
        step = SHARPNESS / float(network.mixture.temperature) * SPREAD / (127 * hidden**0.5)
        self.register_buffer("turn", rotation / step)
        self.register_buffer("step", torch.tensor(step), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (B, H), divided by the temperature -> (B, H) uint8."""
        return torch.clamp(torch.round(torch.matmul(x, self.turn)) + ZERO, min=1, max=255).to(torch.uint8)


class RowBytes(nn.Module):
    """The rows of some items in bytes, in C columns, of which the last ones may be absent."""

    codes: Tensor  # (H, C) int8, the rotated rows
    scale: Tensor  # (C,) logit per unit of the product
    bias: Tensor  # (C,)

    def __init__(self, rows: Tensor, bias: Tensor, outputs: OutputBytes, size: int) -> None:
        """rows (M, H) and bias (M,) of the items in the order of the columns; size C, M or more"""
        super().__init__()
        step = outputs.step
        turned = rows @ (outputs.turn * step)
        scale = turned.abs().amax(dim=1).clamp(min=1e-12) / LARGEST_CODE
        codes = torch.round(turned / scale.unsqueeze(1)).to(torch.int8)
        missing = size - len(rows)
        self.register_buffer("codes", pad(codes, (0, 0, 0, missing)).t().contiguous())
        self.register_buffer("scale", pad(scale * step, (0, missing), value=1.0))
        self.register_buffer("bias", pad(bias, (0, missing), value=ABSENT))

    def forward(self, output: Tensor) -> Tensor:
        """Outputs (B, H) of OutputBytes -> approximate logits (B, C)."""
        logits: Tensor = byte_product(output, self.codes, self.scale, self.bias)
        return logits


def exact_logits(rows: Tensor, bias: Tensor, x: Tensor, items: Tensor) -> Tensor:
    """The float32 logits of items (B, C), by their rows (V, H) and bias (V,) and the outputs x (B, H) -> (B, C)."""
    of_items = torch.index_select(rows, 0, items.flatten()).view(*items.shape, -1)
    of_bias = torch.index_select(bias, 0, items.flatten()).view(items.shape)
    return torch.matmul(of_items, x.unsqueeze(2)).squeeze(2) + of_bias


@torch.library.custom_op("eddy::byte_product", mutates_args=())
def byte_product(output: Tensor, codes: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """output (B, H) uint8 with zero at ZERO, codes (H, C) int8 -> logits (B, C) float32.

    In a graph it is ONNX Runtime's MatMulIntegerToFloat (model/trace.py). The sums are integers below 2^24, so they are
    exact in float32 too.
    """
    return torch.matmul(output.float() - ZERO, codes.float()) * scale + bias


@byte_product.register_fake
def _(output: Tensor, codes: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return output.new_empty(output.shape[0], codes.shape[1], dtype=torch.float32)
