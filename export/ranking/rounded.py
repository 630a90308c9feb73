"""The list of a catalogue by rounded scores of all items and exact scores of the best ones.

score.onnx ranks all V items in float32, and the product with their rows takes most of its time. This module computes
nearly the same list:

1. A product of bytes gives approximate logits of all items (byte_product.py), and these their probabilities.
2. The mixture's sources add theirs, as in score.onnx. A quarter more items than k, and a few, are the front.
3. The front gets its exact logits, in float32. So a list is in the order of score.onnx.

The sum in the softmax is exact for the best items and rounded for all others: an error of some 1e-4 nats, the same for
all items of a list. An item is missing if it is not in the front. fit/shortlist.py measures what a list loses.
"""

from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from export.network.mixture import LANES, log
from export.network.network import Network
from export.ranking.byte_product import OutputBytes, RowBytes, exact_logits
from export.ranking.exact import BLOCK, top

MORE, PART = 3, 4
"""The front has MORE + k / PART items beyond k: the rounding changes a logit by about .02, and they are farther away.
The lower the place, the closer the scores."""

REFERENCE = -20.0
"""Logit of a column of zeros, whose probability gives the sum of the softmax. It adds 2e-9 to the sum."""

SUMMED = 20
"""The best items of the front, whose exact logits are in the sum of the softmax. Their number is fixed, so that the
probabilities of a list do not depend on k."""


class RoundedScore(nn.Module):
    """The graph of shortlist.onnx that ranks all items: inputs and results as in `Score`."""

    rows: Tensor  # (V + 1, H), the network's
    bias: Tensor  # (V,)
    zero: Tensor  # (1,) e ** -REFERENCE
    summed: Tensor  # (SUMMED, LANES) ones

    def __init__(self, network: Network, seed: int = 0) -> None:
        super().__init__()
        self.network = network
        items = network.sizes.items
        self.outputs = OutputBytes(network, np.random.default_rng(seed))
        rows = network.item_rows.detach()
        bias = network.item_bias[:-1].detach() * network.mixture.bias_weight
        bias = bias - torch.logsumexp(bias.double(), 0).float()  # it cancels in the softmax
        size = -(-(items + 1) // BLOCK) * BLOCK
        # The column after the items is the reference: zeros, whose product is 0 whatever the output is.
        self.all = RowBytes(pad(rows[:-1], (0, 0, 0, 1)), pad(bias, (0, 1), value=REFERENCE), self.outputs, size)
        for name, value in (
            ("rows", rows),
            ("bias", bias),
            ("zero", torch.exp(torch.tensor([-REFERENCE]))),
            ("summed", torch.ones(SUMMED, LANES)),
        ):
            self.register_buffer(name, value)

    def forward(self, h: Tensor, last_items: Tensor, visit_clicks: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """State tensors h (B, H), last_items and visit_clicks (B, R), and k (1,) int64 -> the top k of each user.

        returns  items (B, k) int64, log_probs (B, k) float32
        """
        best = cast(int, k.item())
        items = self.network.sizes.items
        torch._check(best >= 1)
        depth = cast(int, torch.sym_max(best + best // PART + MORE, SUMMED))
        torch._check(depth <= items)
        mixture = self.network.mixture
        x = self.network.output(h) / mixture.temperature
        logits = self.all(self.outputs(x))
        sources, added, left = mixture.additions(last_items, visit_clicks)
        mixed = torch.softmax(logits, dim=1).scatter_add(1, sources, added)
        # The probability of a logit of 0. Read before the addition, it would make ONNX Runtime copy all the scores.
        each = mixed[:, items : items + 1] * self.zero
        values, front = top(mixed, depth)
        rough = torch.exp(torch.gather(logits, 1, front)) * each
        exact = torch.exp(exact_logits(self.rows, self.bias, x, front)) * each
        total = 1 + torch.matmul((exact - rough)[:, :SUMMED], self.summed)[:, :1]
        values, at = torch.topk(values - rough + exact / total, best, dim=1)
        return torch.gather(front, 1, at), log(values * left)
