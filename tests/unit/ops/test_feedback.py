"""`eddy feedback` reads times as people write them, and `eddy calibrate` counts what the verdicts say."""

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from stream.errors import ConfigError
from stream.events import Anomaly
from stream.feedback import Feedback
from stream.ops.cli import eddy
from stream.ops.feedback import _lines, effect, until, verdicts_among
from stream.population.precision import Precision, Report, report, wilson

NOW_MS = 1_760_000_000_000


def alert(number: int, p_value: float, statistic: str = "rate", episode: int | None = None) -> Anomaly:
    opened = number if episode is None else episode
    values: dict[str, Any] = {"item_id": "i1", "event_type": "view", "timestamp": NOW_MS, "reason": "", "score": 4.0}
    values |= {"pool": "1 click", "pool_size": 1_000, "expected": [], "model": "shop/1", "threshold": 0.01}
    values |= {"surprise": 1.0, "id": f"clicks-0-{number}", "episode": f"clicks-0-{opened}"}
    return Anomaly(user_id="ann", p_value=p_value, statistics={statistic: p_value} if statistic else {}, **values)


def said(number: int, verdict: str, timestamp: int = NOW_MS) -> Feedback:
    return Feedback(f"clicks-0-{number}", "ann", f"clicks-0-{number}", verdict, timestamp)


def judged(alerts: list[Anomaly], verdicts: dict[int, bool]) -> Report:
    """verdicts  by the number of the alert"""
    return report(alerts, {f"clicks-0-{number}": (NOW_MS, verdict) for number, verdict in verdicts.items()})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30m", NOW_MS + 1_800_000),
        ("8h", NOW_MS + 28_800_000),
        (" 7 d ", NOW_MS + 604_800_000),
        ("2026-12-31T00:00:00", 1_798_675_200_000),
        ("2026-12-31T01:00:00+01:00", 1_798_675_200_000),
        ("2026-12-31", 1_798_675_200_000),
        ("off", 0),
    ],
)
def test_a_time_is_a_duration_or_a_date(text: str, expected: int) -> None:
    """A date without an offset is UTC, and a duration counts from now."""
    assert until(text, NOW_MS) == expected


@pytest.mark.parametrize("text", ["", "7", "7w", "tomorrow", "-1d", "1960-01-01", "2107-01-01", "999999d"])
def test_another_time_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--quiet is .*it must be a duration such as"):
        until(text, NOW_MS)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--statistic", "speed", "--quiet", "1d"], "none of clicks, event types"),
        (["--statistic", "rate"], "needs --quiet"),
        (["--statistic", "rate", "--quiet", "off"], "needs --quiet"),
        (["--note", "caf\udce9", "--quiet", "1d"], "'caf\\udce9' is not UTF-8"),
        (["--by", "\udcff"], "is not UTF-8"),
    ],
)
def test_options_are_checked_before_anything_is_written(options: list[str], why: str) -> None:
    done = CliRunner().invoke(eddy, ["feedback", "clicks-0-1", "false", *options, "--broker", "localhost:1"])
    assert isinstance(done.exception, ConfigError)
    assert why in str(done.exception)


def test_a_time_that_is_over_is_said_to_be_over() -> None:
    """A mistyped year would end an earlier request in silence; a worker that catches up may need such a time."""
    assert effect(NOW_MS + 1, NOW_MS, ["rate"]).startswith("no alerts for rate on clicks before 20")
    assert "over" not in effect(NOW_MS + 1, NOW_MS, [])
    assert effect(NOW_MS - 1, NOW_MS, []).endswith("; that time is over, so clicks from now on have alerts as ever")
    assert effect(0, NOW_MS, []) == "alerts as ever"


def test_of_several_verdicts_on_an_alert_the_last_one_counts(capsys: pytest.CaptureFixture[str]) -> None:
    """What is no feedback is counted."""
    records: list[Any] = [said(1, "true"), said(1, "false", NOW_MS + 1), said(2, "true"), said(3, "perhaps"), {}]
    messages = [SimpleNamespace(value=lambda one=one: msgspec.json.encode(one)) for one in records]
    assert verdicts_among(messages) == {"clicks-0-1": (NOW_MS + 1, False), "clicks-0-2": (NOW_MS, True)}
    assert "2 messages left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("true", "count", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (81, 263, 0.2553, 0.3662), (10, 10, 0.7225, 1.0), (0, 0, 0.0, 1.0)],
)
def test_the_interval_is_that_of_wilson(true: int, count: int, low: float, high: float) -> None:
    """81 of 263 is an example of Newcombe 1998."""
    assert wilson(true, count) == pytest.approx((low, high), abs=5e-5)


def test_an_episode_counts_once() -> None:
    """With the statistic of its first alert, and a verdict on any of its alerts; others are not judged."""
    found = judged([alert(1, 1e-3), alert(2, 1e-5, "twins", 1), alert(9, 1e-3), alert(12, 2e-3, "")], {2: True})
    assert list(found.statistics) == ["rate", "none by itself"]
    assert found.statistics["rate"][:4] == (3, 2, 1, 0)
    assert found.statistics["none by itself"] == Precision(1, 1, 0, 0, 0.0, 1.0)
    assert (found.all.alerts, found.all.episodes, found.missing) == (4, 3, 0)


def test_another_alpha_is_proposed_where_it_leaves_out_false_alerts() -> None:
    """It keeps 95 % of the true episodes, each with the smallest p-value of its alerts."""
    true = [alert(n, 1e-6) for n in range(19)] + [alert(19, 8e-3)]
    false = [alert(n, 4e-3) for n in range(20, 30)] + [alert(30, 1e-8)]
    found = judged([*true, *false], {n: n < 20 for n in range(31)})
    assert [tuple(one[1:]) for one in found.choices] == [(20, 11), (19, 11), (19, 1), (0, 1), (0, 0)]
    assert [one.alpha for one in found.choices] == pytest.approx([0.01, 0.005, 0.002, 5e-7, 5e-9])
    assert found.proposed == pytest.approx(0.002)
    assert "proposed: --alpha 0.002" in _lines(found)[-1]


def test_without_a_reason_no_alpha_is_proposed() -> None:
    """Nobody has judged; or all false ones are as unusual as the true ones; or all are true, or false."""
    assert "no episode is judged" in _lines(judged([alert(1, 1e-3)], {}))[-1]
    assert judged([alert(1, 1e-6), alert(2, 1e-6)], {1: True, 2: False}).proposed is None
    assert judged([alert(1, 1e-6)], {1: True}).proposed is None
    assert judged([alert(1, 1e-3), alert(2, 1e-6)], {1: False, 2: False}).proposed is None


def test_a_verdict_on_an_alert_that_is_gone_is_counted() -> None:
    assert judged([], {1: True}).missing == 1
    assert any(line.startswith("1 verdicts are on alerts") for line in _lines(judged([], {1: True})))
