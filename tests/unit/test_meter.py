"""Figures for several readers with different intervals."""

import threading

import numpy as np
import pytest

from stream.meter import Meter, Name


def test_counts_add_up_over_labels() -> None:
    """A count is the sum over its labels, each label has its own count, and an unknown name has 0."""
    meter = Meter()
    meter.count("dead_letters", 3, reason="not_json")
    meter.count("dead_letters", reason="empty_key")
    meter.count("dead_letters", 2, reason="not_json")
    meter.count("clicks", 7)
    seen = meter.snapshot()
    assert seen.count("dead_letters") == 6
    assert seen.counts_by("dead_letters", "reason") == {"not_json": 5, "empty_key": 1}
    assert seen.count("clicks") == 7
    assert seen.count("alerts") == 0


def test_a_snapshot_does_not_change() -> None:
    """What is added after a snapshot is the difference to the next one, for counts, levels and histograms."""
    meter = Meter()
    meter.count("clicks", 1)
    meter.level("users", 5)
    meter.observe("latency", [0.1, 0.2])
    before = meter.snapshot()
    meter.count("clicks", 2)
    meter.level("users", 4)
    meter.observe("latency", 100.0)
    after = meter.snapshot()
    assert (before.count("clicks"), after.count("clicks")) == (1, 3)
    assert (before.level("users"), after.level("users")) == (5, 4)
    early, late = before.histogram("latency"), after.histogram("latency")
    assert early is not None
    assert late is not None
    assert early.buckets.sum() == 2
    window = late.since(early)
    assert window.buckets.sum() == 1
    assert window.total == pytest.approx(100.0)
    assert window.quantile(0.5) == pytest.approx(100.0, rel=0.1)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("scale", [0.002, 0.08, 40.0, 90_000.0])
def test_quantiles_are_within_a_tenth(share: float, scale: float) -> None:
    """From milliseconds to days, a quantile is within 10% of the exact one."""
    durations = np.random.default_rng(3).lognormal(np.log(scale), 0.8, 20_000)
    meter = Meter()
    for part in np.split(durations, 10):
        meter.observe("latency", part)
    timing = meter.snapshot().histogram("latency")
    assert timing is not None
    assert timing.quantile(share) == pytest.approx(float(np.quantile(durations, share)), rel=0.1)
    assert timing.total == pytest.approx(float(durations.sum()))


def test_durations_beyond_the_scale_are_kept() -> None:
    """A negative duration, which two clocks can give, and one of a century are counted without an error."""
    meter = Meter()
    meter.observe("latency", [-3.0, 0.0, 3e9])
    timing = meter.snapshot().histogram("latency")
    assert timing is not None
    assert timing.buckets.sum() == 3
    assert (timing.quantile(0.5) or 1.0) < 0.001
    assert (timing.quantile(1.0) or 0.0) > 1e8


def test_no_durations_have_no_quantile() -> None:
    """An interval in which nothing was timed gives None, not 0."""
    meter = Meter()
    meter.observe("latency", np.empty(0))
    timing = meter.snapshot().histogram("latency")
    assert timing is not None
    assert timing.quantile(0.5) is None
    assert meter.snapshot().histogram("cycle") is None


def test_levels_by_a_label_end_with_the_label_value() -> None:
    """A partition that this worker has no more has no lag, and a level with another name stays."""
    meter = Meter()
    meter.level("lag", 7)
    meter.levels("partition_lag", "partition", {"0": 3, "1": 4})
    meter.levels("partition_lag", "partition", {"1": 5})
    assert meter.snapshot().levels == {Name("lag"): 7, Name("partition_lag", (("partition", "1"),)): 5}


def test_threads_lose_no_count() -> None:
    """With three threads that count and time at once, no figure is lost."""
    meter = Meter()

    def work() -> None:
        for _ in range(2_000):
            meter.count("clicks")
            meter.observe("latency", 0.01)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen = meter.snapshot()
    timing = seen.histogram("latency")
    assert timing is not None
    assert (seen.count("clicks"), timing.buckets.sum()) == (6_000, 6_000)
