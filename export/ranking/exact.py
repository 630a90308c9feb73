"""The list of a catalogue by the exact scores of all items: the graph of score.onnx."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from export.network.mixture import log
from export.network.network import Network

BLOCK = 32
"""Items in a block of score.onnx."""

FEW_BLOCKS = 64
"""Of so few blocks the top k is found at once."""

ABSENT = -1e9
"""Logit of the items that fill the last block."""


class Score(nn.Module):
    """The graph of score.onnx: a state -> its top k items and their log probabilities.

    Items with equal scores are in ascending order of their index. Each pass over the V scores costs as much as a tenth
    of the product with the item rows, so there are few: the network's weight is applied to the winners only, and the
    top k come from the k blocks of BLOCK items with the highest maxima. No other block can have one of them.
    """

    rows: Tensor  # (V + 1 padded to blocks, H); it begins with the network's item_rows, so one file can serve both
    bias: Tensor  # (V + 1 padded to blocks,)

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        missing = -(network.sizes.items + 1) % BLOCK
        bias = network.item_bias[:-1].detach() * network.mixture.bias_weight
        self.register_buffer("rows", pad(network.item_rows.detach(), (0, 0, 0, missing)))
        self.register_buffer("bias", pad(bias, (0, missing + 1), value=ABSENT))  # the unknown item is never listed

    def forward(self, h: Tensor, last_items: Tensor, visit_clicks: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """State tensors h (B, H), last_items and visit_clicks (B, R), and k (1,) int64 -> the top k of each user.

        returns  items (B, k) int64, log_probs (B, k) float32
        """
        best = cast(int, k.item())  # int() would write the example's k into the graph as a constant
        torch._check(best >= 1)
        torch._check(best <= self.network.sizes.items)
        network = self.network
        logits = linear(network.output(h) / network.mixture.temperature, self.rows, self.bias)
        items, added, left = network.mixture.additions(last_items, visit_clicks)
        values, items = top(torch.softmax(logits, dim=1).scatter_add(1, items, added), best)
        return items, log(values * left)


def top(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest scores of each row of (B, N), N a multiple of BLOCK: values and indices (B, k), best first.

    Equal scores are in ascending order of their index, as ONNX Runtime's TopK has them.
    """
    count, blocks = scores.shape[0], scores.shape[1] // BLOCK
    if blocks <= FEW_BLOCKS:
        return torch.topk(scores, k, dim=1)
    most = torch.sym_min(k, blocks)
    chosen = torch.topk(scores.view(-1, blocks, BLOCK).amax(dim=2), most, dim=1).indices
    chosen = torch.topk(chosen, most, dim=1, largest=False).values  # in index order
    flat = chosen + torch.arange(count).unsqueeze(1) * blocks
    some = scores.view(-1, BLOCK)[flat].view(-1, most * BLOCK)
    values, at = torch.topk(some, k, dim=1)
    block = torch.div(at, BLOCK, rounding_mode="trunc")
    return values, at + (torch.gather(chosen, 1, block) - block) * BLOCK
