"""The parts of the latency benchmark that need no Kafka: times of the clicks, medians, options."""

import importlib

import msgspec
import pytest

from bench.latency.__main__ import ISOLATIONS, SIDES, medians, table, too_late, whole_numbers
from bench.latency.traffic import latencies_ms


def results(*timestamps: int) -> list[bytes]:
    return [msgspec.json.encode({"timestamp": timestamp, "items": []}) for timestamp in timestamps]


def test_a_latency_ends_with_the_first_result() -> None:
    """A result that is read again, as after a roll-back without read_committed, is counted and changes no latency."""
    times, repeated = latencies_ms({10: 1.0, 20: 1.5}, [(1.25, results(10)), (2.0, results(20, 10))])
    assert times.tolist() == [250.0, 500.0]
    assert repeated == 1


def test_results_of_the_first_clicks_are_left_out() -> None:
    """The clicks before the time begins are not among the sent ones."""
    times, repeated = latencies_ms({20: 1.0}, [(0.5, results(10)), (1.5, results(20))])
    assert (times.tolist(), repeated) == ([500.0], 0)


def test_a_click_without_a_result_is_an_error() -> None:
    """A percentile over the others would be too good."""
    with pytest.raises(ValueError, match="1 of 2 clicks have no result"):
        latencies_ms({10: 1.0, 20: 1.0}, [(1.5, results(20))])


def test_the_table_has_a_row_for_each_rate_and_side() -> None:
    """With medians of the rounds."""
    keys = [f"{isolation}_{of}_ms" for isolation in ISOLATIONS for of in ("p50", "p99")]
    runs = [dict.fromkeys([*keys, "cpu_us", "others_cores"], value) for value in (1.0, 9.0, 3.0)]
    assert set(medians(runs).values()) == {3.0}
    found = {rate: {side: medians(runs) for side in SIDES} for rate in ("500", "2000")}
    assert len(table(found).splitlines()) == 1 + 2 * len(SIDES)


@pytest.mark.parametrize(("p99", "busy", "lines"), [(500.0, 4_000, 0), (501.0, 4_000, 1), (501.0, None, 0)])
def test_only_eddy_at_its_share_of_the_capacity_has_a_goal(p99: float, busy: int | None, lines: int) -> None:
    """The bare client, and the other rates, may be slower."""
    runs = {"eddy": {"read_uncommitted_p99_ms": p99}, "transactions": {"read_uncommitted_p99_ms": 9_000.0}}
    other = {"eddy": {"read_uncommitted_p99_ms": 9_000.0}}
    assert len(too_late({"500": other, "4000": runs}, busy)) == lines


def test_rates_are_whole_numbers() -> None:
    """A word among them is refused."""
    assert whole_numbers("500,2000") == [500, 2000]
    with pytest.raises(ValueError, match="invalid literal"):
        whole_numbers("500,fast")


def test_the_client_with_transactions_can_be_imported() -> None:
    """It is only started as a process."""
    importlib.import_module("bench.latency.transactional")
