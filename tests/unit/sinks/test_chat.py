"""The line of an event in a chat: readable, and nothing in it calls anybody."""

import json

import msgspec

from stream.events import Anomaly, SystemAlert
from stream.places.chat import SLACK, escaped, in_words, opens
from stream.trigger import Trigger
from tests.receiver import alert, system_alert

TRIGGER = {
    "id": "clicks-0-7:cart", "user_id": "ann", "rule": "cart", "kind": "abandoned", "timestamp": 1_735_689_602_600,
    "group": "treated", "items": ["i1"], "reason": "a cart was left behind", "model": "m/1",
}  # fmt: skip


def test_a_line_has_who_what_when_and_how_unusual() -> None:
    """As `eddy explain` lists it, and the p-value. A trigger of the control group says that nothing is to be done."""
    many = system_alert(8)
    lines = [
        in_words(msgspec.convert(alert(7), Anomaly)),
        in_words(msgspec.convert(many, SystemAlert)),
        in_words(msgspec.convert(many | {"phase": "closed", "p_value": None}, SystemAlert)),
        in_words(msgspec.convert(TRIGGER, Trigger)),
        in_words(msgspec.convert(TRIGGER | {"group": "control"}, Trigger)),
    ]
    assert lines == [
        "clicks-0-7  2025-01-01T00:00:02+00:00  user ann: 10 clicks on one item (p-value 2e-05)",
        "clicks-0-8  2025-01-01T00:00:02+00:00  partition 0, opened: 30 users do the same (p-value 3e-09)",
        "clicks-0-8  2025-01-01T00:00:02+00:00  partition 0, closed: 30 users do the same",
        "clicks-0-7:cart  2025-01-01T00:00:02+00:00  user ann: a cart was left behind (cart)",
        f"{lines[3].removesuffix(')')}, control group: do not act)",
    ]


def test_the_p_value_is_in_a_line_once() -> None:
    """A worker writes it into the reason, before the click."""
    reason = "10 clicks on one item (p-value 2e-05); view of i1 where i2 was expected"
    text = in_words(msgspec.convert(alert(7, reason=reason), Anomaly))
    assert text == f"clicks-0-7  2025-01-01T00:00:02+00:00  user ann: {reason}"


def test_nothing_in_an_id_calls_anybody() -> None:
    """Ids come from outside: Slack's signs are escaped, and the @ of Mattermost and Rocket.Chat is separated."""
    for given, wanted in (
        ("<!channel>", "&lt;!channel&gt;"),
        ("<@U123> &lt;", "&lt;@\u200bU123&gt; &amp;lt;"),
        ("@all", "@\u200ball"),
        ("x @here.", "x @\u200bhere."),
        ("(@channel)", "(@\u200bchannel)"),
        ("ann@shop.example", "ann@shop.example"),
        ("@ 5", "@ 5"),
    ):
        assert escaped(given) == wanted
    body = SLACK.body(msgspec.convert(alert(7, user="<!here>\n@all", reason="a & b"), Anomaly), b"")
    assert json.loads(body)["text"].endswith("user &lt;!here&gt;?@\u200ball: a &amp; b (p-value 2e-05)")
    assert SLACK.left_out is not None
    assert json.loads(SLACK.left_out(1)) == {"text": "and 1 more message, left out because of --most-per-minute"}


def test_a_long_id_does_not_make_a_long_line() -> None:
    """A chat cuts a text off, or refuses it."""
    for user in ("u" * 100_000, "<" * 100_000):
        assert len(in_words(msgspec.convert(alert(7, user=user), Anomaly))) <= 1_000
        assert len(in_words(msgspec.convert(TRIGGER | {"user_id": user}, Trigger))) <= 1_000


def test_what_has_no_episode_always_opens() -> None:
    """A trigger, for example."""
    assert opens(msgspec.convert(TRIGGER, Trigger))
    assert not opens(msgspec.convert(alert(7, episode="clicks-0-1"), Anomaly))
    assert not opens(msgspec.convert(system_alert(7, phase="closed"), SystemAlert))
