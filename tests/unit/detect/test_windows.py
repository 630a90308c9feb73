"""What a row keeps of a user's last clicks, and the statistics of it, against plain lists."""

import itertools
import math
import statistics as statistics_
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stream.detect.statistics import (
    NONE,
    STATISTICS,
    begins_run,
    erlang,
    fill_class,
    regularity,
    sentence,
    statistics,
    usually,
)
from stream.detect.windows import (
    LAST,
    LATE,
    NO_GAP,
    PER_NAT,
    TWIN_MS,
    WINDOWS,
    Sequence,
    Windows,
    add_excess,
    log_gap,
    slide,
    starts_of,
)
from stream.model.gaps import SESSION_GAP_MS
from stream.state.row import row_dtype

ITEMS = 6
CATEGORY = np.array([0, 0, 1, 1, -1, 1, -1], np.int32)  # of items 0 to 5, and of the unknown item

CLICKS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, ITEMS), st.sampled_from([0, 200, 1_000, 1_001, 30_000, 10**12])),
    max_size=60,
)
"""(user, item, gap in ms)"""


def of_session(clicks: list[tuple[int, int, int]], at: int) -> list[tuple[int, int]]:
    """(item, gap) of the clicks of the session of click `at` up to it, newest first. The first one has NO_GAP."""
    found: list[tuple[int, int]] = []
    for user, item, gap in clicks[: at + 1]:
        if user == clicks[at][0]:
            found = [(item, NO_GAP)] if gap >= SESSION_GAP_MS or not found else [(item, gap), *found]
    return found


def regular(gaps: list[int]) -> float:
    """How little gaps differ: the number of them less one, times -log of the standard deviation of their logarithms."""
    if len(gaps) < 4:
        return NONE
    logs = [round(math.log(gap + 20) * PER_NAT) / PER_NAT for gap in gaps]
    noise = 500 / math.exp(statistics_.mean(logs))
    return (1 - len(gaps)) * math.log(math.hypot(statistics_.pstdev(logs), noise) + 1e-3)


def observed(clicks: list[tuple[int, int, int]], cuts: list[int]) -> tuple[list[list[float]], bytes]:
    """The statistics of the clicks, in batches that end at the cuts, and the windows of the rows at the end."""
    rows = np.zeros(3, row_dtype((), 0, WINDOWS))
    found: list[list[float]] = []
    items: list[list[int]] = [[], [], []]
    for start, end in zip([0, *cuts], [*cuts, len(clicks)], strict=True):
        part = clicks[start:end]
        before = {field.name: rows[field.name].copy() for field in WINDOWS}
        earlier, recent = [], []
        for user, item, _ in part:
            earlier.append(len(items[user]))
            items[user].insert(0, item)
            recent.append((items[user] + [-1] * LAST)[:LAST])
        owner = np.array([user for user, _, _ in part], np.intp)
        np.add.at(rows["clicks"], owner, 1)
        gap_ms = np.array([NO_GAP if e == 0 else gap for e, (_, _, gap) in zip(earlier, part, strict=True)], np.int64)
        last = np.array(recent, np.int32).reshape(-1, LAST)
        nats = np.array([item / 3 for _, item, _ in part], np.float64)
        sequence, starts = Sequence(owner, len(rows)), starts_of(np.array(earlier, np.int64), gap_ms)
        windows = slide(
            before, rows, sequence, starts, nats, nats.astype(np.float32) / 2, gap_ms,
            begins_run(last, CATEGORY), last[:, 0] == last[:, 1],
        )  # fmt: skip
        excess = add_excess(before, rows, sequence, starts, np.array([item for _, item, _ in part], np.int64))
        found += np.column_stack([statistics(windows, last, ITEMS), excess]).tolist()
    return found, rows.tobytes()


@given(CLICKS, st.data())
def test_statistics_and_rows_do_not_depend_on_the_batches(
    clicks: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    """One batch, batches of one click, or any others: equal to the last bit."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(clicks)), max_size=4)))
    whole = observed(clicks, [])
    assert observed(clicks, cuts) == whole
    assert observed(clicks, list(range(len(clicks)))) == whole


@given(CLICKS)
@example([(0, 1, 0), (0, 2, 10**12), *[(0, n % ITEMS, 30_000) for n in range(5)]])  # the pause is no gap of the session
def test_statistics_are_those_of_the_last_clicks(clicks: list[tuple[int, int, int]]) -> None:
    """Each one, counted over the user's last ten clicks or over the session."""
    found, _ = observed(clicks, [])
    for at, values in enumerate(found):
        every = of_session(clicks, at)
        last = every[:LAST]
        items, gaps = [item for item, _ in last], [gap for _, gap in last[:-1]]
        its = dict(zip([*STATISTICS, "excess"], values, strict=True))
        assert its["excess"] == sum(item for item, _ in every)
        nats = [min(3.0, round(item / 3 * PER_NAT) / PER_NAT) for item in items]
        assert its["clicks"] == np.float32(erlang(np.array([sum(nats)]), np.array([len(nats)]))[0])
        assert its["event types"] == sum(round(item / 6 * PER_NAT) for item in items) / PER_NAT
        known = Counter(item for item in items if item != ITEMS)
        assert its["one item"] == max(known.values(), default=0)
        twins = sum(a[0] == b[0] and 0 <= a[1] <= TWIN_MS for a, b in itertools.pairwise(every))
        assert its["twins"] == twins
        for name, between in (("regular gaps", gaps), ("steady pace", [gap for _, gap in every[:-1]])):
            assert its[name] == pytest.approx(regular(between), rel=1e-5, abs=1e-5)
        assert (its["rate"] == NONE) == (not gaps)
        whole = [item for user, item, _ in clicks[: at + 1] if user == clicks[at][0]][::-1]
        run = 1
        for (one, _), (other, _) in itertools.pairwise(every):
            if one in whole[run : run + LAST - 1] or CATEGORY[one] < 0 or CATEGORY[one] != CATEGORY[other]:
                break
            run += 1
        assert its["category run"] == run


def test_equal_gaps_are_more_regular_and_short_ones_are_faster() -> None:
    """A metronome of 30 s against a person; a scraper of 1 s against both. Times differ by a clock's milliseconds."""
    rng = np.random.default_rng(0)
    gaps = np.array([rng.normal(30_000, 10, 12), 30_000 * np.exp(rng.normal(0, 0.6, 12)), rng.normal(1_000, 400, 12)])
    clicks = [(user, n % 5, int(gap)) for n, column in enumerate(gaps.T) for user, gap in enumerate(column)]
    found, _ = observed(clicks, [])
    metronome, person, scraper = (dict(zip(STATISTICS, values, strict=False)) for values in found[-3:])
    assert metronome["regular gaps"] > 2 * person["regular gaps"] + 10
    assert scraper["rate"] > max(metronome["rate"], person["rate"]) + 10


@given(st.integers(1, LAST), st.floats(0, 60))
def test_the_sum_of_exponential_numbers_has_its_own_probability(count: int, total: float) -> None:
    """Against the sum of the Poisson probabilities of fewer than `count` events."""
    (found,) = erlang(np.array([total]), np.array([count]))
    exact = sum(math.exp(-total) * total**k / math.factorial(k) for k in range(count))
    assert math.isclose(math.exp(-found), exact, rel_tol=1e-9)


def test_users_are_compared_with_those_of_about_as_many_clicks() -> None:
    """From the first click to a full window."""
    assert fill_class(np.arange(1, LAST + 1)).tolist() == [0, 1, 2, 3, 3, 4, 4, 5, 5, 6]


def test_sums_go_on_over_batches() -> None:
    """A sum that began in the batch before goes on; a start begins a new one, with the click's own value."""
    sequence = Sequence(np.array([0, 1, 0, 0]), 3)
    starts, values = np.array([False, True, False, True]), np.array([[1, 1], [1, 5], [1, 10], [1, 3]])
    sums, after = sequence.sums(np.array([[4, 4], [7, 7], [2, 2]]), starts, values)
    assert sums.tolist() == [[5, 5], [1, 5], [6, 15], [1, 3]]
    assert after.tolist() == [[1, 3], [1, 5], [2, 2]]


def test_gaps_of_a_coarse_clock_are_short_and_not_regular() -> None:
    """Ten gaps of one or two seconds are equal by chance with a clock of whole seconds; ten of 30 s are not."""
    short, long = (log_gap(np.full((1, 10), gap_ms)) for gap_ms in (1_000, 30_000))
    found = [regularity(np.array([10]), logs.sum(1), (logs**2).sum(1))[0] for logs in (short, long)]
    assert found[0] < 10 < 30 < found[1]


def test_the_regularity_of_a_long_session_is_that_of_its_gaps() -> None:
    """A bot that clicks for weeks within one session: the sums are larger than a float's whole numbers."""
    logs = log_gap(np.array([29_000, 31_000]))
    count, pairs = 10_000_000, 5_000_000
    found = regularity(np.array([count]), pairs * logs.sum(keepdims=True), pairs * (logs**2).sum(keepdims=True))
    spread = math.hypot(np.std(logs / PER_NAT), 500 / math.exp(logs.mean() / PER_NAT))
    assert found[0] == pytest.approx((1 - count) * math.log(spread + 1e-3), rel=1e-6)


def sums(run: int, twins: int = 0, gaps: int = 0, logs: int = 0) -> list[np.ndarray]:
    """The sums of one click's session, as the last fields of Windows."""
    values = [run, twins, gaps, logs, logs * logs // max(1, gaps)]
    return [np.array([value]) for value in values]


def test_every_statistic_has_a_sentence_with_its_figures() -> None:
    """An analyst reads what was seen, not its logarithm."""
    gaps = np.array([[2_000] * 4 + [NO_GAP] + [0] * 5], np.int32)
    zeros = np.zeros((1, LAST), np.int16)
    windows = Windows(np.array([5]), zeros, zeros, gaps, *sums(run=3, twins=6, gaps=40, logs=40 * 2_000))
    words = {name: sentence(name, 4.0, windows, 0) for name in STATISTICS}
    assert len(set(words.values())) == len(STATISTICS)
    assert words["rate"] == "the last 5 clicks came every 2 s"
    assert words["one item"] == "4 of the last 5 clicks were on one item"
    assert words["twins"] == "clicks of the session that repeat the click before within 1 s: 6"
    assert words["steady pace"] == "40 intervals between the clicks of the session were nearly equal, about 2.47 s"
    assert words["category run"] == "4 clicks in a row were on different items of one category"


def test_a_sentence_says_what_is_usual_where_that_has_a_unit() -> None:
    """A rate is that of as many gaps: of four gaps of 30 s the statistic is 0, whatever the clock's step is."""
    assert [usually(name, 0.0, 4) for name in ("rate", "one item", "clicks", "regular gaps")] == [
        "; usual are 30 s", "; usual are 0", "", "",
    ]  # fmt: skip
    assert usually("rate", 4 * np.log(10), 4) == "; usual are 2.98 s"  # 3 s less the step of the clock
    assert usually("category run", 2.2, 0) == "; usual are 2"
    assert usually("rate", 90.0, 9) == "; usual are 0 s"  # no time is below zero


def test_clicks_that_come_late_are_not_those_of_a_bot() -> None:
    """How long the user took before them is not known: they are neither regular nor fast, and no twins."""
    gaps = {name: np.full((1, LAST), gap, np.int32) for name, gap in (("late", LATE), ("at once", 0))}
    none, same = np.zeros((1, LAST), np.int16), np.zeros((1, LAST), np.int32)
    found = {
        name: statistics(Windows(np.array([LAST]), none, none, of, *sums(run=1)), same, ITEMS)[0]
        for name, of in gaps.items()
    }
    timed = [STATISTICS.index(name) for name in ("regular gaps", "rate")]
    assert found["late"][timed].tolist() == [NONE, NONE]
    assert (found["at once"][timed] > NONE).all()
    late, soon = (observed_gaps([NO_GAP] + [gap] * 5) for gap in (LATE, 0))
    assert (late["twins"], late["steady pace"]) == (0, NONE)
    assert (soon["twins"], soon["steady pace"]) == (5, pytest.approx(regular([0] * 5), rel=1e-5))


def observed_gaps(gaps_ms: list[int]) -> dict[str, float]:
    """The statistics after clicks of one user on item 1 with these gaps."""
    n = len(gaps_ms)
    rows = np.zeros(1, row_dtype((), 0, WINDOWS))
    before = {field.name: rows[field.name].copy() for field in WINDOWS}
    rows["clicks"] = n
    recent = np.where(np.arange(LAST) <= np.arange(n)[:, None], 1, -1).astype(np.int32)
    zeros = np.zeros(n)
    windows = slide(
        before, rows, Sequence(np.zeros(n, np.intp), 1), starts_of(np.arange(n), np.array(gaps_ms)), zeros,
        zeros.astype(np.float32), np.array(gaps_ms), begins_run(recent, CATEGORY), recent[:, 0] == recent[:, 1],
    )  # fmt: skip
    return dict(zip(STATISTICS, statistics(windows, recent, ITEMS)[-1].tolist(), strict=True))
