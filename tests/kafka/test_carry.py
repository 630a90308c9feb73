"""A shop whose visitors log in: what they did before is the history of the user, on a real Kafka."""

import signal
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.readers import read_topic
from tests.kafka.lane import ASK_S, NOW_MS, wait_until
from tests.kafka.test_rekey import RekeyedLane, rekeyed_lane

MAPPING = """
[fields]
user_id = "userId"
anonymous_id = "anonymousId"
item_id = "item"
timestamp = "time"
[key]
holds = "other"
rekey = true
"""

PEOPLE, BEFORE, AFTER = 40, 5, 4
"""Clicks of each person before and after the login."""


@pytest.fixture
def lane(kafka: str, name: str, model: Path, tmp_path: Path) -> Iterator[RekeyedLane]:
    lane = rekeyed_lane(kafka, name, model, tmp_path, MAPPING)
    yield lane
    lane.end_all()


def message(session: str, n: int, item: int, **ids: str) -> tuple[bytes, bytes]:
    """A click, keyed by the session."""
    click = ids | {"item": f"i{item}", "time": NOW_MS + 20_000 * n}
    return session.encode(), msgspec.json.encode(click)


def visits(person: int) -> Iterator[tuple[tuple[bytes, bytes], tuple[bytes, bytes]]]:
    """The clicks of a person who logs in, each with the same click of a twin who has one id all along."""
    browser, user = f"browser-{person}", f"user-{person}"
    for n in range(BEFORE + AFTER):
        item, ids = (person * 7 + n * n) % 50, {"anonymousId": browser}
        if n >= BEFORE:
            ids |= {"userId": user}
        yield message(browser, n, item, **ids), message(f"t{person}", n, item, userId=f"twin-{person}")


def decided(lane: RekeyedLane) -> dict[str, list[dict[str, Any]]]:
    """User -> the recommendations in their order, without what tells the person and the twin apart."""
    found: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in read_topic(lane.broker, lane.topics.recommendations):
        event = msgspec.json.decode(one.value())
        del event["id"]
        found[event.pop("user_id")].append(event)
    return {user: sorted(events, key=lambda event: event["timestamp"]) for user, events in found.items()}


def test_a_user_who_logs_in_gets_what_one_gets_who_had_one_id_all_along(lane: RekeyedLane) -> None:
    """Byte for byte, although a worker is killed between the logins, and other workers take over. Each click has one
    decision, no state of an anonymous id is left, and the session goes on under the user's id."""
    pairs = [list(visits(person)) for person in range(PEOPLE)]
    early = [one for pair in pairs for both in pair[: BEFORE + 1] for one in both]
    late = [one for pair in pairs for both in pair[BEFORE + 1 :] for one in both]
    worker = lane.start(max_cycle_clicks=2)
    worker.wait_for("re-keying: topic=")
    lane.send(early)
    wait_until(lambda: len(lane.read(lane.topics.recommendations)) > PEOPLE, "decisions: " + worker.log, 60, ASK_S)
    worker.end(signal.SIGKILL)
    assert len(lane.read(lane.topics.recommendations)) < len(early), "the worker was done before it could be killed"
    workers = [lane.start(), lane.start()]
    lane.send(late)
    whole = 2 * PEOPLE * (BEFORE + AFTER)
    wait_until(
        lambda: len(lane.read(lane.topics.recommendations)) >= whole,
        "all decisions:\n" + "\n".join(each.log[-3000:] for each in workers),
        120,
        ASK_S,
    )
    lane.wait_until_decided()

    found = decided(lane)
    assert sum(map(len, found.values())) == whole
    for person in range(PEOPLE):
        mine, twins = found[f"user-{person}"], found[f"twin-{person}"]
        assert len(mine) == AFTER
        assert msgspec.json.encode(mine) == msgspec.json.encode(twins[BEFORE:])
        assert msgspec.json.encode(found[f"browser-{person}"]) == msgspec.json.encode(twins[:BEFORE])
    assert lane.read(lane.topics.dead_letters) == []
    rows = {one.key(): one.value() for one in lane.read(lane.topics.changelog)}
    assert not any(rows.get(b"browser-%d" % person) for person in range(PEOPLE))
    assert all(rows[b"user-%d" % person] for person in range(PEOPLE))
    opened = [msgspec.json.decode(one.value())["user_id"] for one in lane.read(lane.topics.sessions)]
    assert sorted(opened) == sorted(f"{who}-{n}" for who in ("browser", "twin") for n in range(PEOPLE))
    assert {each.end(signal.SIGTERM) for each in workers} == {0}
