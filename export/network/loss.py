"""The training loss of the ranking head: sampled softmax cross-entropy with shared, log-Q-corrected negatives.

For an output h with target item y, and n negatives j drawn with replacement with probability q(j):

    loss = -log( exp(s(y)) / (exp(s(y)) + sum over j != y of exp(s(j) - log q(j) - log n)) )
    s(i) = h . row(i) + bias(i)

The sum is an importance-sampled estimate of the softmax normaliser over the items other than y.

Sources: Bengio & Senecal 2008 (sampled softmax with log-Q correction); Hidasi & Karatzoglou 2018 (GRU4Rec: one set of
negatives for all positions of a batch, drawn with p ~ count^alpha).
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


def sampled_softmax_loss(
    out: Tensor, rows: Tensor, bias: Tensor, target: Tensor, negatives: Tensor, log_q: Tensor
) -> Tensor:
    """Cross-entropy of each target item against all negatives, in nats.

    out        (m, H) float32, outputs of the network at the m positions that have a target
    rows       (u, H) float32, the unit rows of the items that the batch uses
    bias       (u,) float32, their biases
    target     (m,) int64, index into rows of each position's next item
    negatives  (n,) int64, indices into rows of the negatives; all positions share them
    log_q      (n,) float32, log-probability of drawing each negative, nats
    returns    (m,) float32, nats
    """
    own = (out * rows[target]).sum(1) + bias[target]
    # The target is in the normaliser with probability 1, so only the negatives are corrected by log Q.
    correction = bias[negatives] - log_q - float(np.log(len(negatives)))
    rivals = torch.addmm(correction, out, rows[negatives].t())
    # A negative that equals the target is removed; otherwise the target would count twice.
    rivals = rivals.masked_fill(target.unsqueeze(1) == negatives.unsqueeze(0), -1e9)
    logits = torch.cat([own.unsqueeze(1), rivals], dim=1)
    return cross_entropy(logits, torch.zeros_like(target), reduction="none")
