"""What Prometheus reads is what was measured. The text is parsed by prometheus_client, and the figures are by hand."""

from types import SimpleNamespace

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from stream.meter import Meter
from stream.web.health import Doing, Health
from stream.web.metrics import COUNTS, HISTOGRAMS, LEVELS, exposition, registry

Labels = tuple[tuple[str, str], ...]


def parsed(meter: Meter, health: Health | None = None) -> dict[str, Metric]:
    """Family -> its samples, as Prometheus reads them."""
    text = exposition(registry(meter, health or Health())).decode()
    return {family.name: family for family in text_string_to_metric_families(text)}


def samples(meter: Meter, health: Health | None = None) -> dict[tuple[str, Labels], float]:
    """(name, sorted labels) -> value."""
    found = {}
    for family in parsed(meter, health).values():
        for sample in family.samples:
            found[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return found


def test_counts_and_levels_have_their_labels_and_values() -> None:
    """A count without labels is 0 from the start, so that a rate has a beginning; one with labels appears when it is
    counted."""
    meter = Meter()
    assert samples(meter)["eddy_clicks_total", ()] == samples(meter)["eddy_latency_seconds_count", ()] == 0
    assert not [name for name, _ in samples(meter) if name == "eddy_dead_letters_total"]
    meter.count("clicks", 70)
    meter.count("clicks", 7)
    meter.count("dead_letters", 3, reason="not_json")
    meter.count("dead_letters", 2, reason="empty_key")
    meter.level("users", 41)
    meter.levels("partition_lag", "partition", {"0": 5, "3": 0})
    meter.level("info", 1, version="1.2", model="shop/1", provider="CPU", group="g", worker_id="0")
    seen = samples(meter)
    assert seen["eddy_clicks_total", ()] == 77
    assert seen["eddy_dead_letters_total", (("reason", "not_json"),)] == 3
    assert seen["eddy_dead_letters_total", (("reason", "empty_key"),)] == 2
    assert seen["eddy_users", ()] == 41
    assert [seen["eddy_lag", (("partition", number),)] for number in "03"] == [5, 0]
    of = (("group", "g"), ("model", "shop/1"), ("provider", "CPU"), ("version", "1.2"), ("worker_id", "0"))
    assert seen["eddy_info", of] == 1


def test_a_histogram_counts_the_values_up_to_each_edge() -> None:
    """Cumulative, with all values in +Inf and in _count, and their sum: 1, 3, 4 and 70 ms, and 20 days."""
    meter = Meter()
    meter.observe("latency", [0.001, 0.003, 0.004, 0.070, 20 * 86_400.0])
    seen = samples(meter)

    def up_to(edge: str) -> float:
        return seen["eddy_latency_seconds_bucket", (("le", edge),)]

    assert [up_to(edge) for edge in ("0.0016", "0.0032", "0.0064", "0.0512", "0.1024")] == [1, 2, 3, 3, 4]
    assert [up_to("107374.1824"), up_to("+Inf"), seen["eddy_latency_seconds_count", ()]] == [4, 5, 5]
    assert seen["eddy_latency_seconds_sum", ()] == pytest.approx(20 * 86_400 + 0.078)


def test_a_histogram_of_sizes_has_whole_numbers_as_edges() -> None:
    """Sizes of 0, 1, 2, 3, 4 and 5,000 messages: each edge counts the sizes up to it, itself included."""
    meter = Meter()
    meter.observe("cycle_messages", [0, 1, 2, 3, 4, 5_000])
    seen = samples(meter)
    edges = {
        dict(labels)["le"]: value for (name, labels), value in seen.items() if name == "eddy_cycle_messages_bucket"
    }
    for edge, value in edges.items():
        assert edge == "+Inf" or value == sum(size <= int(edge) for size in (0, 1, 2, 3, 4, 5_000)), edge
    assert edges["+Inf"] == 6
    assert list(edges)[:3] == ["1", "3", "6"]


def test_the_states_of_health_are_metrics() -> None:
    """Ready and Kafka are asked at the scrape."""
    health = Health()
    assert samples(Meter(), health)["eddy_kafka_up", ()] == 0
    health.doing, health.kafka = lambda: Doing("assigned", 2), SimpleNamespace(out=False, breaks=3)
    seen = samples(Meter(), health)
    assert [seen[name, ()] for name in ("eddy_ready", "eddy_kafka_up")] == [1, 1]
    assert seen["eddy_kafka_connections_lost_total", ()] == 3
    health.kafka = SimpleNamespace(out=True, breaks=3)
    seen = samples(Meter(), health)
    assert [seen[name, ()] for name in ("eddy_ready", "eddy_kafka_up")] == [0, 0]


def test_names_follow_the_rules_of_prometheus() -> None:
    """Counters end in _total, durations are in seconds, every metric has a help text, and the process has its own."""
    meter = Meter()
    for figure in (*COUNTS, *LEVELS, *HISTOGRAMS):
        labels = dict.fromkeys(figure.labels, "x")
        if figure in COUNTS:
            meter.count(figure.source, **labels)
        elif figure in LEVELS:
            meter.level(figure.source, 1, **labels)
        else:
            meter.observe(figure.source, 1, **labels)
    found = parsed(meter)
    for figure in (*COUNTS, *LEVELS, *HISTOGRAMS):
        family = found[figure.name.removesuffix("_total")]
        kind = {True: "counter", figure in LEVELS: "gauge", figure in HISTOGRAMS: "histogram"}[True]
        assert (family.type, family.documentation) == (kind, figure.help)
        assert figure.name.endswith("_total") == (kind == "counter")
        assert set(figure.labels) <= set(family.samples[0].labels)
    assert "process_resident_memory_bytes" in found
