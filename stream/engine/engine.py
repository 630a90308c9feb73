"""Columns of clicks in, columns of decisions and staged rows out: schedule, run, decide.

`process` touches nothing: it works on copies of the users' rows. `commit` puts them in place once Kafka has them; a
cycle whose transaction was rolled back is simply not committed, and the same clicks can be processed again.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from stream.detect.detector import Detector
from stream.engine.columns import Columns, Encoder
from stream.engine.decide import Decider, Decisions
from stream.engine.step import run_waves
from stream.engine.waves import Index, waves
from stream.model.runtime import Model
from stream.settings import Rules
from stream.state.arena import Arena
from stream.state.evict import NEVER, Forgetting, partition_times, sweep
from stream.state.staged import Staged, stage


@dataclass(frozen=True)
class Cycle:
    """The result of one batch of clicks, before any of it is in place.

    decided    (n,) positions in the batch of the clicks that were decided, ascending
    failed     positions of the clicks for which the model gave no finite result, ascending: their rows are as before
               but for offset and time. All other clicks are repeats: their user's row already holds their offset
    decisions  on the n decided clicks
    staged     the rows that changed, and whose they are
    """

    decided: Index
    failed: Index
    decisions: Decisions
    staged: Staged


class Engine:
    """Steps users' states with a model. Not thread-safe: one cycle at a time.

    encoder  makes the columns that `process` takes
    """

    def __init__(
        self,
        model: Model,
        detector: Detector,
        arena: Arena,
        k: int,
        exclude_recent: int,
        rules: Rules,
        forgetting: Forgetting = NEVER,
    ) -> None:
        """Raises ConfigError on a catalogue that cannot be used. k, exclude_recent and rules are those of Decider."""
        self.model = model
        self.detector = detector
        self.arena = arena
        self._forgetting = forgetting
        self._decide = Decider(model, detector, k, exclude_recent, rules)
        self.encoder = Encoder(model, rules, self._decide.categories if rules.same_category else None)

    @property
    def category(self) -> npt.NDArray[np.int32] | None:
        """(V,) the number of each item's category, NO_CATEGORY = none; None where no catalogue names one."""
        return self._decide.category

    def refresh(self) -> None:
        """Take up a catalogue file that has changed. Columns made before it hold the old category numbers."""
        self._decide.refresh()

    def process(self, clicks: Columns, now_ms: int) -> Cycle:
        """Decide on clicks read from Kafka. Nothing is in place until `commit`.

        now_ms  the worker's clock, ms since the epoch; no decision depends on it yet
        """
        staged = stage(self.arena, clicks.owners)
        fresh = np.flatnonzero(clicks.offset > staged.rows["source_offset"][clicks.owner])
        if len(fresh) < len(clicks):  # never with transactions; an operator may have turned offsets back
            cycle = self.process(clicks.take(fresh), now_ms)
            return replace(cycle, decided=fresh[cycle.decided], failed=fresh[cycle.failed])

        order = waves(clicks.owner)
        times = partition_times(self.arena, clicks.owners, clicks.owner, clicks.time_ms)
        steps = run_waves(self.model, staged.rows, order, clicks, self._forgetting, times)
        staged = replace(staged, swept=sweep(self.arena, self._forgetting, len(clicks), clicks.owners))
        decided, failed = np.flatnonzero(~steps.failed), np.flatnonzero(steps.failed)
        if len(failed):
            clicks, steps = clicks.take(decided), steps.take(decided)
        return Cycle(decided, failed, self._decide(clicks, steps), staged)

    def commit(self, cycle: Cycle) -> None:
        """Put a cycle's rows in place: Kafka has them."""
        cycle.staged.commit(self.arena)

    def tick(self, now_ms: int) -> None:
        """The worker's clock while no clicks come, about once a second. Nothing in the engine needs it yet."""
