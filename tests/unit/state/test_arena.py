"""The arena against a plain dictionary of rows."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream.errors import ConfigError
from stream.events import Partition
from stream.manifest import Tensor
from stream.state import blocks
from stream.state.arena import NO_SLOT, Arena, Owner
from stream.state.blocks import BLOCK_SLOTS, Block, NewBlock
from stream.state.checksum import checksums
from stream.state.row import Rows, new_rows, row_dtype

STATE = (Tensor("h", (3,)), Tensor("c", (3,)))
DTYPE = row_dtype(STATE, recent=4)
MODEL = 77
PARTITIONS = [Partition("clicks", 0), Partition("clicks", 1), Partition("carts", 0)]


def rows_of(keys: list[bytes], values: list[int], model: int = MODEL) -> np.ndarray:
    rows = new_rows(len(values), DTYPE, model)
    rows["h"] = np.array(values, np.float32)[:, None]
    rows["clicks"] = values
    rows["checksum"] = checksums(keys, rows)
    return rows


def put(arena: Arena, owners: list[Owner], rows: Rows) -> None:
    arena.scatter(owners, arena.find(owners), rows)


def numbered(users: Iterable[int]) -> list[bytes]:
    return [b"%d" % user for user in users]


def test_a_row_has_no_byte_that_is_not_a_field() -> None:
    """Two rows are the same state exactly when their bytes are equal, so there may be no padding."""
    for width in range(1, 9):
        dtype = row_dtype((Tensor("h", (width,)),), recent=3)
        assert sum(dtype[name].itemsize for name in dtype.names) == dtype.itemsize
        assert dtype.itemsize % 8 == 0


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_SLOTS", 4)


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["put", "drop", "remove", "reload"]),
        st.sampled_from(PARTITIONS),
        st.lists(st.integers(0, 9), max_size=8),
    ),
    max_size=25,
)


@pytest.mark.usefixtures("small_blocks")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations=OPERATIONS)
def test_an_arena_has_the_written_rows_and_not_the_dropped_ones(
    new_block: NewBlock, operations: list[tuple[str, Partition, list[int]]]
) -> None:
    """After any order of writes, lost partitions and recoveries it has each user's newest row and no other."""
    arena, want, clock = Arena(DTYPE, MODEL, new_block), {}, 0
    for what, partition, users in operations:
        if what == "put":
            users = list(dict.fromkeys(users))
            values = list(range(clock, clock + len(users)))
            clock += len(users)
            keys = numbered(users)
            put(arena, [(partition, key) for key in keys], rows_of(keys, values))
            want.update({(partition, b"%d" % user): value for user, value in zip(users, values, strict=True)})
        elif what == "drop":
            arena.drop(partition)
            want = {owner: value for owner, value in want.items() if owner[0] != partition}
        elif what == "remove":
            gone = [owner for owner in want if owner[0] == partition and int(owner[1]) in users]
            arena.remove(gone)
            want = {owner: value for owner, value in want.items() if owner not in gone}
        else:
            rows = arena.rows(partition)
            arena.hold(partition)
            assert arena.load(partition, rows) == []
    assert len(arena) == len(want)
    for partition in PARTITIONS:
        checksums = [int.from_bytes(row[:8], "little") for row in arena.rows(partition).values()]
        assert arena.totals(partition) == (len(checksums), sum(checksums) % 2**64)
    for (partition, key), value in want.items():
        [slot] = arena.find([(partition, key)]).slots
        assert slot != NO_SLOT
        assert arena.gather(np.array([slot]))["clicks"].tolist() == [value]
        assert arena.rows(partition)[key] == rows_of([key], [value])[0].tobytes()


def test_it_grows_past_its_first_size_without_losing_a_row(new_block: NewBlock) -> None:
    """Users in several blocks: each has a row, whether they are read alone or together."""
    arena, count = Arena(DTYPE, MODEL, new_block), 2 * BLOCK_SLOTS + 500
    for start in range(0, count, 500):
        keys = numbered(range(start, min(start + 500, count)))
        put(arena, [(PARTITIONS[0], key) for key in keys], rows_of(keys, list(map(int, keys))))
    assert {key: np.frombuffer(row, DTYPE)["clicks"][0] for key, row in arena.rows(PARTITIONS[0]).items()} == {
        b"%d" % i: i for i in range(count)
    }
    asked = [count - 1, 3, BLOCK_SLOTS, 7, BLOCK_SLOTS - 1]
    slots = arena.find([(PARTITIONS[0], key) for key in numbered(asked)]).slots
    assert arena.gather(slots)["clicks"].tolist() == asked
    assert arena.ages(0, arena.capacity)[1].sum() == count * (count - 1) // 2
    assert arena.capacity == 3 * BLOCK_SLOTS


def test_a_row_that_the_disk_has_lost_is_not_used(new_block: NewBlock) -> None:
    """After a failed write, a disk gives back zeros or an older row. The error is one line; other rows are read."""
    made: list[Block] = []

    def noted(dtype: np.dtype[Any]) -> Block:
        made.append(new_block(dtype))
        return made[-1]

    arena, owners = Arena(DTYPE, MODEL, noted), [(PARTITIONS[0], key) for key in numbered(range(3))]
    put(arena, owners, rows_of([key for _, key in owners], [1, 2, 3]))
    slots = arena.find(owners).slots
    older = made[0].values[slots[1]].copy()
    put(arena, owners[1:2], rows_of([owners[1][1]], [9]))
    made[0].values[slots[1]] = older
    with pytest.raises(ConfigError, match=r"^[^\n]*the disk of --data-dir and start again[^\n]*$"):
        arena.gather(slots)
    assert arena.gather(slots[::2])["clicks"].tolist() == [1, 3]


@pytest.mark.parametrize("how", ["drop", "remove", "hold"])
def test_free_slots_are_used_again(new_block: NewBlock, how: str) -> None:
    """The arena does not grow when partitions are lost and restored and users are forgotten."""
    arena = Arena(DTYPE, MODEL, new_block)
    for start in range(0, 3 * BLOCK_SLOTS, BLOCK_SLOTS // 2):
        keys = numbered(range(start, start + BLOCK_SLOTS // 2))
        owners = [(PARTITIONS[0], key) for key in keys]
        put(arena, owners, rows_of(keys, list(range(len(keys)))))
        if how == "drop":
            arena.drop(PARTITIONS[0])
        elif how == "remove":
            arena.remove(owners)
        else:
            arena.hold(PARTITIONS[0])
        assert len(arena) == 0
        assert arena.totals(PARTITIONS[0]) == (0, 0)
    assert arena.capacity == BLOCK_SLOTS


@pytest.mark.parametrize("dtype", [DTYPE, row_dtype(STATE, recent=6)])
def test_rows_of_another_model_or_layout_are_refused(dtype: np.dtype[np.void]) -> None:
    """A changelog written with another model must not be read as this one's."""
    arena, rows = Arena(DTYPE, MODEL), new_rows(1, dtype, MODEL + 1)
    rows["checksum"] = checksums([b"u"], rows)
    with pytest.raises(ConfigError, match=r"another model.*--changelog-topic"):
        arena.load(PARTITIONS[0], {b"u": rows.tobytes()})


@given(at=st.integers(0, DTYPE.itemsize - 1), bit=st.integers(0, 7), cut=st.none() | st.integers(0, DTYPE.itemsize - 1))
def test_any_changed_bit_or_length_of_a_row_is_noticed(at: int, bit: int, cut: int | None) -> None:
    """A broken row is left out and named; the user's older row does not come back, and other rows are loaded."""
    arena = Arena(DTYPE, MODEL)
    good = {key: row.tobytes() for key, row in zip((b"a", b"b"), rows_of([b"a", b"b"], [1, 2]), strict=True)}
    assert arena.load(PARTITIONS[0], good) == []
    broken = bytearray(good[b"a"])
    broken[at] ^= 1 << bit
    assert arena.load(PARTITIONS[0], good | {b"a": bytes(broken[:cut])}) == [b"a"]
    assert arena.rows(PARTITIONS[0]) == {b"b": good[b"b"]}
    assert arena.load(PARTITIONS[0], {b"c": good[b"b"]}) == [b"c"]  # another user's row under this key
    assert arena.totals(PARTITIONS[0]) == (1, int.from_bytes(good[b"b"][:8], "little"))


def test_no_row_changes_while_a_reader_holds_the_lock() -> None:
    """Each method that changes rows waits in its thread until the reader has copied what it needs."""
    arena, partition = Arena(DTYPE, MODEL), PARTITIONS[0]
    keys = numbered(range(4))
    put(arena, [(partition, key) for key in keys], rows_of(keys, [1, 2, 3, 4]))
    [more] = numbered([9])
    changes = {
        "scatter": lambda: put(arena, [(partition, more)], rows_of([more], [5])),
        "remove": lambda: arena.remove([(partition, keys[0])]),
        "load": lambda: arena.load(partition, {keys[1]: None}),
        "drop": lambda: arena.drop(partition),
    }
    with ThreadPoolExecutor(1) as pool:
        for name, change in changes.items():
            before = arena.rows(partition)
            with arena.lock:
                future = pool.submit(change)
                assert not wait([future], timeout=0.05).done, name
                assert arena.rows(partition) == before, name
            future.result(10)
            assert arena.rows(partition) != before, name
