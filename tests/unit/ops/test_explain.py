"""`eddy explain` lists the latest alerts, and says in words why one was raised."""

import json
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from stream.errors import ConfigError
from stream.events import Anomaly, Expected, SystemAlert
from stream.ops.explain import Alert, alerts_among, asked, episodes_with, explain, explained, latest, list_explained


def anomaly(offset: int, episode: int, user: str = "ann", **fields: Any) -> Anomaly:
    values = {
        "id": f"c-1-{offset}",
        "user_id": user,
        "item_id": "i7",
        "event_type": "view",
        "timestamp": 1_700_000_000_000 + 1_000 * offset,
        "episode": f"c-1-{episode}",
        "reason": "the last 10 clicks came every 1.02 s (p-value 1e-07); view of i7 where i3 was expected",
        "surprise": 2.302585,
        "p_value": 1e-7,
        "score": 7.0,
        "threshold": 0.0001,
        "statistics": {"rate": 3e-9, "regular gaps": 0.002},
        "pool": "10 clicks or more",
        "pool_size": 12_402,
        "expected": [Expected("i3", 0.12)],
        "model": "shop/1",
    }
    return Anomaly(**values | fields)


def system(offset: int, phase: str = "opened", **fields: Any) -> SystemAlert:
    values = {
        "id": f"c-1-{offset}",
        "episode": "c-1-5",
        "phase": phase,
        "partition": 1,
        "sign": "twins",
        "timestamp": 1_700_000_000_000 + 1_000 * offset,
        "reason": "9 of 80 users sent a click on the same item again within a second, and 0.52% are usual",
        "users": 9,
        "usual_share": 0.0052,
        "model": "shop/1",
    }
    return SystemAlert(**values | fields)


OPENED = system(5, of_users=80, p_value=2e-9, item_id="i7", event_type="view")
ALERTS: list[Alert] = [
    anomaly(3, 3),
    anomaly(4, 4, "ben"),
    anomaly(5, 3),
    anomaly(9, 9, part_of="c-1-5"),
    OPENED,
    system(20, "closed", users=70, alerts=6),
]


def of(id_: str) -> list[Alert]:
    return episodes_with(lambda: ALERTS, id_)


def test_a_list_is_explained_by_the_clicks_it_comes_from() -> None:
    """With what the clicks were and how much they count; unknown names and items without a reason are said so."""
    first = {"item_id": "i3", "event_type": "view", "clicks_ago": 0, "nats": 0.6931}
    other = {"item_id": None, "event_type": None, "clicks_ago": 2, "nats": 1.0986}
    answer = {"user_id": "ann", "last_click": "c-1-5", "model": "shop/1", "items": ["a", "b"]}
    said = list_explained(answer | {"log_probs": [-1.386294, -2.302585], "because": [[other, first], []]})
    assert said.splitlines() == [
        "recommendations for ann, after c-1-5, model shop/1",
        "a (25.0%) because of an unknown event of an item that the model does not know (2 clicks before the last; "
        "3 times as likely with it), view of i3 (the last click; 2 times as likely with it)",
        "b (10.0%) because of no single click of the last 16",
    ]
    cart = {"item_id": "i7", "event_type": "cart", "clicks_ago": 1, "without": 0.031}
    more = {"log_probs": [0.0, 0.0], "because": [[], []], "intent": 0.1234, "intent_because": [cart]}
    assert list_explained(answer | more).splitlines()[3:] == [
        "intent 12.3% because of cart of i7 (1 click before the last; 3.1% without it)"
    ]
    assert "no single click of the session" in list_explained(answer | more | {"intent_because": []})


@pytest.mark.parametrize(
    ("nats", "shown"),
    [(0.0953, "1.1"), (4.3041, "74"), (5.193, "180"), (7.0901, "1,200"), (20.0, "more than a million")],
)
def test_a_ratio_is_written_as_a_person_writes_it(nats: float, shown: str) -> None:
    """No 1.2e+03, in which no shop assistant reads 1,200."""
    reason = {"item_id": "i3", "event_type": "view", "clicks_ago": 0, "nats": nats}
    answer = {"user_id": "u1", "last_click": "clicks-0-9", "items": ["i7"], "log_probs": [-0.6931], "model": "shop/1"}
    assert f"; {shown} times as likely with it)" in list_explained(answer | {"because": [[reason]]})


def test_a_click_that_changes_nothing_is_no_reason() -> None:
    """Nor has the list of a new user any: there is no click."""
    none = {"item_id": "i3", "event_type": "view", "clicks_ago": 0, "nats": 0.02}
    same = {"item_id": "i7", "event_type": "cart", "clicks_ago": 1, "without": 0.1234}
    answer = {"user_id": "ann", "last_click": "c-1-5", "model": "shop/1", "items": ["a"], "log_probs": [-1.386294]}
    answer |= {"because": [[none]], "intent": 0.1234, "intent_because": [same]}
    assert list_explained(answer).splitlines()[1:] == [
        "a (25.0%) because of no single click of the last 16",
        "intent 12.3% because of no single click of the session",
    ]
    assert list_explained(answer | {"last_click": None, "because": [[]]}).splitlines()[1] == "a (25.0%)"


@pytest.mark.parametrize(
    ("address", "says"),
    [("localhost:9", "not the address of a worker"), ("http://127.0.0.1:9", "no answer"), ("", "not the address")],
)
def test_an_address_without_a_worker_is_an_error_that_says_so(address: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        asked(address, "ann")


def test_the_latest_alerts_are_those_of_the_latest_clicks() -> None:
    """In the order of time, over both topics; only a user's own ones, if one is given."""
    assert [alert.id for alert in latest(ALERTS, None, 3)] == ["c-1-5", "c-1-9", "c-1-20"]
    assert [alert.id for alert in latest(ALERTS, "ann", 9)] == ["c-1-3", "c-1-5", "c-1-9"]
    assert latest([], "ann", 9) == []


@pytest.mark.parametrize("limit", [3, 6])
def test_a_list_that_is_shortened_says_so(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """A reader of 20 alerts would else take them for all."""
    values = [SimpleNamespace(value=lambda alert=alert: msgspec.json.encode(alert)) for alert in ALERTS]
    topics = {"anomalies": values[:4], "system-alerts": values[4:]}
    monkeypatch.setattr("stream.ops.explain.messages_shown", lambda broker, topic, config: topics[topic])
    monkeypatch.setattr("stream.access.rights.check_access", lambda *_, **__: None)
    done = CliRunner().invoke(explain, ["--limit", str(limit), "--json"], catch_exceptions=False)
    ids = [json.loads(shown)["id"] for shown in done.stdout.splitlines()]
    assert ids == [alert.id for alert in latest(ALERTS, None, limit)]
    assert done.stderr == ("the latest 3 alerts; there are older ones, which a larger --limit lists\n" * (limit == 3))


def test_an_alert_comes_with_its_episode() -> None:
    """By its own id or by that of the episode; one click can have an alert on the user and one on many users."""
    assert [alert.id for alert in of("c-1-3")] == ["c-1-3", "c-1-5"]
    assert [(type(alert), alert.id) for alert in of("c-1-5")] == [
        (Anomaly, "c-1-3"),
        (Anomaly, "c-1-5"),
        (SystemAlert, "c-1-5"),
        (SystemAlert, "c-1-20"),
    ]
    assert of("c-1-6") == []


def test_an_alert_on_a_user_in_words() -> None:
    """What spoke and by how much, what was expected, what it was compared with, how often that is false."""
    text = explained(of("c-1-9"), "c-1-9")
    for words in (
        "the last 10 clicks came every 1.02 s",
        "view of i7",
        "1e-07; an alert needs 0.0001 or less: one false in 10,000 sessions",
        "12,402 held-out sessions, after 10 clicks or more",
        "surprise 2.30 nats, a probability of 0.1",
        "i3 (12.0%)",
        "shop/1",
        "2023-11-14T22:13:29+00:00",
        "c-1-5, an alert on many users",
    ):
        assert words in text
    assert text.index("rate ") < text.index("regular gaps ")
    assert "all alerts of the episode" not in text


def test_an_alert_on_many_users_in_words() -> None:
    opened, closed = explained(of("c-1-20")[:1], "c-1-5"), explained(of("c-1-20"), "c-1-20")
    assert "9 of 80 in the window so far; a share of 0.52% is usual" in opened
    assert "70 since it opened" in closed
    assert "6 on single users" in closed
    assert closed.partition("all alerts of the episode:")[2].count("\n  c-1-") == 2


def test_names_from_producers_cannot_write_to_the_terminal() -> None:
    text = explained([anomaly(1, 1, "a\x1b[2J", item_id="i\n7", reason="\x07")], "c-1-1")
    assert all(c.isprintable() for line in text.splitlines() for c in line)


def test_what_is_no_alert_is_left_out_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    """A tombstone, an alert of an earlier version, another message."""
    values = [msgspec.json.encode(ALERTS[0]), None, b'{"id": "c-1-1"}', b"no json"]
    messages = [SimpleNamespace(value=lambda value=value: value) for value in values]
    assert list(alerts_among(messages, Anomaly)) == ALERTS[:1]
    assert "3 messages left out" in capsys.readouterr().err


def test_the_end_of_a_session_is_explained_as_one() -> None:
    """It is no click, and nothing was expected there."""
    of_end = {"pool": "whole sessions", "event_type": "session end", "statistics": {"end": 2e-5}, "expected": []}
    words = explained([anomaly(3, 3, id="c-1-3-end", **of_end)], "c-1-3-end")
    assert "end of session  after i7" in words
    assert "12,402 held-out sessions, whole sessions" in words
    assert "expected" not in words.replace("was expected", "")
    unknown = explained([anomaly(3, 3, item_id="", **of_end)], "c-1-3")
    assert "after an item that the model does not know" in unknown
