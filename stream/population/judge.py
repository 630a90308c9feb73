"""Judges clicks: from what the model found to p-values, and to alerts on single users and on many.

    detector  -> the p-value of each click, by the calibration of the training
    rates     -> the p-value that holds for the live stream
    quiet     -> which clicks raise no alert, because a person asked for it
    episodes  -> alerts on single users
    watch     -> alerts on many users, and which of the single ones are part of them

What it keeps of a user is in the user's row. What it keeps of a partition goes into the changelog in the same
transaction as the rows.
"""

import logging
import math
import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from stream.detect.alert import AlertRule, Verdicts
from stream.detect.detector import Detector, Evidence, Fields
from stream.detect.episodes import EPISODE, follow
from stream.detect.tail import F32, F64, I64
from stream.manifest import Tensor
from stream.population.counts import SIZE as COUNTS_SIZE
from stream.population.counts import Counts
from stream.population.quiet import QUIET, Asked, quieted
from stream.population.rates import PASSED, SIZE, Rates, correct
from stream.population.surge import SIZE as SURGE_SIZE
from stream.population.surge import Surge
from stream.population.watch import ROW_FIELDS, Population, SystemRule, drifted
from stream.state.row import Index, Rows

log = logging.getLogger(__name__)

T = TypeVar("T", Rates, Counts, Surge)

KEPT_SIZE = SIZE + COUNTS_SIZE + SURGE_SIZE
"""So many bytes are kept of a partition; none before its first decided click."""


class Ends(NamedTuple):
    """The end of the user's session after each of n clicks, as if the session ended there.

    nats     (n,) float32, -log of its p-value
    episode  (n,) int64, the alert that it raises, as in Followed.ends
    """

    nats: F32
    episode: I64


class Judgement(NamedTuple):
    """The result for n clicks.

    verdicts  the p-values, and the alerts on single users
    rules     the begins and ends of episodes of whole partitions, in the order of the clicks of each partition
    kept      what is kept of each partition after them, as bytes
    ends      the end of the user's session after each click; None if ends are not scored
    """

    verdicts: Verdicts
    rules: list[SystemRule]
    kept: list[bytes]
    ends: Ends | None


class Judge:
    """Judges the clicks of all partitions. It has no data: that of a partition and of a user is given to it.

    row_fields  the fields that it needs in each user's row. They are zero for a new user. If they change, rows that
                were written before cannot be read
    """

    row_fields: tuple[Tensor, ...]

    def __init__(self, detector: Detector, population: Population, alpha: float) -> None:
        """alpha: a click with at most this p-value is unusual, the nominal share of sessions with an alert."""
        self.detector = detector
        self._population = population
        self.alpha, self._least = alpha, -math.log(alpha)
        self.row_fields = (*detector.row_fields, *EPISODE, PASSED, *ROW_FIELDS, *QUIET)

    def __call__(
        self,
        seen: Evidence,
        partition: Index,
        kept: Sequence[bytes],
        before: Fields,
        rows: Rows,
        asked: Asked | None = None,
        ends: F64 | None = None,
    ) -> Judgement:
        """Judge n clicks of m users, and write the fields `row_fields` of their rows.

        partition  (n,) intp, index into `kept` of each click's partition; its clicks are in order
        kept       what is kept of each partition, as bytes; none for a new one
        before, rows  as in `Detector.judge`
        asked      the requests for quiet among the clicks; None if there is none
        ends       (n,) -log of the p-value of the end of the user's session after each click, by the calibration; None
                   if ends are not scored. Changed in place
        """
        rates = [_decoded(Rates.decode, data[:SIZE]) for data in kept]
        counts = [_decoded(Counts.decode, data[SIZE : SIZE + COUNTS_SIZE]) for data in kept]
        surges = [_decoded(Surge.decode, data[SIZE + COUNTS_SIZE :]) for data in kept]
        judged = self.detector.judge(seen, before, rows)
        nats, drifts = correct(seen, judged.nats, partition, rates, self.detector.held_out, before, rows, ends)
        quiet = quieted(seen, judged.strongest, asked, before, rows)
        heard = nats if quiet is None else np.where(quiet[0], 0.0, nats)
        if ends is not None:
            ends = ends.astype(np.float32).astype(np.float64)  # as the row stores it
        heard_ends = ends if ends is None or quiet is None else np.where(quiet[1], 0.0, ends)
        alerted, episodes, raised = follow(seen, heard, self._least, before, rows, heard_ends)
        reasons = [judged.why(click) for click in alerted]
        alerts = [
            AlertRule(why.pool, why.pool_size, self.alpha, episode, why.statistics, why.sentence)
            for why, episode in zip(reasons, episodes, strict=True)
        ]
        verdicts = Verdicts(np.exp(-nats), np.array(alerted, np.intp), alerts)
        watched, rules = self._population.watch(seen, verdicts, partition, counts, surges, before, rows)
        if drifts:
            rules = sorted([*rules, *map(drifted, drifts)], key=lambda rule: rule.click)
        used = set(partition.tolist())
        after = [
            one.encode() + many.encode() + surge.encode() if number in used else data
            for number, (one, many, surge, data) in enumerate(zip(rates, counts, surges, kept, strict=True))
        ]
        ended = None if ends is None or raised is None else Ends(ends.astype(np.float32), raised)
        return Judgement(watched, rules, after, ended)


def _decoded(decode: Callable[[bytes], T], data: bytes) -> T:
    try:
        return decode(data)
    except struct.error:
        log.warning("the counts of a partition begin again: they were written with another Eddy version")
        return decode(b"")
