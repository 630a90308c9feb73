"""The figures of a worker's meter as Prometheus metrics. docs/metrics.md has the same table.

The meter is the one source of figures; the status line uses the same. Counts and histograms are cumulative since the
start of the process.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from stream.meter import EDGES, STEPS_PER_DOUBLING, Histogram, Meter, Name, Snapshot
from stream.web.health import Health

T = TypeVar("T")


def _doublings(*numbers: int) -> tuple[int, ...]:
    """The indices in EDGES of 0.1 ms, doubled so many times."""
    return tuple(number * STEPS_PER_DOUBLING for number in numbers)


LATENCIES = _doublings(*range(4, 21), 22, 24, 26, 28, 30)  # 1.6 ms to 105 s, and to a day for a worker that catches up
STAGES = _doublings(*range(19))  # 0.1 ms to 26 s
RECOVERIES = _doublings(*range(8, 25, 2))  # 26 ms to 28 minutes
SIZES = _doublings(*range(14, 31))  # 1 to 107,374 clicks


class Figure(NamedTuple):
    """A metric, and the figure of the meter that it shows.

    name    as Prometheus has it
    source  the name in the meter
    help    one line
    labels  the figure's labels
    edges   a histogram's buckets, as indices in EDGES. If it is not of seconds, its values and `le` are whole numbers
    """

    name: str
    source: str
    help: str
    labels: tuple[str, ...] = ()
    edges: tuple[int, ...] = ()


COUNTS = (
    Figure("eddy_messages_total", "messages", "Messages whose transaction was committed."),
    Figure("eddy_clicks_total", "clicks", "Clicks decided."),
    Figure("eddy_repeats_total", "repeats", "Clicks not applied, because their event_id was applied before."),
    Figure("eddy_dead_letters_total", "dead_letters", "Messages refused.", ("reason",)),
    Figure("eddy_dropped_total", "dropped", "Messages that the mapping leaves out.", ("reason",)),
    Figure("eddy_left_out_total", "left_out", "Clicks without an optional field, whose value was bad.", ("field",)),
    Figure("eddy_clicks_lost_total", "clicks_lost", "Offsets that Kafka deleted before they were read."),
    Figure("eddy_early_messages_total", "early", "Messages whose Kafka timestamp is over a minute ahead."),
    Figure("eddy_unknown_items_total", "unknown_items", "Clicks on items that the model does not know."),
    Figure("eddy_unknown_event_types_total", "unknown_event_types", "Clicks whose event type the model does not know."),
    Figure("eddy_sessions_total", "sessions", "Sessions that began: a user's first click, or one after half an hour."),
    Figure("eddy_sessions_ended_total", "sessions_ended", "Sessions that ended; one that a late click revises, again."),
    Figure("eddy_triggers_total", "triggers", "Triggers for marketing written.", ("rule", "group")),
    Figure("eddy_unusual_clicks_total", "unusual_clicks", "Clicks with a p-value of at most alpha."),
    Figure("eddy_episodes_total", "episodes", "Episodes of single users that opened."),
    Figure("eddy_alerts_total", "alerts", "Alerts on single users, by the strongest statistic.", ("statistic",)),
    Figure("eddy_system_alerts_total", "system_alerts", "Alerts on many users that opened, by their sign.", ("sign",)),
    Figure("eddy_lists_judged_total", "lists_judged", "Lists of a sample of users, judged by their next click."),
    Figure("eddy_list_hits_total", "list_hits", "Judged lists with the item of the next click."),
    Figure("eddy_forgotten_users_total", "forgotten", "Users whose state was removed.", ("cause",)),
    Figure("eddy_transactions_total", "transactions", "Transactions by their outcome.", ("outcome",)),
    Figure("eddy_rebalances_total", "rebalances", "Rebalances of the group that this worker took part in."),
    Figure("eddy_answers_total", "answers", "Requests answered on /v1, by HTTP status.", ("answer", "status")),
    Figure("eddy_recovered_rows_total", "recovered_rows", "Rows read from the changelog."),
    Figure("eddy_rekeyed_total", "rekeyed", "Messages copied to the topic that is keyed by the user."),
    Figure("eddy_carried_total", "carried", "States of anonymous ids that came to users who logged in.", ("outcome",)),
    Figure("eddy_registry_failures_total", "registry_failures", "Requests that the Schema Registry did not answer."),
)
LEVELS = (
    Figure("eddy_info", "info", "Always 1.", ("version", "model", "provider", "group", "worker_id")),
    Figure("eddy_alpha", "alpha", "The nominal share of sessions with a false alert (--alpha)."),
    Figure("eddy_users", "users", "Users with a state in this worker's partitions."),
    Figure("eddy_partitions", "partitions", "Partitions whose clicks this worker decides."),
    Figure("eddy_lag", "partition_lag", "Messages of a partition that are not decided yet.", ("partition",)),
    Figure("eddy_rekey_lag", "rekey_lag", "Messages of a partition that are not re-keyed yet.", ("partition",)),
)
HISTOGRAMS = (
    Figure(
        "eddy_latency_seconds",
        "latency",
        "From a message's Kafka timestamp to the commit of its decision. On a backlog: how old the messages are.",
        edges=LATENCIES,
    ),
    Figure("eddy_stage_seconds", "stage", "Duration of each stage of a cycle.", ("stage",), STAGES),
    Figure("eddy_cycle_messages", "cycle_messages", "Messages in a cycle, which is one transaction.", edges=SIZES),
    Figure("eddy_answer_seconds", "answer", "Duration of a request on /v1.", ("answer",), STAGES),
    Figure("eddy_recovery_seconds", "recovery", "From new partitions to their states in memory.", edges=RECOVERIES),
)
NOTHING = Histogram(np.zeros(len(EDGES) + 1, np.int64), 0.0)
READY = "eddy_ready", "1 if /readyz answers 200, else 0."
KAFKA_UP = "eddy_kafka_up", "1 if Kafka has answered the latest question, else 0."
BREAKS = "eddy_kafka_connections_lost_total", "Connections to Kafka that were lost, as far as it was noticed."


class WorkerCollector(Collector):
    """Converts the meter's figures, and the answers of Health, to metrics at each scrape."""

    def __init__(self, meter: Meter, health: Health) -> None:
        self._meter = meter
        self._health = health

    def collect(self) -> Iterator[Metric]:
        """All metrics at this moment. A count or histogram without labels is 0 until something is counted.

        Without the 0, Prometheus would not see the increase to the first value.
        """
        seen = self._meter.snapshot()
        for figure in COUNTS:
            counter = CounterMetricFamily(figure.name, figure.help, labels=figure.labels)
            for labels, count in _of(figure, seen.counts) or ([] if figure.labels else [((), 0)]):
                counter.add_metric(labels, count)
            yield counter
        for figure in LEVELS:
            gauge = GaugeMetricFamily(figure.name, figure.help, labels=figure.labels)
            for labels, level in _of(figure, seen.levels):
                gauge.add_metric(labels, level)
            yield gauge
        yield from _histograms(seen)
        kafka = self._health.kafka
        yield GaugeMetricFamily(*READY, value=not self._health.ready().reason)
        yield GaugeMetricFamily(*KAFKA_UP, value=kafka is not None and not kafka.out)
        yield CounterMetricFamily(*BREAKS, value=0 if kafka is None else kafka.breaks)


def _histograms(seen: Snapshot) -> Iterator[Metric]:
    for figure in HISTOGRAMS:
        family = HistogramMetricFamily(figure.name, figure.help, labels=figure.labels)
        for labels, histogram in _of(figure, seen.histograms) or ([] if figure.labels else [((), NOTHING)]):
            family.add_metric(labels, _buckets(figure, histogram), histogram.total)
        yield family


def _of(figure: Figure, values: Mapping[Name, T]) -> list[tuple[Sequence[str], T]]:
    """The values of a figure, each with its label values in the order of the figure's labels."""
    return [
        ([dict(key.labels)[label] for label in figure.labels], value)
        for key, value in values.items()
        if key.name == figure.source
    ]


def _buckets(figure: Figure, histogram: Histogram) -> list[tuple[str, float]]:
    """(le, number of values up to it), cumulative, with the meter's own edges: so no count is an estimate."""
    number = float if figure.name.endswith("_seconds") else int
    reached = np.cumsum(histogram.buckets)
    return [*((str(number(EDGES[i])), float(reached[i])) for i in figure.edges), ("+Inf", float(reached[-1]))]


def registry(meter: Meter, health: Health) -> CollectorRegistry:
    """The metrics of this worker, and those of its process: memory, CPU, open files."""
    made = CollectorRegistry()
    made.register(WorkerCollector(meter, health))
    ProcessCollector(registry=made)
    return made


def exposition(made: CollectorRegistry) -> bytes:
    """The text that Prometheus reads."""
    return generate_latest(made)
