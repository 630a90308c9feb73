"""Every record fits the limit of its topic and has the number of omitted items or bytes."""

from base64 import b64decode
from types import SimpleNamespace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.detect.statistics import STATISTICS
from stream.errors import BadClick
from stream.events import Anomaly, DeadLetter, Expected, Origin, Recommendation
from stream.kafka.topics import FRAME_BYTES, SMALLEST_LIMIT
from stream.wire.dead_letter import dead_letter
from stream.wire.sizes import fit_anomaly, fit_recommendation

WORST = "\x01" * 256
"""The id that takes most bytes: each of its characters is written as six."""

LIMITS = st.integers(SMALLEST_LIMIT - FRAME_BYTES, 100_000)
LENGTHS = st.none() | st.integers(0, 200_000)


@settings(max_examples=200, deadline=None)
@given(most=LIMITS, key_bytes=LENGTHS, value_bytes=LENGTHS, detail=st.text(max_size=2_000))
def test_letter_fits_and_keeps_the_beginning_of_key_and_value(
    most: int, key_bytes: int | None, value_bytes: int | None, detail: str
) -> None:
    """Key and value are prefixes of the originals, whole where both fit, and the letter has their original lengths."""
    key = None if key_bytes is None else b"k" * key_bytes
    value = None if value_bytes is None else b"v" * value_bytes
    record = SimpleNamespace(key=key, value=value, timestamp=1_760_000_000_000)
    kafka_key, written = dead_letter(Origin("clicks", 3, 12), record, BadClick("not_json", detail), most)
    assert len(kafka_key or b"") + len(written) <= most
    assert kafka_key in (None, key)
    letter = msgspec.json.decode(written, type=DeadLetter)
    assert (letter.key_bytes, letter.value_bytes) == (key_bytes or 0, value_bytes or 0)
    for whole, kept in ((key, letter.key), (value, letter.value)):
        assert (whole is None) == (kept is None)
        assert (whole or b"").startswith(b64decode(kept or ""))
    if letter.key_bytes + letter.value_bytes < 8_000:
        assert (b64decode(letter.key or ""), b64decode(letter.value or "")) == (key or b"", value or b"")
    elif letter.key_bytes + letter.value_bytes > most:
        assert len(written) > most - 1_100  # no room is wasted; a Kafka key takes up to 1,024


@settings(max_examples=200, deadline=None)
@given(
    most=LIMITS,
    items=st.lists(st.sampled_from(["i1", "boots-a1", "\u2603" * 100, WORST]), max_size=300),
    explore=st.booleans(),
)
def test_recommendation_keeps_the_longest_prefix_that_fits(most: int, items: list[str], explore: bool) -> None:
    """The list has as many of its first items as fit: one more would not fit, and a list that fits is not cut."""
    count = len(items)
    whole = Recommendation(
        id="clicks-1-1",
        user_id=WORST,
        item_id=WORST,
        timestamp=1,
        items=items,
        log_probs=[-1.23456] * count,
        surprise=1.0,
        p_value=0.5,
        model="shop/1",
        propensities=[0.125] * count if explore else None,
        explored=list(range(0, count, 3)) if explore else None,
    )
    written, cut = fit_recommendation(whole, most)
    assert len(written) <= most
    kept = msgspec.json.decode(written, type=Recommendation)
    assert kept.items_cut == cut == count - len(kept.items)
    assert kept.items == items[: len(kept.items)]
    assert len(kept.log_probs) == len(kept.items)
    if explore:
        assert len(kept.propensities or []) == len(kept.items)
        assert kept.explored == list(range(0, len(kept.items), 3))
    if cut:
        assert len(written) > most - 6 * 256 - 40
    else:
        assert written == msgspec.json.encode(whole)


@pytest.mark.parametrize("ids", ["i1", WORST, "x" * 20_000])
def test_alert_fits_even_if_the_models_ids_are_long(ids: str) -> None:
    """An alert whose expected items do not fit is written without them and has their number."""
    alert = Anomaly(
        id="clicks-1-1",
        user_id=WORST,
        item_id=WORST,
        event_type="\x01" * 64,
        timestamp=1,
        episode="clicks-1-0",
        reason=f"{WORST} where {ids} or {ids} or {ids} was expected",
        surprise=1.0,
        p_value=0.5,
        score=0.3,
        threshold=0.5,
        statistics=dict.fromkeys(STATISTICS, 1e-300),
        pool="10 clicks or more",
        pool_size=9,
        expected=[Expected(ids, 0.5)] * 3,
        model="shop/1",
    )
    most = SMALLEST_LIMIT - FRAME_BYTES - 1_024
    written = fit_anomaly(alert, most)
    assert len(written) <= most
    kept = msgspec.json.decode(written, type=Anomaly)
    assert len(kept.expected) + kept.expected_cut == 3
    if ids == "i1":
        assert kept == alert
