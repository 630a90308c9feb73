"""Exploration: fills a share of the slots of each list at random, and computes the propensity of each shown item.

An off-policy estimator can rely on this scheme. For a given click each slot j of its list has a greedy item g(j) and a
pool P(j). The pools contain the items of the window that are not in the list. They are assigned to the slots in turn,
best first, so no item is in two pools. Under a rule on categories the pool of a slot contains only items of g(j)'s
category, assigned to the slots of that category in turn, so the categories of the list do not change.

A slot with an empty pool shows g(j) with propensity 1. Each slot with a pool shows

    g(j) with propensity 1 - share,    each item of P(j) with propensity share / |P(j)|

The slots are independent: the propensity of a whole list is the product, and no item can be in two slots. The random
numbers are a hash of the click's topic, partition and offset and of the seed, so a repeated click gets the same list.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from stream.lists.top import Lists
from stream.model.runtime import F32, I64

F64 = npt.NDArray[np.float64]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class Picked(NamedTuple):
    """The greedy lists of n users, and the other items of their windows.

    items, log_probs    (n, k), best first; only the first counts[i] of row i are part of the list
    spare, spare_probs  (n, window), best first: the items of the window that are not in the list; only the first
                        spares[i] of row i are valid
    """

    items: I64
    log_probs: F32
    counts: I64
    spare: I64
    spare_probs: F32
    spares: I64


def explore(picked: Picked, category: npt.NDArray[np.int32], ids: Sequence[str], share: float, seed: int) -> Lists:
    """Return the lists with some slots filled at random, as the module's docstring describes.

    category  (V,): a slot shows only items of the same category as its greedy item
    ids       (n,) the clicks' ids, topic-partition-offset
    share     in (0, 1)
    """
    n, k = picked.items.shape
    user, slot = np.nonzero(np.arange(k) < picked.counts[:, None])  # all filled slots of all lists, (s,) each
    owner, rank = np.nonzero(np.arange(picked.spare.shape[1]) < picked.spares[:, None])  # all spare items, (t,) each
    codes = int(category.max()) + 2
    of_slot = user * codes + category[picked.items[user, slot]] + 1  # a number for each (list, category)
    of_spare = owner * codes + category[picked.spare[owner, rank]] + 1

    turn, among = _turns(of_slot)  # its rank among the slots of its category, and their number
    by_kind = np.argsort(of_spare, kind="stable")  # best first within a list's category
    first = np.searchsorted(of_spare[by_kind], of_slot, "left")
    stock = np.searchsorted(of_spare[by_kind], of_slot, "right") - first
    pool = np.maximum(stock - turn + among - 1, 0) // among  # |P(j)|

    draws = uniforms(ids, seed, 2 * k)
    explores = (pool > 0) & (draws[user, slot] < share)
    propensities, explored = np.ones((n, k)), np.zeros((n, k), np.bool_)
    propensities[user, slot] = np.where(pool > 0, 1 - share, 1.0)
    user, slot, turn, among, pool, first = (values[explores] for values in (user, slot, turn, among, pool, first))
    drawn = by_kind[first + turn + among * (draws[user, k + slot] * pool).astype(np.int64)]

    items, log_probs = picked.items.copy(), picked.log_probs.copy()
    items[user, slot] = picked.spare[owner[drawn], rank[drawn]]
    log_probs[user, slot] = picked.spare_probs[owner[drawn], rank[drawn]]
    propensities[user, slot] = share / pool
    explored[user, slot] = True
    return Lists(items, log_probs, picked.counts, propensities, explored)


def _turns(kind: I64) -> tuple[I64, I64]:
    """Return for each of s kinds: the number of equal kinds before it, and the number of equal kinds in total."""
    order = np.argsort(kind, kind="stable")
    first = np.searchsorted(kind[order], kind, "left")
    turn = np.empty(len(kind), np.int64)
    turn[order] = np.arange(len(kind))
    return turn - first, np.searchsorted(kind[order], kind, "right") - first


def uniforms(ids: Sequence[str], seed: int, count: int) -> F64:
    """(n, count) numbers in [0, 1) that depend only on each click's id and the seed: BLAKE2b, then SplitMix64.

    Source: Steele, Lea & Flood 2014.
    """
    key = seed.to_bytes(8, "little")
    hashes = b"".join(hashlib.blake2b(id_.encode(), digest_size=8, key=key).digest() for id_ in ids)
    start = np.frombuffer(hashes, "<u8")
    z = start[:, None] + GOLDEN * np.arange(1, count + 1, dtype=np.uint64)  # unsigned: it wraps around
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    unit: F64 = (z >> np.uint64(11)) * 2.0**-53
    return unit
