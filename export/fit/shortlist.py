"""Chooses how a worker on a CPU makes lists, by the loss of recall@20 on held-out clicks.

A large catalogue ranks the items with the most clicks only (ranking/shortlist.py), a smaller one rounds the scores of
all items (ranking/rounded.py). The loss is measured on the held-out slice, against the lists of score.onnx. A small
catalogue has score.onnx alone: there it is as fast.
"""

import numpy as np
import torch
from torch import Tensor

from export.arrays import I64
from export.dataset.windows import Clicks, Windows, drawn
from export.measure.metrics import K
from export.measure.ranking import JUDGED
from export.network.network import Network
from export.network.states import memories
from export.network.states import outputs as outputs_of
from export.progress import Progress
from export.ranking.exact import Score
from export.ranking.shortlist import MARGIN, Ranking, ranking_of
from stream.manifest import Shortlist

LARGE = 100_000
"""Items from which fewer ranked items than all are tried."""

SMALL_PART = 10
"""A catalogue of LARGE / SMALL_PART items or more has a shortlist.onnx. Smaller ones gain nothing: at 5,000 items both
graphs take the same time."""

MOST_LOST = 0.002
"""Largest loss of recall@20, as a share of the recall of score.onnx."""

SHARES = (16, 8, 4, 2, 1)
"""The tried numbers of ranked items: the V items divided by these."""

FEWEST = LARGE // 2
"""Fewest ranked items in a catalogue of LARGE items or more; a smaller product saves nothing. Below LARGE all are."""

SCORED = 1 << 31
"""Largest number of scores for one measurement, as about 10 s on one core."""

USERS = 64


@torch.no_grad()
def choose_shortlist(
    network: Network, seen: Clicks, judged: I64, complete: bool, large: int, watch: Progress
) -> Shortlist | None:
    """The graph with the fewest ranked items that loses less than MOST_LOST; None = score.onnx serves.

    seen      the users of the held-out slice with all their clicks, as in production
    judged    (m,) rows of clicks that no gate was fitted on; their next click is the target
    complete  rank all items: some have no clicks, so held-out clicks cannot measure what they lose
    large     LARGE, or fewer in a test
    """
    items = network.sizes.items
    known = judged[(seen.target[judged] >= 0) & (seen.target[judged] < items)]
    rows = drawn(known, max(1, min(JUDGED, SCORED // items)))
    if items < large // SMALL_PART or not len(rows):
        return None
    watch.say("measuring on the held-out slice what lists by rounded scores lose")
    state = (
        outputs_of(network, Windows(seen), rows),
        *map(torch.from_numpy, memories(seen, rows, network.mixture.remembered)),
    )
    target = torch.from_numpy(seen.target[rows]).long().unsqueeze(1)
    exact = _hits(Score(network), state, target)
    fewest = min(items, max(2 * (K + MARGIN), FEWEST * large // LARGE))
    tried = {items} if complete or items < large else {max(items // share, fewest) for share in SHARES}
    for ranked in sorted(tried):
        lost = 1 - _hits(ranking_of(network, ranked), state, target) / max(1, exact)
        if exact and lost < MOST_LOST:
            which = f"the {ranked:,} items with the most clicks" if ranked < items else f"all {items:,} items"
            watch.say(
                f"lists on a CPU: the network ranks {which} by rounded scores, which loses {lost:.2%} of recall@20 on "
                f"{len(rows):,} held-out clicks"
            )
            return Shortlist(ranked, round(lost, 5), len(rows))
    watch.say(f"rounded scores lose {MOST_LOST:.1%} of recall@20 or more; lists rank all {items:,} items exactly")
    return None


def _hits(ranking: Score | Ranking, state: tuple[Tensor, ...], target: Tensor) -> int:
    """How many of the targets (m, 1) are among the first 20 of the lists after the states, each (m, ...)."""
    k = torch.tensor([min(K, ranking.network.sizes.items)])
    hits = [
        (ranking(*(part[some] for part in state), k)[0] == target[some]).any(dim=1).sum()
        for some in torch.arange(len(target)).split(USERS)  # type: ignore[no-untyped-call]
    ]
    return int(np.sum(hits))
