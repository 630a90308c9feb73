"""Processes batches of clicks: the input is columns of clicks, the output is decisions and changed rows.

`process` does not change the arena: it works on copies of the users' rows. `commit` writes the copies to the arena
after the Kafka transaction is committed. If the transaction was rolled back, the caller drops the cycle, and the same
clicks can be processed again.

A live shop's batches have a few clicks. Their cost is the number of NumPy's operations. On the way of each batch,
np.count_nonzero replaces .any() and .all(), which take five times as long for a few values.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from stream.ahead.forecast import foresee, row_fields
from stream.carry.arriving import NOTHING, Taken, put_in_place
from stream.carry.leaving import Left, left
from stream.detect.detector import Evidence, Fields
from stream.engine.columns import Columns, Encoder, summed
from stream.engine.decide import Decider, Decisions
from stream.engine.requests import select, staying, with_removed
from stream.engine.step import run_waves
from stream.engine.waves import Index, waves
from stream.events import Partition
from stream.hours.count import Hours
from stream.hours.table import Hour
from stream.model.ahead import Forecast
from stream.model.runtime import Model
from stream.past.clicks import PAST, remember, type_hashes
from stream.population.judge import KEPT_SIZE, Judge, Judgement
from stream.population.quiet import Asked
from stream.population.watch import SystemRule
from stream.sessions.ends import Batch, Ended, at_rest, ended, joined
from stream.sessions.track import SEEN, Track, session_fields
from stream.sessions.unusual import EndCalibration
from stream.settings import Rules
from stream.state.arena import Arena, Found
from stream.state.event_ids import Hashes
from stream.state.evict import NEVER, Forgetting, Swept, latest_times, partition_times, reset_rows, sweep
from stream.state.row import Rows
from stream.state.staged import Committed, Staged, copies, stage, with_rows
from stream.triggers.fire import Firing, Triggers
from stream.triggers.memory import CONSENT
from stream.triggers.rules import Rule

NONE = np.empty(0, np.intp)


class Cycle(NamedTuple):
    """The result of one batch of clicks. The arena is not changed yet.

    decided    (n,) positions in the batch of the clicks that have a decision, ascending
    failed     positions in the batch of the clicks for which the model's result is not finite, ascending. Their rows
               change only in offset and time
    repeated   positions in the batch of the clicks whose event id is one of the user's last ones, ascending. Their
               rows change only in offset and time
    decisions  the decisions on the n decided clicks
    system     the begins and ends of episodes of whole partitions; `click` is a position among the n
    opened     positions in the batch of the clicks with which a session begins, ascending
    ended      the sessions that end
    firings    the triggers, in their order
    staged     the changed rows and their owners
    forecast   what the users do next after the n decided clicks; None if the model does not predict it
    hours      the hours of partitions that are over, of each partition in their order
    left, taken  the rows of anonymous ids that have left, and those that have become a user's
    All other clicks were read before: their offset is not above source_offset in the user's row.
    """

    decided: Index
    failed: Index
    repeated: Index
    decisions: Decisions
    system: list[SystemRule]
    opened: Index
    ended: Ended
    firings: list[Firing]
    staged: Staged
    forecast: Forecast | None
    hours: list[Hour]
    left: Left
    taken: Taken

    def moved(self, positions: Index) -> "Cycle":
        """The same with other positions of the clicks: `positions` (n,) are those in a larger batch."""
        return self._replace(
            decided=positions[self.decided],
            failed=positions[self.failed],
            repeated=positions[self.repeated],
            opened=positions[self.opened],
            ended=self.ended._replace(click=positions[self.ended.click]),
            firings=[one._replace(click=int(positions[one.click])) for one in self.firings],
        )


class Engine:
    """Updates users' states with a model and decides on their clicks. Not thread-safe: process one cycle at a time.

    encoder    converts clicks to the columns for `process`
    decide     makes the decisions and the lists
    committed  the rows that Kafka has
    """

    def __init__(
        self,
        model: Model,
        judge: Judge,
        arena: Arena,
        k: int,
        exclude_recent: int,
        rules: Rules,
        forgetting: Forgetting = NEVER,
        lists: str = "every",
        ends: EndCalibration | None = None,
        triggers: Sequence[Rule] = (),
        hours: bool = False,
    ) -> None:
        """k, exclude_recent, rules and lists are arguments of Decider. ends: None if the model does not score ends.

        triggers  the shop's rules for marketing
        hours     count what the users do by the hour

        Raises ConfigError if the catalogue is not usable.
        """
        self.model = model
        self.judge = judge
        self.arena = arena
        self.forgetting = forgetting
        self.committed = Committed(arena, forgetting)
        self.ends = ends
        of_session = session_fields(len(model.manifest.event_types), ends, model.ahead is not None)
        followed = (*judge.row_fields, *of_session, *row_fields(model.manifest))
        self._followed = [SEEN, PAST.name, CONSENT, *(field.name for field in followed)]
        self._types = type_hashes(model.manifest.event_types)
        self._hours = Hours(model.manifest.event_types) if hours else None
        self.decide = Decider(model, k, exclude_recent, rules, lists)
        shelves = self.decide.shelves
        self.triggers = Triggers(triggers, model.manifest.event_types, model.names, shelves, forgetting)
        self.encoder = Encoder(model, rules, self.decide.categories if rules.same_category else None)

    @property
    def category(self) -> npt.NDArray[np.int32] | None:
        """(V,) int32, code of each item's category, NO_CATEGORY = none. None if the catalogue has no categories."""
        return self.decide.category

    def refresh(self) -> None:
        """Read the catalogue again if its file has changed. Columns made earlier have the old category codes."""
        self.decide.refresh()

    def process(self, clicks: Columns, now_ms: int) -> Cycle:
        """Decide on a batch of clicks. The arena does not change until `commit`.

        now_ms  the current time of the worker, ms since the epoch. No decision depends on it yet
        """
        found = self.arena.find(clicks.owners)
        rows = copies(self.arena, found)
        new = clicks.offset > rows["source_offset"][clicks.owner]
        if np.count_nonzero(new) < len(new):  # only if an operator reset the group's offsets to earlier ones
            fresh = np.flatnonzero(new)
            return self.process(clicks.take(fresh), now_ms).moved(fresh)

        order = waves(clicks.owner)
        times = partition_times(self.arena, found, clicks.owner, clicks.time_ms)
        event_ids = None
        if clicks.event_id is not None or self.arena.event_ids or clicks.arriving:  # a row may bring the first ones
            event_ids = self.arena.event_ids.gather(found.slots)
        of_click, taken = found.partition[clicks.owner], NOTHING
        if clicks.life is not None:
            reset_rows(rows, event_ids, np.flatnonzero(clicks.life))
            where = found, of_click, times, rows, event_ids
            taken = put_in_place(clicks.arriving, self.arena, self.forgetting, clicks.owners, clicks.owner, *where)
        before = {name: rows[name].copy() for name in self._followed}
        steps, not_finite, known = run_waves(self.model, rows, order, clicks, self.forgetting, times, event_ids)
        swept = sweep(self.arena, self.forgetting, len(clicks), [*clicks.owners, *clicks.requests])
        decided, failed, repeated = np.arange(len(clicks)), NONE, NONE
        undecided, its = not_finite | known, clicks
        if np.count_nonzero(undecided):
            failed, repeated, decided = np.flatnonzero(not_finite), np.flatnonzero(known), np.flatnonzero(~undecided)
            its, steps = clicks.take(decided), steps.take(decided)
        owner = clicks.owner[decided]
        same = remember(before[PAST.name], rows, owner, its.names, its.price, steps.gap_ms, steps.clicks_before)
        evidence = Evidence(
            owner,
            steps.surprise,
            steps.event_surprise,
            its.event_type,
            steps.clicks_before,
            steps.gap_ms,
            its.time_ms,
            its.offset,
            steps.recent,
            same,
            its.names.item,
            np.zeros(len(its), np.bool_) if its.new_form is None else its.new_form,
        )
        asked = clicks.asked and clicks.asked._replace(before=clicks.asked.before[decided])
        kept = [self.arena.kept.get(partition, b"") for partition in found.partitions]
        track = Track(evidence, times[decided], before, len(self.model.manifest.event_types))
        judges = [data[:KEPT_SIZE] for data in kept]
        judged = self._judge(evidence, track, found.partition[evidence.owner], judges, before, rows, asked)
        graph = self.model.ahead
        forecast = None if graph is None else foresee(graph, self._types, evidence, track, before, rows)
        track.summarise(summed(track, evidence, its, judged.verdicts, before))
        track.write(rows)
        latest = latest_times(found.partitions, of_click, times)
        batch = Batch(
            clicks.owners, found, before, clicks.life, clicks.requests, of_click, times, latest, decided, taken
        )
        decisions = self.decide(its, steps, judged.verdicts)
        opened, ends = np.sort(decided[track.by_user[track.starts]]), ended(self.arena, batch, track)
        hours, after = list[Hour](), judged.kept
        if self._hours is not None:
            counted = [data[KEPT_SIZE:] for data in kept]
            hours, counted = self._hours(self.arena, batch, track, evidence, its.names, ends, counted)
            after = [one + other for one, other in zip(judged.kept, counted, strict=True)]
        told, lists, shelves = (its.consent, its.names, its.price), decisions.lists, self.decide.shelves
        fired = self.triggers(self.arena, batch, track, evidence, ends, *told, lists, shelves, rows)
        of_partitions = dict(zip(found.partitions, after, strict=True))
        staged = self._stage(clicks, found, rows, swept, event_ids, of_partitions, latest, taken)
        staged = with_rows(staged, self.arena, fired.owners, fired.rows)
        where = found, of_click, times, rows, event_ids
        gone = left(clicks.leaving, self.arena, self.forgetting, clicks.owners, clicks.life, *where, fired[1:])
        seen = decided, failed, repeated, decisions, judged.rules, opened, ends, fired.firings
        return Cycle(*seen, staged, forecast, hours, gone, taken)

    def _judge(
        self,
        seen: Evidence,
        track: Track,
        partition: Index,
        kept: Sequence[bytes],
        before: Fields,
        rows: Rows,
        asked: Asked | None,
    ) -> Judgement:
        """Judge the decided clicks, and the end of the user's session after each of them if the model scores ends."""
        if self.ends is None:
            return self.judge(seen, partition, kept, before, rows, asked)
        ending = track.running(seen.recent[:, 0], seen.surprise)
        nats = np.empty(len(seen.owner))
        nats[track.by_user] = self.ends.nats(ending)
        judged = self.judge(seen, partition, kept, before, rows, asked, nats)
        assert judged.ends is not None
        track.score(ending, *judged.ends)
        return judged

    def _stage(
        self,
        clicks: Columns,
        found: Found,
        rows: Rows,
        swept: Swept,
        event_ids: Hashes | None,
        kept: Mapping[Partition, bytes],
        times: Mapping[Partition, int],
        taken: Taken,
    ) -> Staged:
        """Stage the changed rows of a batch, and the removal of those that are swept or that a request ends."""
        owners = clicks.owners
        if clicks.life is not None:
            stay = staying(owners, clicks.owner, clicks.life, clicks.requests, found, taken)
            owners, found, rows = [owners[i] for i in stay.tolist()], select(found, stay), rows[stay]
            event_ids = None if event_ids is None else event_ids[stay]
            swept = with_removed(swept, self.arena, clicks.requests, owners)
        return stage(self.arena, owners, found, rows, swept, event_ids, kept, times)

    def commit(self, cycle: Cycle) -> None:
        """Write the rows of a cycle to the arena. Call it after the Kafka transaction is committed."""
        self.committed.commit(cycle.staged)

    def rest(self, minutes: Mapping[Partition, int]) -> Cycle:
        """End the sessions of partitions that have no clicks, and move the times of these partitions on.

        A partition without an open session moves on if an hour of it is counted, and else is left as it is. One with
        too many of them moves on by a part of the way, as its time in the result says (`at_rest`).

        minutes  partition -> the minute to which it moves on
        """
        found = {partition: at_rest(self.arena, partition, last) for partition, last in minutes.items()}
        times = {partition: time_ms for partition, (ends, time_ms) in found.items() if ends.owners}
        ends = joined([found[partition][0] for partition in times])
        cycle = self.process(self.encoder.columns((), ()), 0)
        staged, hours = cycle.staged, list[Hour]()
        if self._hours is not None:
            kept = {partition: self.arena.kept.get(partition, b"") for partition in found}
            for partition in found.keys() - times.keys():
                next_ms = self._hours.next_ms(self.arena, partition, kept[partition][KEPT_SIZE:])
                times |= {} if next_ms is None else {partition: next_ms}
            hours, after = self._hours.at_rest(self.arena, ends, times, [kept[one][KEPT_SIZE:] for one in times])
            after = [kept[one][:KEPT_SIZE] + counted for one, counted in zip(times, after, strict=True)]
            staged = staged._replace(kept=dict(zip(times, after, strict=True)))
        fired = self.triggers.at_rest(self.arena, ends, times, self.decide.shelves)
        staged = with_rows(staged._replace(times=times), self.arena, fired.owners, fired.rows)
        return cycle._replace(ended=ends, firings=fired.firings, staged=staged, hours=hours)
