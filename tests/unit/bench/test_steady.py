"""The parts of the soak, the outage and the scaling that need no Kafka: counted results, series, verdicts, pictures."""

import argparse
from pathlib import Path

import msgspec
import pytest

from bench.command import recovered_partitions
from bench.flow import Counted, Results, Sample, series
from bench.outage import Outage, catch_up
from bench.plot import Panel, draw
from bench.soak import COMPARED, GROWN_MB, SLOWER, thirds, verdict
from bench.steady import options
from bench.throughput.clicks import made_up, position
from bench.throughput.machine import Memory, parse_status
from bench.throughput.rounds import Measured
from bench.workers import figures, table

CLICKS = made_up(10)
FLAT = Sample(0.0, 1_000.0, 5, 10.0, 20.0, 12.0, 24.0, 150.0, 300.0, 100.0, 0.0)


def values(*numbers: int, later: int = 0) -> list[bytes]:
    """Results of clicks, by position. later: how much higher the offsets of the messages are than the positions."""
    return [
        msgspec.json.encode({"id": f"clicks-3-{number + later}", "timestamp": CLICKS[number].timestamp, "items": []})
        for number in numbers
    ]


def test_a_click_is_found_by_its_timestamp() -> None:
    """The positions of a seed's clicks are 0, 1, 2 and so on."""
    assert [position(click.timestamp) for click in CLICKS] == list(range(10))


def test_lost_and_repeated_results_are_counted() -> None:
    """A click without a result is lost, also if it is the last; each further result of the same message is one too
    many. A click that its producer stored twice has two messages, and each of them has a result."""
    results = Results([1.0] * 10)
    results.take(1.5, values(0, 1, 2, 2, 2, 3, 4))
    results.take(1.6, values(5, 6, 1))
    assert (results.total, results.counted()) == (7, Counted(3, 3, 0))
    results.take(1.7, values(0, 4, later=100))
    assert (results.total, results.counted()) == (7, Counted(3, 3, 2))
    results.take(1.8, values(4, later=100))
    assert results.counted() == Counted(3, 4, 2)


def test_percentiles_are_those_since_the_last_call() -> None:
    """A slow second does not colour the next one, and a time without a result has none."""
    results = Results([1.0] * 10)
    results.take(1.25, values(0))
    assert results.percentiles() == (250.0, 250.0)
    results.take(3.0, values(1))
    assert results.percentiles() == (2_000.0, 2_000.0)
    assert results.percentiles() == (None, None)


def test_a_flat_soak_is_fine_and_a_growing_one_is_not() -> None:
    """Memory is compared in MB, latency as a ratio; three bad samples at the end are enough, one is not."""
    assert verdict(thirds([FLAT] * 9)) == []
    assert verdict(thirds([*[FLAT] * 8, FLAT._replace(read_committed_p99_ms=9_000.0)])) == []
    fat = FLAT._replace(anon_mb=FLAT.anon_mb + GROWN_MB + 1)
    late = FLAT._replace(read_committed_p99_ms=SLOWER * 24.0 + 1)
    assert len(verdict(thirds([FLAT] * 6 + [fat] * 3))) == 1
    assert len(verdict(thirds([FLAT] * 6 + [late] * 3))) == 1
    assert list(thirds([FLAT] * 3)) == list(COMPARED)


def test_the_catch_up_is_measured_while_the_worker_works() -> None:
    """The samples in which it begins and ends are left out of its speed; those before the restart do not count."""
    speeds_and_lags = [(500, 10), (0, 500), (60, 1_000), (300, 1_200), (1_000, 700), (900, 300), (700, 0), (500, 5)]
    samples = [
        FLAT._replace(s=float(second), clicks_per_s=float(speed), lag=lag)
        for second, (speed, lag) in enumerate(speeds_and_lags, 1)
    ]
    found = catch_up(samples, Outage(1.0, 2.5, 2.9), rate=100.0, every_s=1.0)
    assert found == {"away_s": 1.9, "largest_lag": 1_200, "wait_s": 0.1, "catch_up_s": 4.0, "clicks_per_s": 950}


def test_series_are_columns() -> None:
    """One list for each figure."""
    assert series([FLAT, FLAT._replace(lag=7)])["lag"] == [5, 7]


def test_the_same_numbers_give_the_same_picture(tmp_path: Path) -> None:
    """And it names the date of its measurement. A missing value is a gap."""
    panels = [Panel("ms", {"p50": [1.0, None, 3.0], "p99": [2.0, 2.0, 9.0]}), Panel("MB", {"own": [1.0, 1.0, 1.0]})]
    for name in ("one.svg", "two.svg"):
        draw(tmp_path / name, "Title", "2026-11-26T10:00:00+00:00", [1.0, 2.0, 3.0], panels, (1.0, 2.0))
    one, two = ((tmp_path / name).read_text() for name in ("one.svg", "two.svg"))
    assert one == two
    assert "2026-11-26T10:00:00+00:00" in one


def test_memory_is_read_from_status() -> None:
    """Shared memory counts as mapped files."""
    text = "Name:\tpython\nVmRSS:\t 4096 kB\nRssAnon:\t 2048 kB\nRssFile:\t 1024 kB\nRssShmem:\t 1024 kB\n"
    assert parse_status(text) == Memory(2.0, 2.0)


@pytest.mark.parametrize("words", [["--share", "0"], ["--rate", "-1"], ["--every", "often"]])
def test_numbers_must_be_above_0(words: list[str]) -> None:
    """argparse refuses them with exit code 2."""
    parser = options("bench.soak", "text", share=0.7, every=10.0, out=Path("out"), plot=Path("plot"))
    assert isinstance(parser, argparse.ArgumentParser)
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(words)


def test_the_gain_of_two_workers_is_that_of_a_round() -> None:
    """A machine that is slower in one round changes it less."""
    one, two = Measured(1_000.0, 100.0, 20.0, 0.0, 1.0), Measured(1_800.0, 110.0, 20.0, 0.0, 1.0)
    slower = {"1": one._replace(clicks_per_s=500.0), "2": two._replace(clicks_per_s=900.0)}
    found = figures([{"1": one, "2": two}, slower, {"1": one, "2": two._replace(clicks_per_s=1_500.0)}])
    assert (found["gain"], found["gain_lowest"], found["gain_highest"]) == (1.8, 1.5, 1.8)
    assert len(table(found).splitlines()) == 4


def test_recovered_partitions_are_read_from_the_log() -> None:
    """A worker can get none."""
    log = (
        "INFO partitions recovered: partitions=[a-b-0, a-b-3] generation=1\nx\nINFO partitions recovered: partitions=[]"
    )
    assert recovered_partitions(log) == [{0, 3}, set()]
