"""What looks implausible in a log is reported, one line each, and nothing is reported about a sound log."""

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from export.log.log import Log, read_log
from export.log.notes import similar_column
from stream.errors import ConfigError

START_MS = 1_733_011_200_000
"""2024-12-01 00:00 UTC"""

DAY_MS = 86_400_000


def shop(
    tmp_path: Path,
    user: Callable[[int], object] = lambda i: f"u{i % 40}",
    item: Callable[[int], object] = lambda i: f"i{i % 17}",
    time: Callable[[int], object] = lambda ms: ms,
    **more: list[str],
) -> Log:
    """800 clicks of two weeks, 40 users."""
    times = [START_MS + i * 14 * DAY_MS // 800 for i in range(800)]
    frame = pl.DataFrame(
        {
            "user_id": [str(user(i)) for i in range(800)],
            "item_id": [str(item(i)) for i in range(800)],
            "timestamp": [str(time(ms)) for ms in times],
            **{name: (values * 800)[:800] for name, values in more.items()},
        }
    )
    frame.write_csv(tmp_path / "log.csv")
    return read_log(tmp_path / "log.csv")


def moment(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


def test_a_sound_log_has_no_line(tmp_path: Path) -> None:
    """A sound log has no notes, because nobody reads a line that is always there."""
    assert shop(tmp_path, event_type=["view"], session_id=["s"], colour=["red"]).notes == [
        "1 session id belongs to several users: each of these users has a separate session"
    ]


@pytest.mark.parametrize("form", ["%Y%m%d", "%Y%m%d%H%M", "%Y%m%d%H%M%S", "%Y-%m-%d", "%Y-%m-%dT%H:%M:%SZ"])
def test_digits_of_a_date_are_that_date(tmp_path: Path, form: str) -> None:
    """GA4's event_date is 20241201, which as seconds would be August 1970."""
    log = shop(tmp_path, time=lambda ms: f"{moment(ms):{form}}")
    assert (int(log.time_ms.min()), len(np.unique(log.time_ms // DAY_MS))) == (START_MS, 14)
    assert not [note for note in log.notes if "1970" in note]


@pytest.mark.parametrize(
    "time",
    [
        lambda ms: f"{ms / DAY_MS + 25569:.5f}",
        lambda ms: ms // DAY_MS + 25569,
        lambda ms: ms - START_MS + 5,
        lambda ms: (ms - START_MS) // 1000 + 5,
        lambda ms: ms * 10_000 + 116_444_736_000_000_000,
        lambda ms: ms * 10_000 + 621_355_968_000_000_000,
    ],
    ids=["spreadsheet", "whole days of a spreadsheet", "relative ms", "relative s", "Windows", ".NET"],
)
def test_times_before_the_web_are_reported(tmp_path: Path, time: Callable[[int], object]) -> None:
    """They are read as seconds since the epoch, and the line reports this."""
    assert any(
        "dated before 1991 (" in note and "the log goes from 19" in note for note in shop(tmp_path, time=time).notes
    )


def test_a_log_of_seconds_is_reported(tmp_path: Path) -> None:
    """A log of two weeks in which all times are within 13 s is reported."""
    notes = shop(tmp_path, time=lambda ms: START_MS + (ms - START_MS) // 93_000).notes
    assert [note for note in notes if "the log spans 13 s" in note]


def test_a_log_of_dates_is_reported(tmp_path: Path) -> None:
    """Without a time of day a user's clicks of one date are one session."""
    notes = shop(tmp_path, time=lambda ms: datetime.fromtimestamp(ms / 1000, UTC).date()).notes
    assert [note for note in notes if "all times are dates without a time of day" in note]


@pytest.mark.parametrize("name", ["null", "undefined", "None", "NaN", "0", "(not set)", " ", "\\N"])
def test_a_placeholder_for_unknown_users_is_reported(tmp_path: Path, name: str) -> None:
    """Otherwise all users who are not logged in would be one user."""
    notes = shop(tmp_path, user=lambda i: name if i % 8 == 0 else f"u{i % 41}").notes
    assert notes == [
        f"user {name!r} has 12.5% of all clicks: if it stands for unknown users, leave these rows out: "
        "they count as one user"
    ]


@pytest.mark.parametrize("name", ["undefined", "null", "\\N"])
def test_a_placeholder_for_unknown_items_is_reported(tmp_path: Path, name: str) -> None:
    """A script writes undefined where a page has no item; the model would recommend it to people."""
    assert shop(tmp_path, item=lambda i: name if i % 20 == 0 else f"i{i % 17}").notes == [
        f"item {name!r} has 5.0% of all clicks: if it stands for unknown items, leave these rows out: it is "
        "learned and recommended as one item"
    ]
    assert shop(tmp_path, item=lambda i: name if i == 0 else f"i{i % 17}").notes == []


def test_a_user_called_0_is_a_user_like_others(tmp_path: Path) -> None:
    """Users may be numbered from 0."""
    assert shop(tmp_path, user=lambda i: i % 40).notes == []


def test_a_user_with_a_fifth_of_all_clicks_is_reported(tmp_path: Path) -> None:
    """A bot, or an account that many share."""
    notes = shop(tmp_path, user=lambda i: "tester" if i % 4 == 0 else f"u{i % 41}").notes
    assert notes == ["user 'tester' has 25.0% of all clicks: it may be a bot, or stand for many users"]


@pytest.mark.parametrize("name", ["event", "action", "eventName", "behavior_type", "action_type", "type"])
def test_a_column_that_looks_like_the_event_type_is_reported(tmp_path: Path, name: str) -> None:
    """Without it carts and purchases would be views; the line names the option."""
    notes = shop(tmp_path, **{name: ["view", "cart"]}).notes
    assert notes == [f"column {name!r} looks like the event type and is not used: --event-col {name} reads it"]


@pytest.mark.parametrize("name", ["session", "visit_id", "sessionId", "user_session", "ga_session_id"])
def test_a_column_that_looks_like_the_session_is_reported(tmp_path: Path, name: str) -> None:
    """Without it half an hour without a click parts sessions."""
    notes = shop(tmp_path, **{name: ["a", "b"]}).notes
    assert notes == [f"column {name!r} looks like the session and is not used: --session-col {name} reads it"]


@pytest.mark.parametrize(
    "name", ["event_time", "event_id", "transaction_id", "session_start", "visitor_id", "visit_number", "device_type"]
)
def test_a_column_with_a_similar_name_is_not_reported(name: str) -> None:
    """A column with a similar but different name is not meant."""
    assert similar_column("event", [name]) is similar_column("session", [name]) is None


def frame(**columns: object) -> pl.DataFrame:
    return pl.DataFrame({"user_id": "u", "item_id": "i", "timestamp": START_MS, **columns})


def test_ids_that_lost_their_digits_are_refused(tmp_path: Path) -> None:
    """64-bit ids in a float column are no longer unique, so the log is refused."""
    ids = [float(1234567890123456789 + i) for i in range(40)]
    frame(item_id=ids).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match="no clicks in 40 rows; dropped 40 rows: the item is a float that is"):
        read_log(tmp_path / "a.parquet")


def test_float32_loses_digits_earlier(tmp_path: Path) -> None:
    """From 2^24 on a float32 stands for several integers."""
    ids = pl.Series([2.0**24 - 1, 2.0**24, 2.0**24 + 2], dtype=pl.Float32)
    frame(item_id=ids).write_parquet(tmp_path / "a.parquet")
    log = read_log(tmp_path / "a.parquet")
    assert log.items == ["16777215"]
    assert log.notes[0].startswith("dropped 2 rows: the item is a float that is too large")


def test_decimals_are_exact(tmp_path: Path) -> None:
    """A database's NUMERIC holds every digit."""
    ids = pl.Series([Decimal("1234567890123456789.00"), Decimal("17.00")], dtype=pl.Decimal(30, 2))
    frame(item_id=ids, price=pl.Series([Decimal("9.50")] * 2)).write_parquet(tmp_path / "a.parquet")
    log = read_log(tmp_path / "a.parquet")
    assert log.items == ["1234567890123456789", "17"]
    assert log.price is not None
    assert log.price.tolist() == [9.5, 9.5]


def test_what_is_left_out_of_a_log_is_counted(tmp_path: Path) -> None:
    """Optional values that are not usable cost no row, and the line shows one."""
    lines = [
        '{"user_id": "u", "item_id": "a", "timestamp": 1733011200000, "category": ["x", "y"], "price": "49,99"}',
        '{"user_id": "u", "item_id": "b", "timestamp": 1733011200000, "category": 7, "event_type": ""}',
        '{"user_id": "u", "item_id": "c", "timestamp": 1733011200000, "event_type": "' + "x" * 65 + '"}',
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    log = read_log(tmp_path / "a.jsonl")
    assert (log.items, log.categories, log.event_types) == (["a", "b", "c"], ["7"], ["view"])
    assert log.notes == [
        f"""event type is longer than 64 characters in 1 row, such as '"{"x" * 39}': read as 'view'""",
        """category is neither text nor a whole number in 1 row, such as '["x", "y"]': left out""",
        """price is not a number >= 0 in 1 row, such as '"49,99"': left out""",
    ]


def test_times_as_float32_are_reported(tmp_path: Path) -> None:
    """In float32 all clicks of about a minute have the same time."""
    frame(timestamp=pl.Series([START_MS / 1000] * 3, dtype=pl.Float32)).write_parquet(tmp_path / "a.parquet")
    assert "is float32, which rounds times" in read_log(tmp_path / "a.parquet").notes[0]


def test_a_number_of_thousands_of_digits_is_left_out(tmp_path: Path) -> None:
    """It is too long for the decoder; only its field is left out."""
    line = '{"user_id": "u", "item_id": "a", "timestamp": 1733011200000, "category": %s}\n'
    (tmp_path / "a.jsonl").write_text(line % '"c"' + line % ("9" * 5000))
    log = read_log(tmp_path / "a.jsonl")
    assert (len(log), log.categories) == (2, ["c"])


def test_a_line_that_is_nested_too_deeply_is_named(tmp_path: Path) -> None:
    """The decoder refuses it, and the error has the number of the line."""
    line = '{"user_id": "u", "item_id": "a", "timestamp": 1733011200000, "category": %s}\n'
    (tmp_path / "a.jsonl").write_text(line % '"c"' + line % ("[" * 50_000 + "]" * 50_000))
    with pytest.raises(ConfigError, match="line 2 is not a JSON object"):
        read_log(tmp_path / "a.jsonl")
