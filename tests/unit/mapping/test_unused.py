"""Paths of a mapping at which no click has a value: found after enough clicks, with what was probably meant."""

import json
import logging
from typing import Any

import msgspec
import pytest

from stream.mapping.parse import parse_mapping
from stream.mapping.unused import CLICKS, UnusedPaths, nearest

MAPPING = """
[fields]
user_id = ["user.id", "user.anonymos"]
item_id = "item"
timestamp = "at"
category = "group"
price = "amounts[0].price"
"""
CLICK: dict[str, Any] = {"user": {"id": "u", "anonymous": "a"}, "item": "i", "at": 1, "amounts": [{"price": 2}]}


def watched(nearest: bool = True) -> UnusedPaths:
    reading = parse_mapping(MAPPING, "shop.toml").of_topic()
    return UnusedPaths("shop.toml", reading, msgspec.json.Decoder(dict[str, Any]).decode, nearest)


def looked(unused: UnusedPaths, message: dict[str, Any], most: int = 2 * CLICKS) -> int:
    """Look at equal messages until no further one is needed. Returns how many that were."""
    value = json.dumps(message).encode()
    return next((n for n in range(1, most) if not unused.look(value)), most)


def test_paths_without_values_are_one_warning_after_enough_clicks(caplog: pytest.LogCaptureFixture) -> None:
    """Of the required fields only one that has several paths: with one path, it would make dead letters."""
    with caplog.at_level(logging.WARNING):
        assert looked(watched(), {**CLICK, "product": {"Group": "boots"}}) == CLICKS
    [record] = caplog.records
    assert (
        "mapping=shop.toml clicks=1000; paths: user_id at user.anonymos (the nearest path with values: "
        "user.anonymous), category at group (the nearest path with values: product.Group); if a path"
    ) in record.getMessage()


def test_without_anything_unused_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """One value is enough, also that of a rare event; then no further message is decoded."""
    unused, rare = watched(), {**CLICK, "user": {"anonymos": "a"}, "group": "boots"}
    with caplog.at_level(logging.WARNING):
        assert looked(unused, CLICK, 500) == 500
        assert looked(unused, rare) == 1
    assert not caplog.records


def test_a_message_that_only_the_codec_can_read_is_left_out() -> None:
    """Such as NaN, which is a valid price of no value, or a message that is larger than is looked at."""
    unused = watched()
    assert unused.look(b'{"price": NaN}')
    assert unused.look(json.dumps({**CLICK, "text": "x" * 70_000}).encode())
    assert looked(unused, CLICK) == CLICKS


def test_names_that_may_be_of_users_are_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    """With --pseudonymise no text of a message is logged, also no name."""
    with caplog.at_level(logging.WARNING):
        looked(watched(nearest=False), {**CLICK, "grou": "boots"})
    assert "category at group; if a path" in caplog.text


@pytest.mark.parametrize(
    ("path", "expected"),
    [("category", "properties.category"), ("properties.colour", "properties.color"), ("consent", None)],
)
def test_the_nearest_path_has_the_same_last_name_or_similar_letters(path: str, expected: str | None) -> None:
    """A value that is elsewhere in the message, a mistyped name, and one that is nowhere."""
    assert nearest(path, ["item", "properties.category", "properties.color"]) == expected
