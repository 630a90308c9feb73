"""The parts of the throughput benchmark that need no Kafka: clicks, model, checks, CPU times, medians."""

import importlib
import shutil
from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import pytest

import bench.throughput.contenders.model as contenders
from bench import lists
from bench.throughput import earlier
from bench.throughput.__main__ import figures, order, table
from bench.throughput.check import Judged, clicks_per_list, same, sample, uncounted, wrong
from bench.throughput.clicks import Message, made_up
from bench.throughput.contenders.model import (
    EarlierGraphs,
    Graphs,
    K,
    Result,
    State,
    Users,
    decode,
    encode,
    open_graphs,
)
from bench.throughput.machine import busy_ticks, descendants, parse_stat
from bench.throughput.rounds import Measured
from bench.throughput.stages import REST, STAGES, Stopwatch, one_pass, with_rest
from bench.throughput.started import CONTENDERS, HERE, Site
from export.model.untrained import write_untrained
from stream.model.runtime import load_model
from stream.settings import Topics
from stream.wire.json import JsonCodec


@pytest.mark.parametrize("name", ["bare", "faust_events"])
def test_a_contender_of_eddys_environment_can_be_imported(name: str) -> None:
    """The others need packages that are not in this environment."""
    importlib.import_module(f"bench.throughput.contenders.{name}")


def test_every_contender_has_a_file_of_its_own() -> None:
    """And each command names topics, broker and model."""
    for name, contender in CONTENDERS.items():
        command = contender.command(Topics(), Site("broker:1", Path("model"), Path("python"), Path()))
        assert all(any(word in part for part in command) for word in ("broker:1", "model", "clicks")), name
        files = [Path(part.partition(":")[0]) for part in command if part.startswith(str(HERE))]
        assert name in ("eddy", "eddy_last") or files[0].is_file(), name


def test_made_up_clicks_are_valid_and_their_timestamps_differ() -> None:
    """Eddy accepts them, the same seed gives the same ones, and they have the size of the conditions."""
    clicks = made_up(2_000)
    codec = JsonCodec(65_536, 3_600_000)
    for click in clicks:
        codec.decode(click.key, click.value, click.timestamp)
    assert len({click.timestamp for click in clicks}) == len(clicks)
    assert made_up(100) == clicks[:100]
    assert round(sum(len(click.value) for click in clicks) / len(clicks)) == 204


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "small" / "1"
    write_untrained(directory, [f"i{number}" for number in range(50)], ["view", "cart", "purchase"])
    return directory


@pytest.fixture(scope="module")
def graphs(model: Path) -> Graphs:
    return Graphs(str(model))


def test_a_batch_gives_the_results_of_single_clicks(graphs: Graphs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with several clicks of a user in a batch, unknown items, more users than rows, and lists in parts."""
    monkeypatch.setattr(contenders, "SCORE_ROWS", 7)
    rng = np.random.default_rng(0)
    clicks = [
        contenders.Click(f"u{int(1_500 * rng.random() ** 4)}", f"i{rng.integers(60)}", 60_000 * number, "view")
        for number in range(3_000)
    ]
    users, batched = Users(graphs), []
    for start in range(0, len(clicks), 1_000):
        batched += users.process(clicks[start : start + 1_000])
    states: dict[str, State] = {}
    for click, found in zip(clicks, batched, strict=True):
        states[click.user_id], alone = graphs.one(click, states.get(click.user_id))
        assert same(judged(encode(alone)), judged(encode(found)))
    assert len(states) < len(clicks)
    assert {len(result.items) for result in batched} == {K}


def test_a_model_without_a_graph_for_the_surprise_is_an_earlier_one(model: Path, tmp_path: Path) -> None:
    """Format 1: step.onnx makes the surprise. Today's directories have both graphs."""
    assert type(open_graphs(str(model))) is Graphs
    shutil.copytree(model, tmp_path, dirs_exist_ok=True)
    (tmp_path / "surprise.onnx").unlink()
    assert type(open_graphs(str(tmp_path))) is EarlierGraphs


def test_eddy_is_compared_with_the_earlier_files_round_by_round() -> None:
    """The median of the ratios, not the ratio of the medians; a contender that did not run is left out."""

    def one(eddy: float, limit: float) -> dict[str, Measured]:
        speeds = {"limit": 1.0, "eddy": eddy, "limit_earlier": limit}
        return {name: Measured(speed, 1.0, 1.0, 0.0, 1.0) for name, speed in speeds.items()}

    found = earlier.ratios([one(30.0, 10.0), one(10.0, 5.0), one(90.0, 90.0)])
    assert found == {"limit_earlier": {"times": 2.0, "lowest": 1.0, "highest": 3.0}}
    assert len(earlier.table(found).splitlines()) == 2


def judged(value: bytes) -> Judged:
    return msgspec.json.decode(value, type=Judged)


def result(timestamp: int, items: list[str], log_probs: list[float], surprise: float = 1.0) -> bytes:
    return encode(Result("u", "i", timestamp, items, log_probs, surprise))


CLICKS = [Message(b"u", b"", timestamp) for timestamp in (10, 20, 30)]
RIGHT = [result(timestamp, ["a", "b"], [-1.0, -2.0]) for timestamp in (10, 20, 30)]


def test_right_results_pass() -> None:
    """In any order."""
    assert wrong(RIGHT[::-1], CLICKS, sample(RIGHT, CLICKS)) == []


def test_missing_repeated_and_foreign_results_are_counted() -> None:
    """Each kind has a line of its own."""
    assert uncounted(Counter([10, 10, 10, 40]), [10, 20, 30]) == [
        "2 clicks have no result",
        "2 results are repeated",
        "1 results belong to no click",
    ]


@pytest.mark.parametrize(
    ("items", "log_probs", "surprise", "equal"),
    [
        (["a", "b", "c"], [-1.0, -2.0, -2.0], 1.0, True),
        (["a", "c", "b"], [-1.0, -2.0, -2.0], 1.0, True),  # a tie
        (["a", "b", "d"], [-1.0, -2.0, -2.0], 1.0, True),  # a tie with the first item that is not in the list
        (["b", "a", "c"], [-1.0, -2.0, -2.0], 1.0, False),
        (["d", "b", "c"], [-1.0, -2.0, -2.0], 1.0, False),
        (["a", "b", "c"], [-1.0, -2.0, -2.1], 1.0, False),
        (["a", "b", "c"], [-1.0, -2.0, -2.0], 1.1, False),
        (["a", "b"], [-1.0, -2.0], 1.0, False),
    ],
)
def test_lists_are_equal_but_for_ties(items: list[str], log_probs: list[float], surprise: float, equal: bool) -> None:
    """Two items may only change places if their log-probabilities are equal."""
    reference = Judged(1, ["a", "b", "c"], [-1.0, -2.0, -2.0], 1.0)
    assert same(reference, Judged(1, items, log_probs, surprise)) == equal


def test_a_superseded_result_has_no_list_but_the_same_surprise() -> None:
    """Eddy with `--lists last` has one for each click, too; a list beside the id of the later click is an error."""
    reference = Judged(1, ["a", "b"], [-1.0, -2.0], 1.0)
    assert same(reference, Judged(1, [], [], 1.0, "clicks-0-2"))
    assert not same(reference, Judged(1, [], [], 1.1, "clicks-0-2"))
    assert not same(reference, Judged(1, ["a", "b"], [-1.0, -2.0], 1.0, "clicks-0-2"))
    assert not same(reference, Judged(1, [], [], 1.0))
    values = [encode({"timestamp": 1, "items": [], "log_probs": [], "surprise": 1.0, **more}) for more in LATER]
    assert clicks_per_list(values) == 1.5


LATER = ({}, {"superseded_by": "clicks-0-2"}, {})


def test_a_list_that_differs_is_reported() -> None:
    """With the timestamp of its click."""
    other = [result(10, ["b", "a"], [-1.0, -2.0]), *RIGHT[1:]]
    assert wrong(other, CLICKS, sample(RIGHT, CLICKS)) == ["1 of 1 results differ from the limit's, first at 10"]


def test_a_run_without_a_comparison_is_wrong() -> None:
    """Results that nobody compared prove nothing."""
    assert wrong(RIGHT, CLICKS, {}) == ["no result could be compared with the limit's"]


def test_cpu_times_are_read_from_proc() -> None:
    """A process's name may hold spaces and parentheses; guest time is part of user time."""
    assert parse_stat("7 (a) b) S 3 7 7 0 -1 0 1 2 3 4 50 25 9 9 20 0") == (7, 3, 75)
    assert busy_ticks("cpu  10 1 5 900 90 2 3 4 8 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n") == 25
    assert descendants({1: 0, 2: 1, 3: 2, 4: 1, 5: 9}, 2) == {2, 3}
    assert descendants({1: 0}, 9) == set()


def test_each_contender_runs_at_another_place_in_each_round() -> None:
    """The limit is first in the first round, because the others are compared with it."""
    names = list(CONTENDERS)
    assert order(names, 0)[0] == "limit"
    orders = [order(names, number) for number in range(len(names))]
    assert all(len({one.index(name) for one in orders}) == len(names) for name in names)


def test_medians_and_shares_of_the_limit() -> None:
    """A share is that of one round, so a machine that is slower in a round does not change it."""
    rounds = [
        {"limit": Measured(speed, 100.0, 10.0, 0.5, 1.0), "eddy": Measured(speed * share, 150.0, 20.0, 0.5, 2.0)}
        for speed, share in ((1_000.0, 0.5), (100.0, 0.7), (2_000.0, 0.6))
    ]
    found = figures(rounds)
    assert found["limit"]["clicks_per_s"] == 1_000
    assert found["eddy"] == {
        "clicks_per_s": 500,
        "of_limit": 0.6,
        "of_limit_lowest": 0.5,
        "of_limit_highest": 0.7,
        "cpu_us": 150.0,
        "kafka_cpu_us": 20.0,
        "others_cores": 0.5,
        "clicks_per_list": 2.0,
    }
    assert len(table(found).splitlines()) == 3


def test_the_gain_of_lists_for_last_clicks_is_that_of_a_round() -> None:
    """A machine that is slower in one round does not change it."""
    rounds = [
        {"eddy": Measured(speed, 100.0, 10.0, 0.5, 1.0), "eddy_last": Measured(speed * gain, 50.0, 10.0, 0.5, 4.0)}
        for speed, gain in ((1_000.0, 1.5), (100.0, 1.7), (2_000.0, 1.6))
    ]
    found = lists.figures(rounds)
    assert (found["gain"], found["gain_lowest"], found["gain_highest"]) == (1.6, 1.5, 1.7)
    assert (found["clicks_per_list"], found["eddy_cpu_us"], found["eddy_last_cpu_us"]) == (4.0, 100.0, 50.0)
    assert lists.table({"500": found}).splitlines()[1].split() == ["500", "4.00", "1.60", "1.50", "1.70", "100", "50"]


def test_the_model_part_reads_the_clicks() -> None:
    """The fields that it does not need are left out."""
    click = made_up(1)[0]
    assert decode(click.value).timestamp == click.timestamp


def test_every_stage_of_eddy_is_timed(model: Path) -> None:
    """Each name of the table is a time, and the rest is what the worker's process used beyond them."""
    found = one_pass(load_model(model, "cpu"), model, made_up(50))
    assert list(found) == list(STAGES)
    assert all(us >= 0 for us in found.values())
    assert with_rest({"a": 10.0, "b": 20.0}, 50.0) == {"a": 10.0, "b": 20.0, REST: 20.0}


def test_a_stopwatch_adds_up_calls() -> None:
    """And gives back what the function gives, also if it fails."""
    watch = Stopwatch()
    timed = watch.around("divide", lambda a, b: a / b)
    assert timed(6, b=3) == 2
    with pytest.raises(ZeroDivisionError):
        timed(1, 0)
    assert watch.began["divide"] <= watch.ended["divide"]
