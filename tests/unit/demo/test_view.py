"""The live page on a recording console of 100 by 30 characters, and of 80."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from stream.demo.simulate import Simulated
from stream.demo.tally import Tally
from stream.demo.view import LiveView, Scene, device_in_words
from stream.events import Anomaly, Click, DeadLetter, Expected, Recommendation
from stream.trigger import Trigger


def sample() -> Tally:
    """Two clicks of a user, the second of them recommended; a true alert, a false one, a dead letter."""
    tally = Tally(k=2)
    for timestamp, item in ((1_000, "boots-a1"), (2_000, "socks-k2")):
        tally.sent(
            Simulated(timestamp, 0, Click("user-7", item, timestamp), "scraper" if timestamp == 2_000 else ""), 1.0
        )
        decision = Recommendation(
            f"clicks-0-{timestamp}", "user-7", item, timestamp, ["hats-n1", "socks-k2"], [-1.0, -2.0], 1.0, 0.5,
            "shop/1", next={"view": 0.9}, leaves=0.1,
        )  # fmt: skip
        tally.decided(decision, 1.042)
        expected = [Expected("tents-v1", 0.4)]
        user = "user-7" if timestamp == 2_000 else "user-8"
        tally.alerted(
            Anomaly(
                "i",
                user,
                item,
                "view",
                timestamp,
                "i",
                "why",
                12.0,
                2e-4,
                3.7,
                1e-3,
                {},
                "1 click",
                9,
                expected,
                "shop/1",
            )
        )
    for n, bought in enumerate((False, True)):
        tally.intents.over(0.25 + n / 2, bought)
    tally.carts.over(["clicks-0-1"], True)
    tally.carts.over(["clicks-0-2"], True)
    tally.carts.fired(Trigger("clicks-0-2-end:cart", "user-9", "cart", "abandoned", 1, "treated", [], "why", "shop/1"))
    tally.rejected(DeadLetter("i", "not_json", "", "clicks", 0, 0, 0, None, None, 0, 0))
    return tally


PAGE = "http://127.0.0.1:54321/"


def drawn(tally: Tally, width: int = 100, height: int = 30) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, width=width, height=height, force_terminal=False, color_system=None)
    view = LiveView(Scene(model="shop/1", k=2, rate=400.0), console)
    with view:
        view.show(tally, 1.0, SimpleNamespace(provider="CPUExecutionProvider", page=PAGE))
    return out.getvalue().rstrip("\n").splitlines()


def test_the_page_shows_hits_truth_latency_reasons_and_device_in_100_by_30() -> None:
    """All important figures are on one page of this size."""
    lines = drawn(sample())
    page = "\n".join(lines)
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 100
    for words in (
        "shop/1 on the CPU",
        PAGE,
        "p50 42 ms",
        "not_json 1",
        "hit no. 2",
        "socks-k2",
        "not tents-v1",
        "true: scraper",
        "false alarm",
        "1 of 2 alerts were true",
        "100.0 %",
    ):
        assert words in page, words


def test_80_columns_are_enough_for_all_figures() -> None:
    """What was said of users, what they did, and what was missed; no line is cut."""
    lines = drawn(sample(), width=80)
    page = "\n".join(lines)
    assert (len(lines), max(map(len, lines))) == (30, 80)
    for words in (
        "said right 100.0 % (most common: 100.0 %), log loss 0.11",
        "top tenth, from 0.75 on: 100.0 % bought (all: 50.0 %), lift 2.0",
        "1 of 1 said before, 0 missed; 0 said, not bought",
        "cart 1",
        "1 of 2 found, 1 missed; 0 triggers for a cart that was bought",
        "1 of 1 bots and thieves found so far",
    ):
        assert words in page, words


@pytest.mark.parametrize("height", [17, 20, 23, 24, 25, 29, 40])
def test_no_part_of_the_page_is_cut_in_a_lower_terminal(height: int) -> None:
    """In 25 rows the lists are shorter, and the last one ends; below 24 rows one part is left out as a whole."""
    lines = drawn(sample(), height=height)
    assert len(lines) <= height
    parts = [line for line in lines if line.startswith("╭")]
    assert len(parts) == len([line for line in lines if line.startswith("╰")]) == (4 if height >= 24 else 3)
    assert "Alerts" in parts[-1]
    page = "\n".join(lines)
    for words in ("not_json 1", "1 of 1 bots and thieves", "hit no. 2", "true: scraper"):
        assert words in page, words


def test_a_page_before_the_first_decision_can_be_drawn() -> None:
    """The page can be drawn without any figures."""
    assert "Eddy" in drawn(Tally(k=20))[0]


def test_the_device_is_shown_in_plain_words() -> None:
    """The page shows CPU or GPU instead of the name of an execution provider."""
    assert device_in_words("CPUExecutionProvider") == "on the CPU"
    assert device_in_words("CUDAExecutionProvider") == "on the GPU (CUDA)"
    assert device_in_words("") == "the worker is starting"
