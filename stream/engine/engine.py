"""Clicks in, decisions and staged rows out: schedule, run, decide.

`process` touches nothing: it works on copies of the users' rows. `commit` puts them in place once Kafka has them; a
cycle whose transaction was rolled back is simply not committed, and the same clicks can be processed again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from stream.detect.surprise import SurpriseDetector
from stream.engine import decide
from stream.engine.step import Columns, Steps, run_waves
from stream.engine.waves import waves
from stream.events import Anomaly, Click, Origin, Partition, Recommendation
from stream.lists.rules import RuledLists
from stream.lists.top import Lists, top_items
from stream.model.runtime import I64, Model, StateArray
from stream.settings import Rules, words
from stream.state.arena import Arena, Owner
from stream.state.row import NO_ITEM
from stream.state.staged import Staged, stage


@dataclass(frozen=True)
class Cycle:
    """What one batch of clicks comes to, before any of it is in place.

    recommendations  one per applied click, in order
    anomalies        those of them that were too unlikely
    repeated         clicks whose offset their user's row already holds: not applied again, no decision
    staged           the rows that changed, and whose they are
    """

    recommendations: list[Recommendation]
    anomalies: list[Anomaly]
    repeated: int
    staged: Staged


class Engine:
    """Steps users' states with a model. Not thread-safe: one cycle at a time.

    k               recommendations per click
    exclude_recent  leave out the items of the user's last N clicks, this one among them
    rules           what else a list must keep. Raises ConfigError on a catalogue that cannot be used
    """

    def __init__(
        self, model: Model, detector: SurpriseDetector, arena: Arena, k: int, exclude_recent: int, rules: Rules
    ) -> None:
        self.model = model
        self.detector = detector
        self.arena = arena
        self._k = k
        self._exclude_recent = exclude_recent
        self._event_index = {name: i for i, name in enumerate(model.manifest.event_types)}
        self._hold = dict.fromkeys(words(rules.readmit_events), -1) | dict.fromkeys(words(rules.exclude_events), 1)
        self._popular_if_unknown = rules.popular_if_unknown
        self._ruled = RuledLists(model, rules, k) if rules.catalogue or rules.explore else None

    @property
    def category(self) -> npt.NDArray[np.int32] | None:
        """(V,) the number of each item's category, -1 = none; None where no catalogue names one."""
        return self._ruled.category if self._ruled is not None else None

    def refresh(self) -> None:
        """Take up a catalogue file that has changed. A broken one is logged, and what was read before stays."""
        if self._ruled is not None:
            self._ruled.refresh()

    def process(self, clicks: Sequence[Click], origins: Sequence[Origin]) -> Cycle:
        """Decide on clicks read from Kafka, each partition's in offset order. Nothing is in place until `commit`."""
        owner, owners = _owners(clicks, origins)
        staged = stage(self.arena, owners)
        fresh = np.flatnonzero(_offsets(origins) > staged.rows["source_offset"][owner])
        if len(fresh) < len(clicks):  # never with transactions; an operator may have turned offsets back
            keep = fresh.tolist()
            cycle = self.process([clicks[i] for i in keep], [origins[i] for i in keep])
            return replace(cycle, repeated=len(clicks) - len(fresh))

        columns = self._columns(clicks, origins)
        steps = run_waves(self.model, staged.rows, owner, waves(owner), columns)
        verdicts = self.detector.judge(steps.surprise, columns.event_type, steps.clicks_before)
        return Cycle(
            decide.recommendations(
                self.model, clicks, origins, steps, verdicts, self._lists(clicks, origins, columns.item, steps)
            ),
            decide.anomalies(self.model, self.detector, clicks, origins, steps, verdicts),
            0,
            staged,
        )

    def commit(self, cycle: Cycle) -> None:
        """Put a cycle's rows in place: Kafka has them."""
        cycle.staged.commit(self.arena)

    def _lists(self, clicks: Sequence[Click], origins: Sequence[Origin], item: I64, steps: Steps) -> Lists:
        """Each click's list under the rules."""
        state, left_out = steps.after, steps.recent[:, : self._exclude_recent]
        if self._hold:
            left_out = np.concatenate([left_out, steps.held], axis=1)
        if self._popular_if_unknown:
            state = self._as_new(state, steps.recent)
        if self._ruled is None:
            return top_items(self.model, state, left_out, self._k)
        return self._ruled(state, left_out, item, clicks, origins)

    def _as_new(self, state: list[StateArray], recent: npt.NDArray[np.int32]) -> list[StateArray]:
        """The states, but a new user's where none of the recent items is known."""
        unknown = ((recent == NO_ITEM) | (recent == len(self.model.items))).all(1)
        new = [np.zeros_like(value[:1]) for value in state]
        return [np.where(unknown.reshape(-1, *[1] * (v.ndim - 1)), n, v) for n, v in zip(new, state, strict=True)]

    def _columns(self, clicks: Sequence[Click], origins: Sequence[Origin]) -> Columns:
        item, unknown_item = self.model.index, len(self.model.items)
        event, unknown_event, hold, n = self._event_index, len(self._event_index), self._hold, len(clicks)
        return Columns(
            item=np.fromiter((item.get(click.item_id, unknown_item) for click in clicks), np.int64, n),
            event_type=np.fromiter((event.get(click.event_type, unknown_event) for click in clicks), np.int64, n),
            time_ms=np.fromiter((click.timestamp for click in clicks), np.int64, n),
            offset=_offsets(origins),
            hold=np.fromiter((hold.get(click.event_type, 0) for click in clicks), np.int8, n)
            if hold
            else np.zeros(n, np.int8),
        )


def _owners(clicks: Sequence[Click], origins: Sequence[Origin]) -> tuple[npt.NDArray[np.intp], list[Owner]]:
    """Whose clicks these are: owner (n,) index into the users, and the users in the order of their first click."""
    index: dict[Owner, int] = {}
    owner = np.fromiter(
        (
            index.setdefault((Partition(origin.topic, origin.partition), click.user_id.encode()), len(index))
            for click, origin in zip(clicks, origins, strict=True)
        ),
        np.intp,
        len(clicks),
    )
    return owner, list(index)


def _offsets(origins: Sequence[Origin]) -> I64:
    return np.fromiter((origin.offset for origin in origins), np.int64, len(origins))
