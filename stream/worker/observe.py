"""Measures committed batches: adds figures to the meter and keeps examples of dead letters and keys for the warnings.

All code runs in the event loop's thread after a batch is committed. So a batch that was rolled back and processed again
is counted once. The cost per batch is one pass over its timestamps and users, and a few samples.
"""

import logging
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from importlib.metadata import version
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from stream import DISTRIBUTION
from stream.detect.statistics import END, STATISTICS
from stream.detect.windows import NO_GAP
from stream.engine.columns import Columns
from stream.engine.engine import Cycle
from stream.events import DRIFT, Origin, Partition, SystemAlert
from stream.hours.messages import message
from stream.hours.table import Cells
from stream.kafka.consumer.fetch import Chunk
from stream.kafka.partitioners import KeySample
from stream.lists.hits import Hits
from stream.log_lines import hashed, printable
from stream.mapping.unused import UnusedPaths
from stream.meter import Meter
from stream.model.gaps import starts_session
from stream.model.runtime import Model
from stream.population.signs import SIGNS, SURGE
from stream.settings import ALPHA, Settings
from stream.state.arena import Arena, Owner
from stream.tracing.open import open_traces
from stream.trigger import CONTROL, TREATED
from stream.triggers.rules import Rule
from stream.web.alerts import Alerts
from stream.web.hours import LastHours
from stream.worker.cycles.batch import Batch
from stream.worker.cycles.decode import Refused

if TYPE_CHECKING:
    from stream.tracing.otlp import Traces

log = logging.getLogger(__name__)

CLOCK_S = 60.0
"""A message with a timestamp that is further ahead of the worker's clock shows that one of two clocks is wrong."""

NO_STATISTIC = "none"
"""Of an alert for which no statistic is unusual by itself."""

KEYS_PER_BATCH, MAPPED_PER_BATCH = 64, 500
LETTERS_PER_BATCH = 5
MAX_DECODED_BYTES = 65_536
MAX_FIELDS, LONGEST_SHOWN = 20, 200


@dataclass(frozen=True)
class Example:
    """An example of the messages that were refused for one reason.

    detail  detail of one dead letter, with the user id hashed
    fields  sorted field names of the most recent messages; empty if they are not JSON objects
    """

    detail: str
    fields: tuple[str, ...]


class Observed:
    """The figures and examples of one worker's committed batches.

    partitions  number of partitions of the clicks topic
    users       returns the user ids in a message, which a log line must not show
    clock_ms    returns the current time in ms since the epoch, to compare with the records' timestamps
    alpha       as in Settings
    alerts      gets the alerts of each batch
    hours       gets the hours that are over with each batch; None = they are not counted
    """

    def __init__(
        self,
        meter: Meter,
        model: Model,
        arena: Arena,
        partitions: int,
        users: Callable[[Mapping[str, Any]], list[str]],
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        alpha: float = ALPHA,
        alerts: Alerts | None = None,
        hours: LastHours | None = None,
    ) -> None:
        self.meter = meter
        self.key_sample = KeySample(partitions)
        self.examples: dict[str, Example] = {}
        self.unused: UnusedPaths | None = None  # of the mapping, until the first clicks have shown them
        self._model, self._arena, self._users = model, arena, users
        self._clock_ms, self._alpha = clock_ms, alpha
        self._alerts = alerts or Alerts()
        self._hours, self._cells = hours, Cells(model.manifest.event_types)
        self._rng, self._hits = random.Random(0), Hits()
        self._traces: Traces | None = None
        self._generation = 0  # of the group, at the latest batch
        meter.level("alpha", alpha)
        for statistic in (*STATISTICS, END, NO_STATISTIC):  # Prometheus sees no increase in a count that begins with 1
            meter.count("alerts", 0, statistic=statistic)
        for sign in (*SIGNS, SURGE, DRIFT):
            meter.count("system_alerts", 0, sign=sign)

    def rules(self, rules: Sequence[Rule]) -> None:
        """Count the triggers of these rules from 0 on: Prometheus sees no increase in a count that begins with 1."""
        for rule in rules:
            for group in (TREATED, CONTROL) if rule.control else (TREATED,):
                self.meter.count("triggers", 0, rule=rule.name, group=group)

    def committed(self, chunks: Sequence[Chunk], batch: Batch) -> None:
        """Add the figures of a batch that was just committed.

        chunks  the input of the batch; none if it has only ends of sessions, of partitions at rest
        """
        self._ended(batch)
        if not chunks:
            return
        count, clicks = self.meter.count, batch.clicks
        stamps = np.array([record.timestamp for chunk in chunks for record in chunk.records], np.float64)
        count("messages", len(stamps))
        count("clicks_lost", sum(chunk.lost for chunk in chunks))
        self._decisions(clicks, batch.cycle, chunks[0].generation)
        self._forgotten(clicks, batch.cycle.staged.swept.owners)
        for outcome, n in batch.carried.items():
            count("carried", n, outcome=outcome)
        self._tell(batch.system_alerts)
        for reason, n in Counter(refused.why.reason for refused in batch.refused).items():
            count("dead_letters", n, reason=reason)
        for reason, n in Counter(batch.dropped.values()).items():
            count("dropped", n, reason=reason)
        for field, n in batch.left_out.items():
            count("left_out", n, field=field)
        self.meter.level("users", len(self._arena))
        self.meter.observe("cycle_messages", len(stamps))
        for stage, seconds in batch.seconds.items():
            self.meter.observe("stage", seconds, stage=stage)
        age_s = (self._clock_ms() - stamps[stamps > 0]) / 1000.0
        self.meter.observe("latency", age_s)
        early = age_s[age_s < -CLOCK_S]
        if len(early):
            count("early", len(early))
            self.meter.level("early_s", -float(np.median(early)))
        if self._traces is not None:
            self._trace(self._traces, chunks, batch, len(stamps))
        self._sample_letters(batch.refused)
        self._sample_keys(chunks, {*batch.dropped, *(letter.origin for letter in batch.refused)})

    def trace(self, settings: Settings, worker_id: str) -> None:
        """Send a span for each batch from now on, if the settings ask for it. Raises ConfigError."""
        self._traces = open_traces(settings, worker_id, self._model.manifest.label, version(DISTRIBUTION))

    def _trace(self, traces: "Traces", chunks: Sequence[Chunk], batch: Batch, messages: int) -> None:
        facts = {
            "messaging.batch.message_count": messages,
            "eddy.clicks": len(batch.cycle.decided),
            "eddy.dead_letters": len(batch.refused),
            "eddy.alerts": len(batch.alerts) + len(batch.system_alerts),
            "eddy.partitions": [str(partition) for partition in sorted(batch.offsets)],
        }
        traces.transaction(batch.seconds, (record for chunk in chunks for record in chunk.records), facts)

    def about(self, group: str, worker_id: str) -> None:
        """Set the level that says which worker this is."""
        label, provider, release = self._model.manifest.label, self._model.provider, version(DISTRIBUTION)
        of = {"version": release, "model": label, "provider": provider, "group": group, "worker_id": worker_id}
        self.meter.level("info", 1, **of)

    def standing(self, positions: Mapping[Partition, int], ends: Mapping[Partition, int]) -> int:
        """Set the levels that change without a batch. Returns the lag: the number of messages not decided yet.

        positions  partition -> the offset to read next, of each partition whose clicks this worker decides
        ends       partition -> the high watermark, where it is known
        """
        lag = {p: max(0, ends.get(p, next_) - next_) for p, next_ in positions.items()}
        self.meter.levels("partition_lag", "partition", {str(p.number): n for p, n in lag.items()})
        self.meter.level("partitions", len(positions))
        self.meter.level("users", len(self._arena) if positions else 0)  # a spare may still hold rows of before
        return sum(lag.values())

    def _decisions(self, clicks: Columns, cycle: Cycle, generation: int) -> None:
        """Count the decisions of a batch. `clicks` is the input of the cycle."""
        count, decided, decisions, alerts = self.meter.count, cycle.decided, cycle.decisions, cycle.decisions.alerts
        item, offset = clicks.item[decided], clicks.offset[decided]
        count("clicks", len(decided))
        count("repeats", len(cycle.repeated))
        count("unknown_items", int((item == len(self._model.items)).sum()))
        count("unknown_event_types", int((clicks.event_type[decided] == len(self._model.manifest.event_types)).sum()))
        count("unusual_clicks", int((decisions.p_value <= self._alpha).sum()))
        opened = [rule.episode == offset[click] for rule, click in zip(alerts.rules, alerts.click, strict=True)]
        count("episodes", sum(opened))
        for statistic, n in Counter(next(iter(rule.statistics), NO_STATISTIC) for rule in alerts.rules).items():
            count("alerts", n, statistic=statistic)
        begins = starts_session(decisions.gap_ms) | (decisions.gap_ms == NO_GAP)
        count("sessions", len(cycle.opened))
        if generation != self._generation:  # partitions may have been elsewhere meanwhile
            self._hits.forget()
            self._generation = generation
        judged, hits = self._hits.judge(clicks.owners, clicks.owner[decided], begins, item, decisions.lists)
        count("lists_judged", judged)
        count("list_hits", hits)

    def _ended(self, batch: Batch) -> None:
        """Count the ends of sessions, their alerts and the triggers, and keep alerts and hours for the HTTP port."""
        self.meter.count("sessions_ended", len(batch.cycle.ended.owners))
        for (rule, group), n in Counter((one.rule, one.group) for one in batch.triggers).items():
            self.meter.count("triggers", n, rule=rule, group=group)
        of_ends = [alert for alert in batch.alerts if END in alert.statistics]
        self.meter.count("alerts", len(of_ends), statistic=END)
        self.meter.count("episodes", sum(alert.episode == alert.id for alert in of_ends))
        self._alerts.add([*batch.alerts, *batch.system_alerts])
        if self._hours is not None and batch.cycle.hours:
            cells, label = self._cells, self._model.manifest.label
            self._hours.add([message(hour, cells, label, len(cells.names)) for hour in batch.cycle.hours])

    def _forgotten(self, clicks: Columns, removed: Sequence[Owner]) -> None:
        """Count the users whose rows were removed: those with a request, and those who were idle for too long."""
        stayed = [*{*removed}.difference(one.owner for one in clicks.leaving)]
        asked = sum(owner in clicks.requests for owner in stayed)
        self.meter.count("forgotten", asked, cause="request")
        self.meter.count("forgotten", len(stayed) - asked, cause="idle")

    def _tell(self, alerts: Sequence[SystemAlert]) -> None:
        """Count the alerts on many users, and write a line for each: somebody should look at once."""
        for alert in alerts:
            if alert.phase == "closed":
                log.info("no more than usual: id=%s sign=%r alerts=%d", alert.episode, alert.sign, alert.alerts)
                continue
            self.meter.count("system_alerts", sign=alert.sign)
            log.warning("many users at once: id=%s sign=%r; %s", alert.id, alert.sign, printable(alert.reason))

    def _sample_letters(self, refused: Sequence[Refused]) -> None:
        """Keep an example of each reason: the log may name any that was counted."""
        fields: dict[str, set[str]] = {}
        of_each_reason = {letter.why.reason: letter for letter in refused}
        for letter in (*of_each_reason.values(), *self._some(refused, LETTERS_PER_BATCH)):
            message = _object(letter.record.value)
            seen = fields.setdefault(letter.why.reason, set())
            seen.update(message)
            users = [letter.record.key, *(user.encode(errors="replace") for user in self._users(message))]
            self.examples[letter.why.reason] = Example(
                printable(_without_users(letter.why.detail, users), LONGEST_SHOWN),
                tuple(printable(name, LONGEST_SHOWN) for name in sorted(seen)[:MAX_FIELDS]),
            )

    def _sample_keys(self, chunks: Sequence[Chunk], no_clicks: Set[Origin]) -> None:
        """Sample valid clicks. Other messages do not change a state, so their partition does not matter, nor does that
        of a request to forget a user, which has no value: it is sent to all partitions."""
        ends = list(accumulate(len(chunk.records) for chunk in chunks))
        most = KEYS_PER_BATCH if self.unused is None else MAPPED_PER_BATCH
        for taken, at in enumerate(self._some(range(ends[-1] if ends else 0), most)):
            number = next(i for i, end in enumerate(ends) if at < end)
            chunk, record = chunks[number], chunks[number].records[at - ends[number]]
            if record.value is not None and Origin(*chunk.partition, record.offset) not in no_clicks:
                if taken < KEYS_PER_BATCH:
                    self.key_sample.add(record.key, chunk.partition.number, record.offset)
                if self.unused is not None and not self.unused.look(record.value):
                    self.unused = None

    def _some(self, values: Sequence[Any], most: int) -> Sequence[Any]:
        """Return all values, or a random sample of `most`. Taking every n-th could miss a producer."""
        return values if len(values) <= most else self._rng.sample(values, most)


def _object(value: bytes | None) -> dict[str, Any]:
    """Decode the message as a JSON object. Return an empty one if it is not an object or is too large to decode."""
    if not value or len(value) > MAX_DECODED_BYTES:
        return {}
    try:
        return msgspec.json.decode(value, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeError, RecursionError, ValueError):
        return {}


def _without_users(detail: str, users: Sequence[bytes | None]) -> str:
    """Replace these user ids in a detail by hashes. A detail has up to 64 characters of an id or of its repr.

    An id of letters only behind a quote: `a` may also be a word of the sentence.
    """
    for user in filter(None, users):
        text = user.decode(errors="replace")
        for shown in {text, text[:64], repr(text[:64])[1:-1], repr(user[:64])[2:-1]}:
            before = "(?<=['\"])" if shown.isalpha() else r"(?<!\w)"
            detail = re.sub(rf"{before}{re.escape(shown)}(?!\w)", hashed(user), detail)
    return detail
