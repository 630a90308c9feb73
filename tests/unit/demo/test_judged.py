"""What the demo says of next actions, intents and triggers, checked by hand on a few sessions."""

import math
import tomllib
from pathlib import Path
from typing import Any

import pytest

from stream.demo.command import default_model
from stream.demo.judged.carts import Carts, rules_for
from stream.demo.judged.intent import Intents
from stream.demo.simulate import MINUTE_MS, Simulated
from stream.demo.tally import Tally
from stream.events import Click, Recommendation
from stream.manifest import read_manifest
from stream.trigger import Trigger
from stream.triggers.parse import open_triggers

VIEWS = {"view": 0.6, "cart": 0.1, "purchase": 0.1}
"""`next` of a decision; `leaves` has the rest."""


def click(
    tally: Tally,
    user: str,
    minute: int,
    event_type: str = "view",
    session: str = "s1",
    truth: str = "",
    partition: int = 0,
    **said: Any,
) -> None:
    """Send a click and read its decision."""
    time_ms = minute * MINUTE_MS
    sent = Click(user, "a", time_ms, event_type, session_id=f"{user}-{session}")
    tally.sent(Simulated(time_ms, 0, sent, truth), 1.0)
    foreseen = {"next": VIEWS, "leaves": 0.2} | said
    decision = Recommendation(f"clicks-{partition}-{minute}", user, "a", time_ms, [], [], 1.0, 0.5, "m/1", **foreseen)
    tally.decided(decision, 1.0)


def fired(tally: Tally, id_: str, rule: str = "cart", group: str = "treated") -> None:
    tally.carts.fired(Trigger(f"{id_}:{rule}", "u", rule, "abandoned", 1, group, [], "why", "m/1"))


def test_the_next_action_is_the_next_click_of_the_session_or_none_within_half_an_hour() -> None:
    """Said is the most probable action. Another user's clicks are none, but their time is; bots are not judged."""
    tally = Tally(k=1)
    click(tally, "u", 0)
    click(tally, "bot", 1, truth="scraper")
    click(tally, "bot", 2, truth="scraper")
    click(tally, "u", 3)  # view: said
    click(tally, "u", 5, "cart", leaves=0.9)  # cart: not said
    click(tally, "v", 40, partition=1)  # the time of another partition
    assert tally.following.judged == 2
    click(tally, "v2", 34)
    assert tally.following.judged == 2
    click(tally, "v2", 35)  # u has left; v2's view was said
    counts = tally.following.counts()
    assert (counts["judged"], counts["right"], counts["most_common"]) == (4, 0.75, 0.5)
    assert counts["log_loss"] == round(-(2 * math.log(0.6) + math.log(0.1) + math.log(0.9)) / 4, 4)


def test_a_click_after_half_an_hour_shows_that_the_user_had_left() -> None:
    """Also if no other click of the partition came before."""
    tally = Tally(k=1)
    click(tally, "u", 0, leaves=0.7)
    click(tally, "u", 30)
    assert (tally.following.actions, tally.following.right) == ({"leaves": 1}, 1)


def test_a_probability_that_was_rounded_to_zero_has_a_finite_loss() -> None:
    """Five digits are written."""
    tally = Tally(k=1)
    click(tally, "u", 0, next={"view": 1.0, "cart": 0.0}, leaves=0.0)
    click(tally, "u", 1, "cart")
    assert tally.following.log_loss == pytest.approx(-math.log(1e-5))


def test_the_intent_of_a_session_is_the_highest_before_its_first_purchase() -> None:
    """A session is over with the next one of the user, or after an hour; a session of a thief does not count."""
    tally = Tally(k=1)
    click(tally, "u", 0, intent=0.2)
    click(tally, "u", 1, "cart", intent=0.7)
    click(tally, "u", 2, "purchase", intent=0.99)
    click(tally, "v", 3, "view", intent=0.4)
    click(tally, "w", 4, "view", intent=0.9, truth="takeover")
    click(tally, "u", 50, session="s2", intent=0.1)
    assert tally.intents.counts()["sessions"] == 1
    click(tally, "x", 200)
    counts = tally.intents.counts()
    assert (counts["sessions"], counts["bought"], counts["said"], counts["said_not_bought"]) == (3, 1, 1, 0)
    assert counts["top_from"] == 0.7


def test_the_top_tenth_has_the_highest_intents() -> None:
    """What is bought at a low intent is missed."""
    intents = Intents()
    for n in range(100):
        intents.over(n / 100, bought=n in (3, 60, 91, 95))
    assert intents.counts() == {
        "sessions": 100,
        "bought": 4,
        "said": 3,
        "said_not_bought": 47,
        "top_from": 0.9,
        "top_bought": 0.2,
        "top_lift": 5.0,
    }


def test_an_abandoned_cart_is_found_by_its_trigger_and_missed_without_one() -> None:
    """Whether the trigger or the session's end is read first. A cart that was bought has a wrong trigger."""
    tally = Tally(k=1)
    fired(tally, "clicks-0-0-end")
    for user, minute in (("found", 0), ("late", 2), ("missed", 4), ("bought", 6)):
        click(tally, user, minute)
        click(tally, user, minute + 1, "cart")
    click(tally, "bought", 60, "purchase")  # of the same session, after a long pause
    fired(tally, "clicks-0-6-end", group="control")
    fired(tally, "clicks-0-60", rule="more")
    click(tally, "x", 150)
    assert tally.carts.counts() == {"found": 1, "missed": 2, "wrong": 1}
    fired(tally, "clicks-0-3-end-1")
    assert tally.carts.counts() == {"found": 2, "missed": 1, "wrong": 1}
    assert tally.counts(1.0, "CPU")["triggers"] == {"cart": 3, "more": 1, "of the control group": 1}


def test_before_anything_is_known_all_figures_are_zero() -> None:
    """Also with a model that predicts nothing."""
    tally = Tally(k=1)
    click(tally, "u", 0, next=None, leaves=None)
    click(tally, "u", 1, next=None, leaves=None)
    assert not any(tally.following.counts().values())
    assert Intents().counts()["top_lift"] == 0
    assert not any(Carts().counts().values())


def test_a_worker_with_the_demos_model_takes_the_rules(tmp_path: Path) -> None:
    """A model without carts gets the rule that needs no event type."""
    manifest = read_manifest(default_model())
    file = tmp_path / "triggers.toml"
    file.write_text(rules_for(manifest.event_types))
    rules = open_triggers(str(file), manifest, "each")
    assert [(rule.name, rule.kind) for rule in rules] == [("cart", "abandoned"), ("more", "after"), ("back", "away")]
    assert [rule["kind"] for rule in tomllib.loads(rules_for(["view"]))["trigger"]] == ["away"]
