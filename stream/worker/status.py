"""Logs the worker's status line, and warnings that an operator should act on, from the figures of a meter.

    every 2 s         checks for warnings, over the last 10 s or 100 messages, whichever is longer
    every 30 s        logs the status line, if messages were decided or the lag changed in these 30 s
    every 10 minutes  logs the status line in any case, as a sign of life

A warning is repeated every 5 minutes while its condition is true. docs/operations.md explains every line.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, NoReturn

from stream.kafka.partitioners import KeySample, Verdict, described, matches
from stream.meter import Meter, Snapshot
from stream.settings import Topics
from stream.worker.observe import Example

CHECK_S = 2.0
STATUS_S = 30.0
SIGN_OF_LIFE_S = 600.0
REPEAT_S = 300.0

WINDOW_S = 10.0
WINDOW_MESSAGES = 100

DEAD_SHARE = 0.1
FEWEST_DEAD = 10
"""With fewer dead letters, there is no warning, even if their share is large."""

FEWEST_CLICKS = 20
"""With fewer clicks, there is no warning about unknown items or event types."""

MOST_LEFT_OUT = 1_000
"""So many messages that the mapping leaves out, and no click among them, are a warning. A topic may have few clicks."""

CORRECT_PRODUCER = "correct the producer as docs/events.md describes a click, or map its fields (docs/mapping.md)"
OTHER_ADVICE = dict.fromkeys(
    ("model_failed", "engine_failed"), "the messages are valid clicks, so train the model again and check its report"
) | {"too_large": "send smaller messages, or raise --max-message-bytes"}
"""Reason of the dead letters -> advice. For all other reasons, the advice is CORRECT_PRODUCER."""

log = logging.getLogger(__name__)


class Line(NamedTuple):
    """A log line.

    level     level of the logging module
    kind      identifies the condition. Two lines of one kind are at least `repeat_s` apart
    text      the message
    """

    level: int
    kind: str
    text: str
    repeat_s: float = REPEAT_S


async def report(status: "Status", lag: Callable[[], int]) -> NoReturn:
    """Log the lines of `status` until the task is cancelled. Runs in the event loop's thread.

    lag  returns the number of records in this worker's partitions that are not decided yet
    """
    while True:
        await asyncio.sleep(CHECK_S)
        for line in status.lines(time.monotonic(), lag()):
            log.log(line.level, "%s", line.text)


class Status:
    """Determines which log lines are due.

    meter        the figures of this worker, as in Observed
    key_sample   the sampled keys of this worker, as in Observed
    examples     reason -> an example of the refused messages, as in Observed
    topics       topic names for the warnings
    event_types  the event types that the model knows
    now_s        monotonic time in seconds, as in `lines`
    """

    def __init__(
        self,
        meter: Meter,
        key_sample: KeySample,
        examples: Mapping[str, Example],
        topics: Topics,
        event_types: Sequence[str],
        now_s: float,
    ) -> None:
        self._meter = meter
        self._key_sample = key_sample
        self._examples = examples
        self._topics = topics
        self._event_types = event_types
        self._interval = (now_s, meter.snapshot())
        self._window = deque([self._interval])
        self._clicked = self._interval[1]
        self._status_s = self._sample_s = now_s
        self._logged: dict[str, float] = {}

    def lines(self, now_s: float, lag: int) -> list[Line]:
        """Return the lines to log now. Call it every few seconds."""
        self._meter.level("lag", lag)
        now = self._meter.snapshot()
        due = [line for line in self._findings(now_s, now) if self._is_due(line, now_s)]
        if now_s - self._sample_s >= REPEAT_S:  # else there would be warnings of problems that were corrected long ago
            self._key_sample.clear()
            self._sample_s = now_s
        began, before = self._interval
        if now_s - began >= STATUS_S:
            happened = (before.count("messages"), before.level("lag") or 0) != (now.count("messages"), lag)
            if happened or now_s - self._status_s >= SIGN_OF_LIFE_S:
                due.append(Line(logging.INFO, "status", status_line(now_s - began, before, now)))
                self._status_s = now_s
            self._interval = (now_s, now)
        return due

    def _findings(self, now_s: float, now: Snapshot) -> list[Line]:
        before, topics = self._before(now_s, now), self._topics
        if any(now.count(name) > self._clicked.count(name) for name in ("clicks", "repeats")):
            self._clicked = now
        return [
            line
            for line in (
                dead_letters(before, now, self._examples, topics),
                no_clicks(self._clicked, now, topics.clicks),
                unknown_items(before, now),
                unknown_event_types(before, now, self._event_types),
                clocks(before, now),
                partitioners(self._key_sample.verdict(), topics.clicks),
            )
            if line is not None
        ]

    def _before(self, now_s: float, now: Snapshot) -> Snapshot:
        """Return the latest snapshot from at least WINDOW_S and WINDOW_MESSAGES ago, or the oldest one."""
        messages, window = now.count("messages"), self._window
        if messages > window[-1][1].count("messages"):
            window.append((now_s, now))
        while (
            len(window) > 1
            and now_s - window[1][0] >= WINDOW_S
            and messages - window[1][1].count("messages") >= WINDOW_MESSAGES
        ):
            window.popleft()
        return window[0][1]

    def _is_due(self, line: Line, now_s: float) -> bool:
        last_s = self._logged.get(line.kind)
        if last_s is not None and now_s - last_s < line.repeat_s:
            return False
        self._logged[line.kind] = now_s
        return True


COUNTED = ("clicks", "repeats", "dropped", "dead_letters", "alerts", "system_alerts")
"""The counts of the status line."""


def status_line(seconds: float, before: Snapshot, now: Snapshot) -> str:
    """Format the figures of the `seconds` between two snapshots. Lag and users are the current values."""
    counts = {name: now.count(name) - before.count(name) for name in COUNTED}
    ages = now.histogram("latency")
    p50, p99 = (None, None) if ages is None else map(ages.since(before.histogram("latency")).quantile, (0.5, 0.99))
    reasons, left_out = (_added(before, now, *of) for of in (("dead_letters", "reason"), ("left_out", "field")))
    return (
        f"status: clicks_per_s={counts['clicks'] / seconds:.1f} lag={now.level('lag') or 0:.0f} "
        f"age_p50_ms={_ms(p50)} age_p99_ms={_ms(p99)} "
        f"repeats={counts['repeats']} dropped={counts['dropped']} dead_letters={counts['dead_letters']} "
        f"reasons={_listed(reasons)} left_out={_listed(left_out)} "
        f"unknown_items={_share(before, now, 'unknown_items')} "
        f"unknown_event_types={_share(before, now, 'unknown_event_types')} "
        f"alerts={counts['alerts']} system_alerts={counts['system_alerts']} users={now.level('users') or 0:.0f}"
    )


def dead_letters(before: Snapshot, now: Snapshot, examples: Mapping[str, Example], topics: Topics) -> Line | None:
    """Return a warning if more than DEAD_SHARE of the messages between two snapshots were refused, else None."""
    reasons = _added(before, now, "dead_letters", "reason")
    dead, messages = sum(reasons.values()), now.count("messages") - before.count("messages")
    if dead < FEWEST_DEAD or dead <= DEAD_SHARE * messages:
        return None
    reason, most = next(iter(reasons.items()))
    example = examples[reason]
    return Line(
        logging.WARNING,
        f"dead letters: {reason}",
        f"many messages are dead letters: dead_letters={dead} messages={messages} commonest_reason={reason} "
        f"with_that_reason={most}; detail of one: {example.detail}; fields seen: "
        f"{', '.join(example.fields) or 'none, not a JSON object or too long to decode'}; "
        f"{OTHER_ADVICE.get(reason, CORRECT_PRODUCER)}; the messages are kept in topic {topics.dead_letters}",
    )


def no_clicks(clicked: Snapshot, now: Snapshot, topic: str) -> Line | None:
    """Return a warning if the mapping has left out all of very many messages since the last click, else None.

    clicked  the figures after the last click, or at the start
    """
    reasons = _added(clicked, now, "dropped", "reason")
    dropped = sum(reasons.values())
    if dropped < MOST_LEFT_OUT:
        return None
    return Line(
        logging.WARNING,
        "no clicks",
        f"no message is a click, because the mapping leaves them out: topic={topic} left_out={dropped} "
        f"reasons={_listed(reasons)}; messages that are left out are no dead letters and are not decided later; if "
        "there are clicks among them, the fields or event types of the producers have changed: compare a message with "
        "keep, drop and drop_without of the mapping",
    )


def unknown_items(before: Snapshot, now: Snapshot) -> Line | None:
    """Return a warning if the model does not know the items of more than half of the clicks, else None."""
    clicks, unknown = _clicks_and(before, now, "unknown_items")
    if clicks < FEWEST_CLICKS or 2 * unknown <= clicks:
        return None
    return Line(
        logging.WARNING,
        "unknown items",
        f"most clicks are on items that the model does not know: unknown={unknown} clicks={clicks}; compare the "
        "producer's item ids with items.json in the model directory; train on newer clicks if the items are new",
    )


def unknown_event_types(before: Snapshot, now: Snapshot, known: Sequence[str]) -> Line | None:
    """Return a warning if the model does not know the event types of more than half of the clicks, else None.

    known  the event types that the model knows
    """
    clicks, unknown = _clicks_and(before, now, "unknown_event_types")
    if clicks < FEWEST_CLICKS or 2 * unknown <= clicks:
        return None
    return Line(
        logging.WARNING,
        "unknown event types",
        f"most clicks have an event type that the model does not know: unknown={unknown} clicks={clicks} "
        f"known_event_types={','.join(known) or 'none'}; change the producer to send these, or train on a log with "
        "the producer's event types",
    )


def clocks(before: Snapshot, now: Snapshot) -> Line | None:
    """Return a warning if more than half of the messages between two snapshots have later times than the worker."""
    messages, early = (now.count(name) - before.count(name) for name in ("messages", "early"))
    if messages < FEWEST_CLICKS or 2 * early <= messages:
        return None
    return Line(
        logging.WARNING,
        "clocks",
        f"this worker's clock is behind Kafka's timestamps: behind_s={now.level('early_s') or 0:.0f} "
        f"messages={messages} early={early}; correct this machine's clock (NTP), or that of the producers",
    )


def partitioners(verdict: Verdict, topic: str) -> Line | None:
    """Return a warning if producers use different partitioners, an INFO line if they use an unknown one, else None."""
    if verdict.mixed:
        return Line(logging.WARNING, "partitioners", described(verdict, topic))
    if verdict.unknown:
        return Line(
            logging.INFO,
            "unknown partitioner",
            f"keys are not where a known partitioner puts them: topic={topic} keys={verdict.keys} "
            f"{matches(verdict)} unexplained={verdict.unexplained}; this is no problem if all producers choose a "
            "user's partition in the same way",
            float("inf"),
        )
    return None


def _added(before: Snapshot, now: Snapshot, name: str, label: str) -> dict[str, int]:
    """Return what a count gained between two snapshots, by the value of its label: the largest first."""
    earlier = before.counts_by(name, label)
    added = {value: n - earlier.get(value, 0) for value, n in now.counts_by(name, label).items()}
    return {value: n for value, n in sorted(added.items(), key=lambda pair: (-pair[1], pair[0])) if n}


def _listed(counts: Mapping[str, int]) -> str:
    return ",".join(f"{value}:{n}" for value, n in counts.items()) or "none"


def _clicks_and(before: Snapshot, now: Snapshot, name: str) -> tuple[int, int]:
    return now.count("clicks") - before.count("clicks"), now.count(name) - before.count(name)


def _share(before: Snapshot, now: Snapshot, name: str) -> str:
    clicks, some = _clicks_and(before, now, name)
    return f"{some / clicks:.1%}" if clicks else "none"


def _ms(seconds: float | None) -> str:
    return "none" if seconds is None else f"{seconds * 1000:.0f}"
