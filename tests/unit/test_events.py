"""How outputs and logs identify a message, a partition and a user."""

import hashlib

import msgspec
import pytest

from stream.events import Anomaly, Click, DeadLetter, Expected, Origin, Partition, Recommendation
from stream.log_lines import hashed


def test_an_id_is_topic_partition_and_offset() -> None:
    """A consumer can recognise a repeat by the id, and find the click in Kafka."""
    assert Origin("clicks", 3, 12).id == "clicks-3-12"
    assert str(Partition("clicks-eu", 3)) == "clicks-eu-3"


def test_partitions_of_two_topics_are_two() -> None:
    """Partitions of different topics with the same number do not share data."""
    kept = {Partition("a", 0): 1, Partition("b", 0): 2}
    assert kept[Partition("a", 0)] == 1
    assert sorted([Partition("b", 0), Partition("a", 10), Partition("a", 9)]) == [("a", 9), ("a", 10), ("b", 0)]


def test_a_user_in_the_log_can_be_found_by_the_id() -> None:
    """The line holds what `printf %s USER | sha256sum | cut -c1-12` prints, and no user id."""
    for user in ("ann", "j\u00fcrgen", ""):
        assert hashed(user.encode()) == hashlib.sha256(user.encode()).hexdigest()[:12]


@pytest.mark.parametrize(
    ("event", "written"),
    [
        (Click("u", "i", 5), {"user_id": "u", "item_id": "i", "timestamp": 5}),
        (
            Recommendation("c-0-1", "u", "i", 5, ["j"], [-0.5], 1.5, 0.25, "shop/1"),
            {
                "id": "c-0-1",
                "user_id": "u",
                "item_id": "i",
                "timestamp": 5,
                "items": ["j"],
                "log_probs": [-0.5],
                "surprise": 1.5,
                "p_value": 0.25,
                "model": "shop/1",
            },
        ),
        (
            Anomaly(
                "c-0-1",
                "u",
                "i",
                "view",
                5,
                "c-0-0",
                "why",
                9.0,
                0.001,
                3.0,
                0.01,
                {"rate": 0.001},
                "1 click",
                7,
                [Expected("j", 0.5)],
                "shop/1",
            ),
            {
                "id": "c-0-1",
                "user_id": "u",
                "item_id": "i",
                "event_type": "view",
                "timestamp": 5,
                "episode": "c-0-0",
                "reason": "why",
                "surprise": 9.0,
                "p_value": 0.001,
                "score": 3.0,
                "threshold": 0.01,
                "statistics": {"rate": 0.001},
                "pool": "1 click",
                "pool_size": 7,
                "expected": [{"item_id": "j", "probability": 0.5}],
                "model": "shop/1",
            },
        ),
        (
            DeadLetter("c-0-1", "not_json", "what", "c", 0, 1, 5, None, "e30=", 2, 0),
            {
                "id": "c-0-1",
                "reason": "not_json",
                "detail": "what",
                "topic": "c",
                "partition": 0,
                "offset": 1,
                "timestamp": 5,
                "key": None,
                "value": "e30=",
                "value_bytes": 2,
                "key_bytes": 0,
            },
        ),
    ],
)
def test_an_event_has_these_fields_in_this_order(event: object, written: dict[str, object]) -> None:
    """The wire format: a new, removed or renamed field is a breaking change and must fail here."""
    assert list(msgspec.to_builtins(event).items()) == list(written.items())


def test_an_event_cannot_be_changed() -> None:
    """Events are immutable, so a decision cannot change before it is sent."""
    with pytest.raises(AttributeError):
        Click("u", "i", 5).item_id = "j"  # type: ignore[misc]
