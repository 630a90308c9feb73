"""Clicks in order -> waves: in wave w stands the w-th click of each user.

Clicks of one user must be stepped one after the other, clicks of different users may be stepped together. A wave has
each user at most once and the waves keep every user's order, so running them equals running the clicks one by one.
"""

import numpy as np
import numpy.typing as npt

Index = npt.NDArray[np.intp]


def waves(owner: Index) -> list[Index]:
    """Positions of the clicks, wave by wave.

    owner    (n,) which user each click belongs to, clicks in order
    returns  disjoint index arrays that together are 0..n-1; wave w holds the w-th click of every user that has one
    """
    if not len(owner):
        return []
    by_owner = np.argsort(owner, kind="stable")
    first = np.flatnonzero(np.r_[True, np.diff(owner[by_owner]) != 0])
    lengths = np.diff(np.r_[first, len(owner)])
    turn = np.empty(len(owner), np.intp)
    turn[by_owner] = np.arange(len(owner)) - np.repeat(first, lengths)
    by_turn = np.argsort(turn, kind="stable")
    return np.split(by_turn, np.cumsum(np.bincount(turn))[:-1])
