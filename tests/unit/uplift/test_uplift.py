"""The report on triggers: treated against control, on simulated logs whose effect is known."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from stream.errors import ConfigError
from stream.events import Session
from stream.trigger import Trigger
from stream.triggers.rules import DAY_MS, HOUR_MS, Rule
from stream.uplift import command
from stream.uplift.estimate import FEWEST, estimate, newcombe
from stream.uplift.outcomes import ClosedSessions, effect, first_triggers

NOW_MS = 1_760_000_000_000
BASE, EFFECT = 0.10, 0.06
"""Share of buyers without a trigger among users without history, and what the trigger adds."""


def message(event: Any) -> SimpleNamespace:
    encoded = msgspec.json.encode(event)
    return SimpleNamespace(value=lambda: encoded)


def trigger(user: str, group: str = "treated", at_ms: int = NOW_MS, rule: str = "cart") -> SimpleNamespace:
    return message(Trigger(f"c-0-{user}:{rule}", user, rule, "abandoned", at_ms, group, [], "why", "m/1"))


def session(
    user: str, started_ms: int, events: dict[str, int], last_ms: int = 0, phase: str = "closed", revision: int = 0
) -> SimpleNamespace:
    id_ = f"c-0-{user}-{started_ms}"
    last_ms = last_ms or started_ms + 60_000
    return message(Session(id_, user, phase, last_ms, started_ms, 1, events, "m/1", revision))


def simulated(users: int, seed: int) -> tuple[list[SimpleNamespace], list[SimpleNamespace]]:
    """Triggers and sessions. Who has bought before buys again three times as often; the trigger adds EFFECT."""
    rng = np.random.default_rng(seed)
    triggers, sessions = [], [session("other", NOW_MS + 30 * DAY_MS, {"view": 1})]
    for n in range(users):
        user, treated, loyal = f"u{n}", rng.random() < 0.5, rng.random() < 0.5
        triggers.append(trigger(user, "treated" if treated else "control"))
        if loyal:
            sessions += [session(user, NOW_MS - k * DAY_MS, {"purchase": 1}) for k in (1, 2)]
        buys = rng.random() < (4 * BASE if loyal else BASE) + EFFECT * treated
        sessions.append(session(user, NOW_MS + DAY_MS, {"purchase": 1} if buys else {"view": 2}))
    return triggers, sessions


def reported(triggers: list[SimpleNamespace], sessions: list[SimpleNamespace], rule: Rule) -> Any:
    firsts, _ = first_triggers(triggers)
    closed = ClosedSessions(frozenset(firsts[rule.name]))
    closed.read(sessions)
    return effect(rule, firsts[rule.name], closed)


def test_a_known_effect_is_in_the_intervals_as_often_as_they_say() -> None:
    """Of 120 simulated rules; a 95 % interval may miss it in 12 of them (once in 80 such tests: binomial)."""
    rule = Rule("cart", "abandoned")
    found = [reported(*simulated(400, seed), rule).estimate for seed in range(120)]
    for name in ("difference", "cuped"):
        intervals = [getattr(one, name) for one in found]
        assert sum(not low <= EFFECT <= high for _, low, high in intervals) <= 12
        assert abs(float(np.mean([value for value, _, _ in intervals])) - EFFECT) < 0.012
    wide = {
        name: np.mean([getattr(one, name).high - getattr(one, name).low for one in found])
        for name in ("difference", "cuped")
    }
    assert wide["cuped"] < 0.97 * wide["difference"]
    assert all(one.variance < 1 for one in found)


def test_the_interval_is_newcombes() -> None:
    """Example (a) of his paper's table II: 56/70 - 48/80, method 10."""
    assert [round(value, 4) for value in newcombe(56, 70, 48, 80)] == [0.2, 0.0524, 0.3339]


def test_without_history_there_is_no_cuped() -> None:
    treated = np.arange(200) % 2 == 0
    found = estimate(treated, np.arange(200) % 3 == 0, np.zeros(200))
    assert found.difference is not None
    assert (found.cuped, found.variance) == (None, None)


@pytest.mark.parametrize("control", [0, 1, FEWEST - 1, FEWEST])
def test_too_few_users_give_no_difference(control: int) -> None:
    """And no division by zero."""
    triggers = [trigger(f"t{n}") for n in range(100)] + [trigger(f"c{n}", "control") for n in range(control)]
    rule = Rule("cart", "abandoned", control=0.5)
    found = reported(triggers, [session("x", NOW_MS + 9 * DAY_MS, {})], rule)
    assert (found.estimate.treated, found.estimate.control) == (100, control)
    assert (found.estimate.difference is not None) == (control == FEWEST)
    said = "\n".join(command._lines(found))
    assert ("too few users" in said) == (control < FEWEST)


@pytest.mark.parametrize(("kind", "shown"), [("abandoned", True), ("", False)])
def test_a_rule_without_a_control_group_is_not_said_to_have_too_few_users(kind: str, shown: bool) -> None:
    """More users would change nothing. Without the file, the report does not know whether it has one."""
    triggers = [trigger(f"t{n}") for n in range(100)]
    found = reported(triggers, [session("x", NOW_MS + 9 * DAY_MS, {})], Rule("cart", kind))
    said = "\n".join(command._lines(found))
    assert ("the rule has no control group, such as control = 0.1" in said) is shown
    assert ("too few users" in said) is not shown


def test_what_counts_as_outcome() -> None:
    """A session that begins after the first trigger and within the window, with the rule's event, in its last
    revision."""
    rule = Rule("cart", "abandoned", outcome="order", window_ms=2 * DAY_MS)
    sessions = [
        session("in", NOW_MS + 2 * DAY_MS, {"order": 1}),
        session("before", NOW_MS - HOUR_MS, {"order": 1}, last_ms=NOW_MS + HOUR_MS),
        session("at", NOW_MS, {"order": 1}),
        session("late", NOW_MS + 2 * DAY_MS + 1, {"order": 1}),
        session("other", NOW_MS + HOUR_MS, {"purchase": 1}),
        session("opened", NOW_MS + HOUR_MS, {"order": 1}, phase="opened"),
        session("revised", NOW_MS + HOUR_MS, {"view": 1, "order": 1}, revision=1),
        session("revised", NOW_MS + HOUR_MS, {"view": 1}),
        session("again", NOW_MS + 3 * DAY_MS, {"order": 1}),  # in the window of the second trigger only
    ]
    users = ["in", "before", "at", "late", "other", "opened", "revised", "again"]
    triggers = [trigger(user) for user in users] + [trigger("again", at_ms=NOW_MS + 2 * DAY_MS)]
    triggers += [trigger("waits", at_ms=NOW_MS + 2 * DAY_MS)]
    found = reported(triggers, sessions, rule)
    assert found.waiting == 1
    assert found.estimate.treated == len(users)
    assert math.isclose(found.estimate.treated_share, 2 / len(users))


def test_the_command_prints_each_rule(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """With outcome and window of the file; a rule that is not in it has those that the help says."""
    triggers, sessions = simulated(400, 1)
    triggers += [trigger("u1", rule="gone"), SimpleNamespace(value=lambda: b"no json")]
    topics = {"triggers": triggers, "sessions": sessions}
    monkeypatch.setattr(command, "messages_shown", lambda broker, topic, config: topics[topic])
    monkeypatch.setattr("stream.access.rights.check_access", lambda *_, **__: None)
    file = tmp_path / "t.toml"
    rule = 'kind = "abandoned"\nhas = ["cart"]\nwindow = "3d"\ncontrol = 0.5\n'
    file.write_text(f'[[trigger]]\nname = "cart"\n{rule}[[trigger]]\nname = "silent"\n{rule}')
    done = CliRunner().invoke(command.triggers, ["report", "--triggers", str(file)])
    assert done.exit_code == 0, done.output
    for line in ("cart: purchase within 3d", "by CUPED: +", "gone: purchase within 7d", "1 messages left out"):
        assert line in done.output
    assert done.output.endswith("silent: purchase within 3d\n  no trigger of this rule\n")  # not left out
    done = CliRunner().invoke(command.triggers, ["report", "--json"])
    found = json.loads(done.output.splitlines()[-1])
    assert found["cart"]["outcome"] == "purchase"
    assert found["cart"]["window_ms"] == 7 * DAY_MS
    assert found["cart"]["difference"]["low"] < EFFECT < found["cart"]["difference"]["high"]
    assert found["gone"]["difference"] is None


def test_check_says_each_rule_in_words(tmp_path: Any) -> None:
    file = tmp_path / "t.toml"
    file.write_text(
        '[[trigger]]\nname = "cart"\nkind = "abandoned"\nhas = ["cart"]\nwithout = ["purchase"]\ncooldown = "3d"\n'
        'quiet_hours = ["21:00", "08:00"]\ntimezone = "Europe/Berlin"\nconsent = true\ncontrol = 0.1\n'
        '[[trigger]]\nname = "cheaper"\nkind = "price_drop"\ndrop = 0.1\nwithout = ["purchase"]\n'
    )
    done = CliRunner().invoke(command.triggers, ["check", str(file)])
    assert done.output == (
        "cart: When a session ends that has a click of the type cart, and none of the type purchase. At most once in "
        "3d for each user. Only users whose last known consent is true. Not to be acted on from 21:00 to 08:00 in "
        "Europe/Berlin. 0.1 of the users are the control group, for whom nothing may be done. The report counts a "
        "session with purchase within 7d.\n"
        "cheaper: At a full hour, when an item costs at least 10 % less than at the user's last click on it, which is "
        "in the 7d before the hour and not in it, and the user has no purchase of it. The price is the median of the "
        "users in the hour, at least 2. At most 10,000 users of a partition at an hour. At most once in 7d for each "
        "user. The report counts a session with purchase within 7d.\n"
    )


def test_check_with_a_model_refuses_an_event_type_that_it_does_not_know(tmp_path: Path, model_dir: Path) -> None:
    file = tmp_path / "t.toml"
    file.write_text('[[trigger]]\nname = "cart"\nkind = "abandoned"\nhas = ["crat"]\n')
    assert CliRunner().invoke(command.triggers, ["check", str(file)]).exit_code == 0
    done = CliRunner().invoke(command.triggers, ["check", str(file), "--model", str(model_dir)])
    assert isinstance(done.exception, ConfigError)
    assert "did you mean 'cart'?" in str(done.exception)
