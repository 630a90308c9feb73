"""What a training prints where there is no terminal, such as in a log file."""

import pytest

from export.progress import Bar


def test_without_a_terminal_each_task_prints_a_line_when_it_begins(capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody has to guess what a long step does: its line comes before it, once, and nothing else is printed."""
    with Bar() as bar:
        bar.begin("epoch 1/2", 30_000)
        before = capsys.readouterr().err
        bar.seen(10_000)
        bar.seen(20_000)
        bar.say("epoch 1: loss 5.1")
    assert before == "epoch 1/2: 30,000 clicks\n"
    assert capsys.readouterr() == ("", "epoch 1: loss 5.1\n")


def test_what_is_counted_has_its_own_noun(capsys: pytest.CaptureFixture[str]) -> None:
    """Not every message is a click."""
    with Bar("messages") as bar:
        bar.begin("reading clicks", 2_000)
    assert capsys.readouterr().err == "reading clicks: 2,000 messages\n"
