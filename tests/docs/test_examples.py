"""The mappings in docs/examples read their samples as the clicks that are written here by hand."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from export.init import rows
from export.log.log import log_clicks, read_log
from stream.errors import BadClick
from stream.events import Click
from stream.guess.guess import guess
from stream.guess.sample import describe
from stream.mapping.parse import read_mapping
from stream.mapping.shape import message_shape
from stream.ops.cli import eddy
from stream.wire.json import JsonCodec
from tests.docs.blocks import ROOT

EXAMPLES = ROOT / "docs" / "examples"
SAMPLES = {path.stem: path for path in sorted(EXAMPLES.iterdir()) if path.suffix != ".toml"}
NOW_MS = 1_760_000_000_000
MARCH_4 = 1_741_078_800_000
"""2025-03-04 09:00:00 UTC."""

WATER, COSMETICS = "2053013552326770905", "2103807459595387724"
EXPECTED = {
    "retailrocket": [
        Click("257597", "355908", 1_433_221_332_117, "view"),
        Click("257597", "355908", 1_433_221_341_502, "cart"),
        Click("257597", "355908", 1_433_221_404_018, "purchase"),
        Click("992329", "248676", 1_433_221_999_827, "view"),
        Click("992329", "367447", 1_433_222_531_378, "view"),
    ],
    "segment": [
        Click("a-71", "boots-a1", MARCH_4 + 10_000, "view", None, 89.9, 1.0, "boots", "m-2"),
        Click("u-17", "boots-a1", MARCH_4 + 20_000, "cart", None, 89.9, 1.0, "boots", "m-3"),
        Click("u-17", "boots-a1", MARCH_4 + 60_000, "purchase", event_id="m-4"),
    ],
    "rees46": [
        Click("541312140", "44600062", 1_569_888_000_000, "view", "72d76fde", 35.79, None, COSMETICS),
        Click("554748717", "3900821", 1_569_888_001_000, "view", "9333dfbd", 33.2, None, WATER),
        Click("554748717", "3900821", 1_569_888_005_000, "cart", "9333dfbd", 33.2, None, WATER),
        Click("554748717", "3900821", 1_569_888_009_000, "purchase", "9333dfbd", 33.2, None, WATER),
        Click("541312140", "44600062", 1_569_888_011_000, "remove_from_cart", "72d76fde", 35.79, None, COSMETICS),
    ],
    "personalize": [
        Click("9", "33", 1_586_735_158_000, "click"),
        Click("54", "35", 1_586_735_164_000, "click"),
        Click("54", "35", 1_586_735_170_000, "cart"),
        Click("35", "73", 1_586_731_606_000, "purchase"),
    ],
    "ga4": [
        Click("108.71", "boots-a1", MARCH_4 + 10_000, "view", None, 89.9, 1.0, "boots"),
        Click("u-17", "boots-a1", MARCH_4 + 20_000, "cart", None, 89.9, 1.0, "boots"),
        Click("u-17", "boots-a1", MARCH_4 + 60_000, "purchase", None, 89.9, 1.0, "boots"),
    ],
    "snowplow": [
        Click("d-71", "boots-a1", MARCH_4 + 10_250, "view", "s-5", 89.9, None, "boots", "3d2c1e7c"),
        Click("u-17", "boots-a1", MARCH_4 + 20_250, "cart", "s-5", 89.9, 2.0, "boots", "a0b1c9f0"),
        Click("u-17", "boots-a1", MARCH_4 + 60_250, "purchase", "s-5", 89.9, 2.0, "boots", "5f0e8a4d"),
    ],
    "cloudevents": [
        Click("u-17", "boots-a1", MARCH_4 + 10_250, "view", None, 89.9, None, "boots", "e-1"),
        Click("u-17", "boots-a1", MARCH_4 + 20_250, "cart", None, 89.9, None, "boots", "e-2"),
        Click("u-17", "boots-a1", MARCH_4 + 60_250, "purchase", None, 89.9, None, "boots", "e-4"),
    ],
}  # fmt: skip
EXPECTED["cloudevents-binary"] = EXPECTED["cloudevents"]
MORE_THAN_THE_SAMPLE = {"segment": {"event_types"}, "ga4": {"event_types", "drop"}}
"""What a shipped mapping has more of than can be guessed from its sample: types of events that are not in it."""


def in_order(clicks: Any) -> list[Click]:
    return sorted(clicks, key=lambda click: (click.timestamp, click.user_id))


def test_every_mapping_has_a_sample_and_an_expectation() -> None:
    """No example is without a test."""
    assert set(SAMPLES) == {path.stem for path in EXAMPLES.glob("*.toml")} == set(EXPECTED)


@pytest.mark.parametrize("name", SAMPLES)
def test_the_messages_of_a_topic_are_these_clicks(name: str) -> None:
    """Each line of a sample as the JSON message that a topic would have."""
    codec = JsonCodec(65_536, 0, message_shape(read_mapping(EXAMPLES / f"{name}.toml").mapping.of_topic()))
    clicks = []
    for row in rows(SAMPLES[name]):
        try:
            clicks.append(codec.decode(None, json.dumps(row).encode(), NOW_MS))
        except BadClick as exc:
            assert exc.reason in ("event_type", "no_value")  # noqa: PT017
    assert in_order(clicks) == in_order(EXPECTED[name])


@pytest.mark.parametrize("name", SAMPLES)
def test_the_rows_of_a_log_are_these_clicks(name: str) -> None:
    """The same file and the same mapping; a log has no quantity and no event id."""
    log = read_log(SAMPLES[name], mapping=read_mapping(EXAMPLES / f"{name}.toml"))
    expected = [
        Click(*(c.user_id, c.item_id, c.timestamp, c.event_type, c.session_id, c.price, None, c.category))
        for c in EXPECTED[name]
    ]
    assert in_order(click for click, _ in log_clicks(log)) == in_order(expected)


@pytest.mark.parametrize("name", SAMPLES)
def test_the_mapping_is_what_would_be_guessed(name: str) -> None:
    """`eddy init` finds what is shipped, as far as the sample shows it."""
    shipped = read_mapping(EXAMPLES / f"{name}.toml").mapping
    found = guess(describe(list(rows(SAMPLES[name])))).mapping
    more = MORE_THAN_THE_SAMPLE.get(name, set())
    assert {f for f in shipped.__struct_fields__ if getattr(shipped, f) != getattr(found, f)} == more
    assert found.event_types.items() <= shipped.event_types.items()
    assert set(found.drop) <= set(shipped.drop)


@pytest.mark.parametrize("name", SAMPLES)
def test_init_writes_a_file_that_reads_the_sample(name: str, tmp_path: Path) -> None:
    """The command as a user calls it, on the base of the file alone."""
    out = tmp_path / "shop.toml"
    done = CliRunner().invoke(eddy, ["init", "--file", str(SAMPLES[name]), "--out", str(out)], catch_exceptions=False)
    assert done.exit_code == 0
    assert f"{len(EXPECTED[name])} clicks in " in done.stdout
    log = read_log(SAMPLES[name], mapping=read_mapping(out))
    assert len(log) == len(EXPECTED[name])
