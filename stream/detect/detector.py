"""Defines the interface of a detector: the input is evidence on n clicks, the output is n p-values.

The rule that must not break: the p-value of a click depends only on the evidence on it and on the user's earlier
clicks, never on the batch. What a detector keeps of a user is in the user's row.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from stream.detect.alert import Why
from stream.detect.tail import F32, F64, I64
from stream.manifest import Tensor
from stream.state.row import Rows

Fields = Mapping[str, npt.NDArray[Any]]
"""Fields of m rows by name, each (m, *shape)."""


class Evidence(NamedTuple):
    """The input of a detector: facts about n clicks of m users. The clicks of a user are in order.

    owner           (n,) intp, the user of each click, below m
    surprise        (n,) float32, nats, finite: -log probability of the item, given the user's state before the click
    event_surprise  (n,) float32, nats, finite: -log probability of the event type
    event_type      (n,) int64, index of the event type; T (the number of event types) = the model does not know it
    clicks_before   (n,) int64, number of earlier clicks of the same user; 0 = the user begins, or begins again
    gap_ms          (n,) int64, time since the user's click before, at least 0; NO_GAP for the first, LATE for a
                    late one
    time_ms         (n,) int64, ms since the epoch
    offset          (n,) int64, offset of the click in its partition
    recent          (n, R) int32, the user's last items, newest first, the click's own included; -1 = none
    same_item       (n,) bool, the click is on the item of the user's click before, by the items' ids: also on one that
                    the model does not know
    item_hash       (n,) uint64, hash of the item's id
    new_form        (n,) bool, the item's id has a form that no item of the model has (model.forms)
    """

    owner: npt.NDArray[np.intp]
    surprise: F32
    event_surprise: F32
    event_type: I64
    clicks_before: I64
    gap_ms: I64
    time_ms: I64
    offset: I64
    recent: npt.NDArray[np.int32]
    same_item: npt.NDArray[np.bool_]
    item_hash: npt.NDArray[np.uint64]
    new_form: npt.NDArray[np.bool_]


class Judged(NamedTuple):
    """The output of a detector for n clicks.

    nats  (n,) float64, at least 0: -log of the p-value of each click, by the calibration of the training
    strongest  (n,) intp, the statistic with the smallest p-value, index into its names
    why   position of a click -> what its p-value is made of
    """

    nats: F64
    strongest: npt.NDArray[np.intp]
    why: Callable[[int], Why]


class Detector(Protocol):
    """Finds unusual clicks. One object serves all users. Its data about a user is stored in the user's row."""

    @property
    def row_fields(self) -> tuple[Tensor, ...]:
        """The fields that it needs in each user's row. They are zero for a new user.

        If they change, rows that were written before cannot be read.
        """

    @property
    def held_out(self) -> int:
        """Number of held-out sessions of its calibration. p-values below 1 / (1 + held_out) are extrapolated."""

    def judge(self, seen: Evidence, before: Fields, rows: Rows) -> Judged:
        """Compute the p-values of n clicks of m users, and write the detector's fields of their rows.

        before  the detector's fields of the users' rows before the n clicks
        rows    (m,) the rows after them, but for the detector's fields: those are as before, or zero if the user has
                begun again
        """
