"""Scores the end of a session: were its items never seen together in training, and was the end or a click unexpected?

    items of the clicks  -> a hash of how often each item was clicked; a session with a hash of the training is usual
    last item            -> -log of the share of its clicks in training that ended a session
    surprise of clicks   -> the largest one of the session
    the larger of both   -> a p-value, by the held-out sessions, in which the end counts as one more click

The end is scored with each click, as if the session ended there, and the result is kept in the user's row. So it does
not matter how the session ends, when that is noticed, and in which batch. A model whose training sessions are mostly
different from each other has no such score, and its rows have none of these fields.

Source of the hash: splitmix64 (Steele, Lea, Flood 2014), summed over the clicks, so the order of the clicks is free.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from stream.detect.detector import Fields
from stream.detect.statistics import NONE
from stream.detect.tail import F32, F64, I32, I64, Tail, pack, unpack
from stream.detect.windows import Bools
from stream.errors import ArtifactError
from stream.manifest import Tensor
from stream.state.row import Index, Rows

U64 = npt.NDArray[np.uint64]

ENDING = (
    Tensor("session_vector", (), "uint64"),
    Tensor("end_episode", (), "int64"),
    Tensor("session_peak", (), "float32"),
    Tensor("end_nats", (), "float32"),
    Tensor("session_item", (), "int32"),
)
"""The fields of a row, in the order of the fields of Ending."""

PREFIX = "end_"
"""The names of the arrays in calibration.npz begin with it."""


class Ending(NamedTuple):
    """What the end of each of n sessions would be, each as of one click.

    vector   (n,) uint64, the sum of `mixed` over its clicks
    episode  (n,) int64, the alert that the end raises, as in detect.episodes.Followed.ends
    peak     (n,) float32, the largest surprise of an item, nats
    nats     (n,) float32, -log of the p-value of the end
    item     (n,) int32, index of the item of the last click; V = the model does not know it
    """

    vector: U64
    episode: I64
    peak: F32
    nats: F32
    item: I32

    @classmethod
    def of(cls, rows: Fields | Rows, which: Index) -> "Ending | None":
        """Those in the rows at the positions `which`; None if the rows have none."""
        names = rows.dtype.names or () if isinstance(rows, np.ndarray) else rows
        return cls._make(rows[field.name][which] for field in ENDING) if ENDING[0].name in names else None

    def then(self, others: "Ending") -> "Ending":
        """These and then the others."""
        return Ending._make(np.concatenate([one, other]) for one, other in zip(self, others, strict=True))

    def take(self, which: Index) -> "Ending":
        """Select those at the positions `which`."""
        return Ending._make(column[which] for column in self)

    def write(self, rows: Rows, user: Index, stays: Bools) -> None:
        """Write them to the rows at the positions `user`; zeros where `stays` (n,) is false."""
        columns: tuple[npt.NDArray[Any], ...] = self.vector, self.episode, self.peak, self.nats, self.item
        for field, values in zip(ENDING, columns, strict=True):
            rows[field.name][user] = np.where(stays, values, values.dtype.type(0))


def mixed(item: npt.NDArray[np.integer]) -> U64:
    """64 well mixed bits (n,) of each item (n,). A model directory has sums of them, so they must stay the same."""
    z = (item.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    found: U64 = z ^ (z >> np.uint64(31))
    return found


def running(item: I32, surprise: F32, begin: Index, goes_on: Bools, user: Index, before: Fields) -> Ending:
    """The vector, the peak and the last item of each session with each of n clicks, session after session.

    begin    (n,) position of the first click among the n of the same session
    goes_on  (n,) the session began before the n clicks
    user     (n,) index into `before`, the fields of the users' rows before the clicks
    """
    sums = mixed(item).cumsum(dtype=np.uint64)
    vector = sums - np.append(np.uint64(0), sums)[begin]
    peak = largest_so_far(surprise, begin)
    were = Ending.of(before, user)
    assert were is not None
    vector += np.where(goes_on, were.vector, np.uint64(0))
    peak = np.where(goes_on, np.maximum(were.peak, peak), peak)
    return Ending(vector, np.zeros(len(item), np.int64), peak, np.zeros(len(item), np.float32), item)


def largest_so_far(values: F32, begin: Index) -> F32:
    """The largest value (n,) of each session up to each of n clicks, session after session. begin: as in `running`"""
    order = values.argsort(kind="stable")
    rank = np.empty(len(order), np.intp)
    rank[order] = np.arange(len(order))
    # ranks of later sessions are higher, so the largest so far is of the same session
    found: F32 = values[order][np.maximum.accumulate(begin * len(order) + rank) - begin * len(order)]
    return found


def never(vectors: U64, vector: U64) -> Bools:
    """True (n,) where a vector (n,) is none of `vectors`, which are ascending and at least one."""
    found: Bools = vectors[np.minimum(vectors.searchsorted(vector), len(vectors) - 1)] != vector
    return found


def end_nats(clicks: I64, ends: I64, prior: float) -> F64:
    """-log of the share of clicks that end a session (n,), nats.

    clicks  (n,) the clicks on an item, and ends (n,) those of them that ended a session
    prior   the share of all items, which counts as one more click
    """
    found: F64 = -np.log((ends + prior) / (clicks + 1.0))
    return found


@dataclass(frozen=True)
class EndCalibration:
    """What the end of a session is compared with.

    vectors   (u,) uint64, ascending: those of all sessions of the training log
    clicks    (V,) int64, training clicks on each item, and
    ends      (V,) int64, how many of them ended a session
    tail      the values of the held-out sessions
    combined  as in Behaviour: the strongest -log p of each held-out session, its end included
    """

    vectors: U64
    clicks: I64
    ends: I64
    tail: Tail
    combined: Tail

    row_fields = ENDING

    @classmethod
    def load(cls, directory: Path, items: int, combined: Tail) -> "EndCalibration | None":
        """Read calibration.npz; None if the model has no such score. Raises ArtifactError if it is not usable."""
        try:
            with np.load(directory / "calibration.npz", allow_pickle=False) as file:
                arrays = {name.removeprefix(PREFIX): file[name] for name in file if name.startswith(PREFIX)}
            return cls._of(arrays, items, combined) if arrays else None
        except (KeyError, ValueError, TypeError, OSError, BadZipFile) as exc:
            raise ArtifactError(f"model {directory}: calibration.npz is unreadable ({exc}); train it again") from exc

    @classmethod
    def _of(cls, arrays: Mapping[str, npt.NDArray[Any]], items: int, combined: Tail) -> Self:
        (tail,) = unpack(arrays, 1)
        vectors, clicks, ends = arrays["vectors"], arrays["clicks"], arrays["ends"]
        if vectors.dtype != np.uint64 or vectors.ndim != 1 or not len(vectors) or (vectors[1:] <= vectors[:-1]).any():
            raise ValueError("the sessions of the training are not sorted")
        if clicks.dtype.kind != "i" or ends.dtype.kind != "i" or not clicks.shape == ends.shape == (items,):
            raise ValueError(f"it does not have the ends of {items} items")
        if (ends < 0).any() or (ends > clicks).any() or not ends.any():
            raise ValueError("its ends of sessions are not possible")
        return cls(vectors, clicks.astype(np.int64), ends.astype(np.int64), tail, combined)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays of calibration.npz, by name. `combined` is written with the Behaviour."""
        found = {**pack([self.tail]), "vectors": self.vectors, "clicks": self.clicks, "ends": self.ends}
        return {f"{PREFIX}{name}": values for name, values in found.items()}

    @cached_property
    def _item_nats(self) -> F64:
        """(V + 1,) -log of the share of an item's clicks that end a session; the last one is the unknown item's."""
        prior = float(self.ends.sum() / self.clicks.sum())
        return end_nats(np.append(self.clicks, 0), np.append(self.ends, 0), prior)

    def values(self, ending: Ending) -> F32:
        """The score (n,) of the end of each session; NONE if a training session had the same items."""
        value = np.maximum(self._item_nats[ending.item], ending.peak).astype(np.float32)
        value[~never(self.vectors, ending.vector)] = NONE
        return value

    def nats(self, ending: Ending) -> F64:
        """-log of the p-value of each end (n,), nats; 0 if a training session had the same items."""
        values, found = self.values(ending), np.zeros(len(ending.item))
        new = np.flatnonzero(values > NONE)
        if len(new):  # rare
            found[new] = self.combined.nats_of(self.tail.nats_of(values[new]).astype(np.float32))
        return found

    def p_value(self, ending: Ending, at: int) -> float:
        """The p-value of the score of one end, before it is combined with the statistics of the clicks."""
        return float(np.exp(-self.tail.nats_of(self.values(ending.take(np.array([at]))))[0]))

    def surprise(self, item: int) -> float:
        """-log of the share of the item's training clicks that ended a session, nats."""
        return float(self._item_nats[item])

    def sentence(self, item: int, name: str, peak: float) -> str:
        """What was unusual, in words. name: of the item, empty if the model does not know it"""
        new = "no training session had the same items"
        if peak > self._item_nats[item]:
            return f"the session has ended, and {new}; a click in it had a probability of {np.exp(-peak):.2g}"
        if not name:
            return f"the session ended after an item that the model does not know; {new}"
        ends, clicks = int(self.ends[item]), int(self.clicks[item])
        return f"the session ended after {name}, after which {ends:,} of {clicks:,} clicks end one; {new}"
