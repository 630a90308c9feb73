"""A repair keeps every row once, never sets an offset back over decided clicks, and changes nothing the second time."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.errors import ConfigError
from stream.events import Partition
from stream.kafka.changelog import Mark
from stream.kafka.partitioners import murmur2
from stream.repair.plan import Change, Found, plan
from stream.state.checksum import checksums, intact, with_head
from stream.state.row import Head, new_rows, row_dtype

ROW = row_dtype((), 2)


def row(key: bytes, offset: int, last_ms: int = 0, clicks: int = 1) -> bytes:
    rows = new_rows(1, ROW, 7)
    rows["source_offset"], rows["last_ms"], rows["clicks"] = offset, last_ms, clicks
    rows["checksum"] = checksums([key], rows)
    return rows.tobytes()


def total(rows: dict[bytes, bytes], next_: int) -> Mark:
    return Mark(next_, len(rows), sum(int.from_bytes(r[:8], "little") for r in rows.values()) % 2**64)


def found(number: int, rows: dict[bytes, bytes], next_: int, **other: object) -> Found:
    """A partition of 100 clicks whose offset and rows agree at `next_`, apart from `other`."""
    values = {"first": 0, "end": 100, "committed": next_, "mark": total(rows, next_), "rows": rows} | other
    return Found(Partition("clicks", number), **values)  # type: ignore[arg-type]


def after(changes: list[Change]) -> list[Found]:
    """What the next repair finds, when the changes were written."""
    left = []
    for change in changes:
        if not change.needed:
            left.append(change.found)
            continue
        rows = {**change.found.rows, **change.rows}
        kept = {key: value for key, value in rows.items() if value is not None}
        one = replace(change.found, committed=change.next, mark=change.mark, rows=kept, broken=(), begun=False)
        left.append(replace(one, replaced=None))
    return left


def test_what_is_kept_of_a_partition_stays() -> None:
    """A repair changes offset and rows; and a healthy partition needs none."""
    rows = {b"u": row(b"u", 5)}
    mark = total(rows, 60)._replace(kept=b"counts")
    assert not plan([found(0, rows, 60, mark=mark)], None, False)[0].needed
    [change] = plan([found(0, {}, 60, mark=mark)], None, True)
    assert change.mark == Mark(60, 0, 0, 0, b"counts")


def test_the_head_of_a_row_has_its_fields() -> None:
    """A repair changes only the offset and the checksum of a row, of any layout."""
    whole = row(b"u", 5, last_ms=7, clicks=3)
    fields = np.frombuffer(whole, ROW)[0]
    assert Head.of(whole) == tuple(fields[name] for name in Head._fields)
    other = with_head(b"u", whole, source_offset=9)
    assert intact(b"u", other)
    assert (Head.of(other).source_offset, other[24:]) == (9, whole[24:])


def test_rows_move_to_where_their_keys_belong_and_the_second_repair_changes_nothing() -> None:
    """After partitions were added every row is once, intact, in its partition, and belongs to no click there yet."""
    keys = [b"user%d" % n for n in range(200)]
    old = [{key: row(key, n) for n, key in enumerate(keys) if murmur2(key) % 2 == p} for p in range(2)]
    parts = [found(p, old[p], 90) for p in range(2)]
    parts += [Found(Partition("clicks", p), 0, 30) for p in (2, 3)]
    changes = plan(parts, lambda key: murmur2(key) % 4, False)
    now = after(changes)
    assert sorted(key for one in now for key in one.rows) == sorted(keys)
    for number, one in enumerate(now):
        assert one.mark == total(dict(one.rows), one.mark.next if one.mark else -1)
        assert one.committed == (90 if number < 2 else 0)
        for key, value in one.rows.items():
            assert murmur2(key) % 4 == number
            assert intact(key, value)
            assert Head.of(value).source_offset < (one.committed or 0)
    assert sum(change.arrived for change in changes) == sum(change.left for change in changes) > 0
    assert not any(change.needed for change in plan(now, lambda key: murmur2(key) % 4, False))


def test_user_with_two_rows_keeps_the_longer_history() -> None:
    """Two producers had put one user into two partitions: the row with more clicks stays."""
    longer, newer = row(b"u", 9, last_ms=5, clicks=50), row(b"u", 9, last_ms=6)
    changes = plan([found(0, {b"u": newer}, 10), found(1, {b"u": longer}, 10)], lambda key: 1, False)
    now = after(changes)
    assert [len(one.rows) for one in now] == [0, 1]
    assert Head.of(now[1].rows[b"u"]).clicks == 50
    assert sum(change.merged for change in changes) == 1


@pytest.mark.parametrize(
    ("case", "next_"),
    [
        ({"committed": None, "replaced": False}, 60),  # offsets expired
        ({"committed": 0, "replaced": False}, 60),  # set back: these clicks were decided
        ({"committed": 80, "replaced": False}, 80),  # an older changelog: these clicks were decided, too
        ({"committed": None, "replaced": True}, 0),  # the topic was created again
        ({"committed": None, "replaced": True, "first": 5}, 5),
        ({"committed": None, "end": 20}, 0),  # nothing to compare, but the topic is too short
        ({"committed": 60, "end": 20, "replaced": False}, 20),  # Kafka lost decided clicks
        ({"committed": None, "first": 70}, 60),  # retention has passed: the worker counts what is lost
        ({}, 60),
    ],
)
def test_offset_to_continue_at(case: dict[str, object], next_: int) -> None:
    """No click is decided twice and none is left out, whatever happened to offsets and clicks."""
    [change] = plan([found(0, {b"u": row(b"u", 59)}, 60, **case)], None, False)
    assert change.next == next_
    assert change.needed == bool(case)
    [kept] = after([change])[0].rows.items()
    assert intact(*kept)
    assert Head.of(kept[1]).source_offset < max(next_, 1)
    assert not plan(after([change]), None, False)[0].needed


def test_topic_that_may_be_a_new_one_is_asked_for() -> None:
    """If no click is left to compare, the command does not guess."""
    with pytest.raises(ConfigError, match="--clicks same"):
        plan([found(0, {}, 60, committed=None)], None, False)


def test_missing_rows_are_refused_until_they_are_given_up() -> None:
    """An empty, shortened or deleted changelog needs --accept-lost-rows; then no click is decided twice."""
    rows = {b"u": row(b"u", 59)}
    for lost in (
        found(0, {}, 60, mark=total(rows, 60)),
        found(0, {}, 60, mark=None),
        found(0, rows, 60, mark=Mark(60, 1, 5)),
        found(0, {}, 60, mark=Mark(60, 2, 5), broken=[b"v"]),
    ):
        with pytest.raises(ConfigError, match="--accept-lost-rows"):
            plan([lost], None, False)
        [change] = plan([lost], None, True)
        assert change.next == 60
        assert change.mark == total(dict(lost.rows), 60)


def test_broken_row_is_deleted() -> None:
    """One broken row costs its user the history, and the others continue."""
    rows = {b"u": row(b"u", 59)}
    [change] = plan([found(0, rows, 60, mark=Mark(60, 2, 5), broken=[b"v"])], None, False)
    assert change.rows == {b"v": None}
    assert change.mark == total(rows, 60)


def test_begun_repair_is_ended() -> None:
    """A partition whose mark an earlier repair replaced gets a mark again, also if nothing else changes."""
    [change] = plan([found(0, {b"u": row(b"u", 5)}, 60, begun=True)], None, False)
    assert change.needed
    assert not change.rows


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 10**6)), max_size=60),
    st.lists(st.sampled_from([None, 0, 40, 60, 200]), min_size=4, max_size=4),
    st.lists(st.sampled_from([True, False]), min_size=4, max_size=4),
)
def test_any_state_is_repaired_once(
    users: list[tuple[int, int]], committed: list[int | None], replaced: list[bool]
) -> None:
    """Whatever rows and offsets are there: no row is lost, and the second repair changes nothing."""
    rows: list[dict[bytes, bytes]] = [{} for _ in range(4)]
    for number, name in users:
        key = b"user%d" % name
        rows[number][key] = row(key, name % 60, last_ms=name)
    parts = [found(p, rows[p], 60, committed=committed[p], replaced=replaced[p]) for p in range(4)]
    changes = plan(parts, lambda key: murmur2(key) % 4, False)
    now = after(changes)
    assert {key for one in now for key in one.rows} == {key for some in rows for key in some}
    assert all(murmur2(key) % 4 == n for n, one in enumerate(now) for key in one.rows)
    assert not any(change.needed for change in plan(now, lambda key: murmur2(key) % 4, False))


def test_an_open_session_ends_in_the_time_of_its_new_partition() -> None:
    """One that has ended has no second end, and one that has not ended has one."""
    minute_ms = 60_000
    rows = {}
    for key, minute in ((b"open", 90), (b"ended", 60)):
        one = np.frombuffer(row(key, 5), ROW).copy()
        one["seen_ms"] = minute * minute_ms
        one["checksum"] = checksums([key], one)
        rows[key] = one.tobytes()
    mark = total(rows, 60)._replace(time_ms=100 * minute_ms)
    moved = plan([found(0, rows, 60, mark=mark), found(1, {}, 60, mark=Mark(60, 0, 0, 7_000_000))], lambda _: 1, False)
    heads = {key: Head.of(value) for key, value in moved[1].rows.items() if value}
    assert {key: head.seen_ms for key, head in heads.items()} == {b"open": 7_000_000, b"ended": 0}
    new = plan([found(0, rows, 60, mark=mark), found(1, {}, 0, mark=None, committed=None)], lambda _: 1, False)
    assert new[1].mark is not None
    assert new[1].mark.time_ms == 100 * minute_ms
