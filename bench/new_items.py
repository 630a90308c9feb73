"""Effect of a new item's share in the unknown item's probability, for honest clicks and for a scraper's."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.cases import ALPHAS, Case, mean, surprises, two_levels
from bench.report import Figures
from export.arrays import F32
from export.dataset.windows import Clicks
from export.fit.heads import surprise_examples
from export.network.surprise import balanced_clusters, cluster_count
from stream.detect.tail import Tail

AT_LEAST, SCRAPED = 3, 20
"""Minimum clicks of a user in the figures by user; maximum clicks of a scraper."""


def unknown_items(case: Case, seed: int) -> Figures | None:
    """Effect of the new-item share on the surprise of honest clicks on new items and of a scraper's clicks.

    A simulated scraper clicks only unknown items, with the gaps of an honest user.

    returns  None if the evaluated clicks contain no new items
    """
    network, items = case.network, case.network.sizes.items
    rows = np.flatnonzero(case.later)
    if not (case.judged.item[rows] == items).any():
        return None
    count = np.bincount(case.ids[case.judged.item[rows] == items])
    part = count[count > 0] / count.sum()
    examples = surprise_examples(network, case.learned, case.weight, seed)
    clusters = balanced_clusters(network.item_rows[:-1].detach().numpy(), cluster_count(items), seed)
    head = two_levels(case, examples, clusters, seed)
    _, served = surprises(network, head, case.judged, rows)
    order = np.argsort(case.judged.time_ms[rows], kind="stable")
    rows, served = rows[order], served[order]
    new = case.judged.item[rows] == items
    scraping = scrapers(case)
    _, scraped = surprises(network, head, scraping, np.arange(len(scraping)))
    half = len(rows) // 2
    found: Figures = {
        "share_of_clicks": round(float(new.mean()), 4),
        "new_items": case.live,
        "distinct": len(part),
        "perplexity_of_their_ids": round(float(np.exp(-(part * np.log(part)).sum())), 1),
    }
    for shared in (1, case.live, 4 * case.live):
        extra = math.log(shared) - math.log(case.live)
        # The mixture's components give the unknown item no probability, so the share shifts its surprise by a constant.
        mine, theirs = served + np.where(new, extra, 0).astype(np.float32), scraped + np.float32(extra)
        calibration = Tail.fit(mine[:half])
        p_value, p_scraped = np.exp(-calibration.nats_of(mine[half:])), np.exp(-calibration.nats_of(theirs))
        found[f"shared by {shared}"] = {
            "nll_all": mean(mine),
            "nats_new": mean(mine[new]),
            "nats_known": mean(mine[~new]),
            "share_of_p": {str(a): mean(p_value <= a) for a in ALPHAS},
            "share_of_p_new": {str(a): mean(p_value[new[half:]] <= a) for a in ALPHAS},
            "share_of_p_scraper": {str(a): mean(p_scraped <= a) for a in ALPHAS},
            "auc_click": auc(theirs, mine),
            "auc_user": auc(by_user(theirs, scraping.user), by_user(mine, case.judged.user[rows])),
        }
    return found


def scrapers(case: Case) -> Clicks:
    """Simulated scrapers: the evaluated users with at least AT_LEAST clicks, all items replaced by the unknown item."""
    judged = case.judged
    starts = np.flatnonzero(np.append(True, judged.user[1:] != judged.user[:-1]))
    position = np.arange(len(judged)) - np.repeat(starts, np.diff(np.append(starts, len(judged))))
    long_enough = np.isin(judged.user, judged.user[position >= AT_LEAST - 1])
    them = judged.where(long_enough & (position < SCRAPED))
    return replace(them, item=np.full_like(them.item, case.network.sizes.items))


def by_user(surprise: F32, user: npt.NDArray[np.integer[Any]]) -> F32:
    """The mean surprise of each user with at least AT_LEAST clicks."""
    _, index, count = np.unique(user, return_inverse=True, return_counts=True)
    means = np.bincount(index, weights=surprise) / count
    return np.asarray(means[count >= AT_LEAST], np.float32)


def auc(positive: F32, negative: F32) -> float:
    """Area under the ROC curve: probability that a positive value is above a negative one; ties count half."""
    below = np.sort(negative)
    wins = (np.searchsorted(below, positive, "left") + np.searchsorted(below, positive, "right")) / 2
    return round(float(wins.mean() / max(1, len(below))), 4)
