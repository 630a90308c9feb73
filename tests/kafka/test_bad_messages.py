"""Messages that are no clicks become dead letters with reason and origin, and do not affect any click."""

import json
import random
from base64 import b64decode

import msgspec

from stream.events import DeadLetter
from tests.kafka.lane import NOW_MS, Lane, assert_valid, click_id, clicks

FUTURE_MS = 4_000_000_000_000
GOOD, BAD = 20_000, 2_000


def bad_message(n: int, rng: random.Random) -> tuple[bytes | None, bytes | None, str]:
    """(key, value, the reason it must be given)."""
    key = f"user{n}".encode()
    event = {"user_id": f"user{n}", "item_id": "i1", "timestamp": NOW_MS}
    good = json.dumps(event).encode()
    kinds: list[tuple[bytes | None, bytes | None, str]] = [
        (key, good[: rng.randrange(1, len(good))], "not_json"),
        (key, json.dumps({**event, "timestamp": "yesterday"}).encode(), "bad_timestamp"),
        (key, json.dumps({**event, "item_id": ["i1"]}).encode(), "wrong_fields"),
        (key, json.dumps({**event, "item_id": True}).encode(), "wrong_fields"),
        (key, json.dumps({"user_id": f"user{n}"}).encode(), "wrong_fields"),
        (key, json.dumps([event]).encode(), "wrong_fields"),
        (key, json.dumps({**event, "item_id": ""}).encode(), "wrong_fields"),
        (key, json.dumps({**event, "item_id": "i" * 300}).encode(), "wrong_fields"),
        (key, json.dumps({**event, "category": "c" * 70_000}).encode(), "too_large"),
        (key, json.dumps({**event, "timestamp": FUTURE_MS}).encode(), "future_timestamp"),
        (key, json.dumps({**event, "timestamp": -1}).encode(), "bad_timestamp"),
        (key, good.replace(str(NOW_MS).encode(), b"NaN"), "wrong_fields"),  # NaN is no value: the time is missing
        (key, good.replace(b"i1", b"\xff\xfe"), "not_utf8"),
        (b"", good, "empty_key"),
        (None, good, "empty_key"),
        (b"somebody else", good, "key_is_not_user"),
        (key, b"", "empty_value"),
        (key, None, "empty_value"),
        (key, b"\x00" * 20, "not_json"),
        (key, b'{"user_id":' * 5_000, "not_json"),
    ]
    return kinds[n % len(kinds)]


def test_bad_messages_go_to_the_dead_letters_and_good_ones_are_decided(lane: Lane) -> None:
    """Each of 20,000 good clicks gets its decision and each of 2,000 bad messages its dead letter, nothing else."""
    rng = random.Random(7)
    bad = [bad_message(n, rng) for n in range(BAD)]
    reasons = {(key, value): reason for key, value, reason in bad}
    messages = clicks(GOOD, users=2_000) + [(key, value) for key, value, _ in bad]
    rng.shuffle(messages)
    lane.produce(messages)
    lane.start()
    lane.wait_for_clicks()

    sent = {f"{m.topic()}-{m.partition()}-{m.offset()}": (m.key(), m.value()) for m in lane.read(lane.topics.clicks)}
    messages = lane.read(lane.topics.dead_letters)
    assert_valid("dead-letters", messages)
    letters = [msgspec.json.decode(m.value(), type=DeadLetter) for m in messages]
    assert len(letters) == BAD
    for letter in letters:
        key, value = sent.pop(letter.id)
        assert letter.id == f"{letter.topic}-{letter.partition}-{letter.offset}"
        assert letter.reason == reasons[key, value]
        assert (letter.key_bytes, letter.value_bytes) == (len(key or b""), len(value or b""))
        assert letter.detail
        assert (letter.key is None, letter.value is None) == (key is None, value is None)
        assert (b64decode(letter.key or ""), b64decode(letter.value or "")) == (key or b"", value or b"")
    decided = [click_id(m) for m in lane.read(lane.topics.recommendations)]
    assert sorted(decided) == sorted(sent)
    assert len(decided) == GOOD
