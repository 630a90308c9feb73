"""The clicks of an anonymous id from before a login are the user's, as a worker carries the state."""

import json
import random
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from export.log import spill
from export.log.log import log_clicks, read_log
from stream.mapping.mapping import MappingFile
from stream.mapping.parse import parse_mapping

START_MS = 1_700_000_000_000
TOML = """
[fields]
user_id = "user"
anonymous_id = "visitor"
item_id = "item"
timestamp = "at"
"""
MAPPING = MappingFile("shop.toml", TOML, parse_mapping(TOML, "shop.toml"))

Row = tuple[str | None, str | None]
ROWS = st.lists(
    st.tuples(
        st.sampled_from([None, None, None, "u", "v", "w", 7]), st.sampled_from([None, "a", "a", "a", "b", "7", [1]])
    ).filter(lambda row: row[1] != "7" or row[0] in (None, 7)),  # an id is not one of both
    max_size=24,
)


def by_definition(rows: list[Row]) -> list[str]:
    """The user of each click, which come in the order of time."""
    clicks: list[str] = []
    mine: defaultdict[str, list[int]] = defaultdict(list)  # anonymous id -> its clicks since its last login
    for user, visitor in rows:
        known = str(visitor) if isinstance(visitor, str) else None
        name = known if user is None else str(user)
        if name is None:
            continue
        if known is not None and user is not None and known != name:
            before = mine.pop(known, [])
            if name not in clicks:
                for at in before:
                    clicks[at] = name
        elif user is None:
            mine[name].append(len(clicks))
        clicks.append(name)
    return clicks


@given(rows=ROWS, in_parts=st.booleans(), shuffled=st.randoms())
@example([(None, "a"), ("u", "a"), (None, "a"), ("v", "a"), ("v", None)], False, random.Random(0))
@example([(None, "a"), ("u", "a"), (None, "a"), ("u", "a"), (None, "a"), ("v", "a")], True, random.Random(0))
def test_the_users_are_those_of_a_loop_over_the_rows(rows: list[Row], in_parts: bool, shuffled: random.Random) -> None:
    """Whatever the order in the file, and the size of a part that is read at once. On one browser there may be clicks
    before a login, those of several users, and clicks after a logout, which are those of the next user."""
    lines = [
        json.dumps({"user": user, "visitor": visitor, "item": f"i{n}", "at": START_MS + n})
        for n, (user, visitor) in enumerate(rows)
    ]
    expected = by_definition(rows)
    if not expected:
        return
    with TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        if in_parts:
            patch.setattr(spill, "CHUNK", 3)
            patch.setattr(spill, "RUN", 4)
        path = Path(directory) / "log.jsonl"
        path.write_text("\n".join(shuffled.sample(lines, len(lines))))
        log = read_log(path, mapping=MAPPING)
        assert [click.user_id for click, _ in log_clicks(log)] == expected
        assert sorted(log.users) == sorted(set(expected))


def test_clicks_in_the_second_of_a_login_are_from_before_it(tmp_path: Path) -> None:
    """Many logs have whole seconds. They are not given to the next user of the browser either."""
    path = tmp_path / "log.jsonl"
    ids = [(0, None), (0, None), (0, "u"), (9, None), (9, "v"), (9, None)]
    rows = [{"visitor": "a", "user": user, "item": "i1", "at": START_MS + 1000 * at} for at, user in ids]
    path.write_text("\n".join(map(json.dumps, rows)))
    log = read_log(path, mapping=MAPPING)
    assert sorted(click.user_id for click, _ in log_clicks(log)) == ["u", "u", "u", "v", "v", "v"]
    path.write_text("\n".join(map(json.dumps, [{"user": "u", "item": "i1", "at": START_MS - 1}, *rows])))
    log = read_log(path, mapping=MAPPING)
    assert sorted(click.user_id for click, _ in log_clicks(log)) == ["a", "a", "u", "u", "v", "v", "v"]


def test_a_row_that_is_no_click_gives_nothing(tmp_path: Path) -> None:
    """A worker does not see it either."""
    path = tmp_path / "log.jsonl"
    rows = [
        {"visitor": "a", "item": "i1", "at": START_MS},
        {"visitor": "a", "user": "u", "at": START_MS + 1},
        {"visitor": "a", "user": [1], "item": "i1", "at": START_MS + 2},
        {"visitor": "a", "user": "w", "item": "i1", "at": "once"},
        {"visitor": "a", "user": "v", "item": "i1", "at": START_MS + 4},
        {"user": "u", "item": "i1", "at": START_MS + 5},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert sorted(click.user_id for click, _ in log_clicks(read_log(path, mapping=MAPPING))) == ["u", "v", "v"]


def test_a_log_without_times_is_read_as_it_is(tmp_path: Path) -> None:
    """Which click was before the login is not known, so nothing is joined."""
    path = tmp_path / "log.jsonl"
    rows = [{"visitor": "a", "item": "i1"}, {"visitor": "a", "user": "u", "item": "i2"}]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert sorted(read_log(path, in_order=True, mapping=MAPPING).users) == ["a", "u"]


def test_a_note_says_how_many_users_have_clicks_from_before(tmp_path: Path) -> None:
    """So that a wrong path is noticed."""
    path = tmp_path / "log.jsonl"
    rows = [
        {"visitor": "a", "item": "i1", "at": START_MS},
        {"visitor": "a", "user": "u", "item": "i2", "at": START_MS + 1},
        {"visitor": "b", "user": "v", "item": "i2", "at": START_MS + 2},
        {"visitor": "b", "item": "i2", "at": START_MS + 3},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert "1 user with clicks from before the login, by an anonymous id" in read_log(path, mapping=MAPPING).notes
