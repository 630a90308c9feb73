"""The arena against a plain dictionary of rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.errors import ConfigError
from stream.events import Partition
from stream.manifest import Tensor
from stream.state.arena import Arena
from stream.state.row import new_rows, row_dtype

STATE = (Tensor("h", (3,)), Tensor("c", (3,)))
DTYPE = row_dtype(STATE, recent=4)
MODEL = 77
PARTITIONS = [Partition("clicks", 0), Partition("clicks", 1), Partition("carts", 0)]


def rows_of(values: list[int]) -> np.ndarray:
    rows = new_rows(len(values), DTYPE, MODEL)
    rows["h"] = np.array(values, np.float32)[:, None]
    rows["clicks"] = values
    return rows


def test_a_row_has_no_byte_that_is_not_a_field() -> None:
    """Two rows are the same state exactly when their bytes are equal, so there may be no padding."""
    for width in range(1, 9):
        dtype = row_dtype((Tensor("h", (width,)),), recent=3)
        assert sum(dtype[name].itemsize for name in dtype.names) == dtype.itemsize
        assert dtype.itemsize % 8 == 0


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["put", "drop", "remove", "reload"]),
        st.sampled_from(PARTITIONS),
        st.lists(st.integers(0, 9), max_size=8),
    ),
    max_size=25,
)


@given(OPERATIONS)
def test_an_arena_holds_what_was_put_and_forgets_what_was_dropped(
    operations: list[tuple[str, Partition, list[int]]],
) -> None:
    """Any order of writes, lost partitions and recoveries leaves each user's newest row and no other."""
    arena, want, clock = Arena(DTYPE, MODEL), {}, 0
    for what, partition, users in operations:
        if what == "put":
            users = list(dict.fromkeys(users))
            values = list(range(clock, clock + len(users)))
            clock += len(users)
            arena.scatter([(partition, b"%d" % user) for user in users], rows_of(values))
            want.update({(partition, b"%d" % user): value for user, value in zip(users, values, strict=True)})
        elif what == "drop":
            arena.drop(partition)
            want = {owner: value for owner, value in want.items() if owner[0] != partition}
        elif what == "remove":
            gone = [owner for owner in want if owner[0] == partition and int(owner[1]) in users]
            arena.remove(gone)
            want = {owner: value for owner, value in want.items() if owner not in gone}
        else:
            arena.restore(partition, arena.rows(partition))
    assert len(arena) == len(want)
    for (partition, key), value in want.items():
        [slot] = arena.find([(partition, key)])
        assert slot is not None
        assert arena.gather(np.array([slot]))["clicks"].tolist() == [value]
        assert arena.rows(partition)[key] == rows_of([value])[0].tobytes()


def test_it_grows_past_its_first_size_without_losing_a_row() -> None:
    """More users than the first allocation."""
    arena = Arena(DTYPE, MODEL)
    for start in range(0, 5000, 500):
        arena.scatter(
            [(PARTITIONS[0], b"%d" % i) for i in range(start, start + 500)], rows_of(list(range(start, start + 500)))
        )
    assert {key: np.frombuffer(row, DTYPE)["clicks"][0] for key, row in arena.rows(PARTITIONS[0]).items()} == {
        b"%d" % i: i for i in range(5000)
    }


@pytest.mark.parametrize("how", ["drop", "remove", "restore"])
def test_slots_that_are_given_up_are_used_again(how: str) -> None:
    """Partitions that come and go, and users who leave, do not make the arena grow."""
    arena = Arena(DTYPE, MODEL)
    for start in range(0, 10_000, 1000):
        owners = [(PARTITIONS[0], b"%d" % i) for i in range(start, start + 1000)]
        arena.scatter(owners, rows_of(list(range(1000))))
        if how == "drop":
            arena.drop(PARTITIONS[0])
        elif how == "remove":
            arena.remove(owners)
        else:
            arena.restore(PARTITIONS[0], {})
        assert len(arena) == 0
    assert arena.capacity == 1024


def test_rows_of_another_model_or_size_are_refused() -> None:
    """A changelog written under another model must not be read as this one's."""
    arena = Arena(DTYPE, MODEL)
    with pytest.raises(ConfigError, match="another model"):
        arena.restore(PARTITIONS[0], {b"u": new_rows(1, DTYPE, MODEL + 1).tobytes()})
    with pytest.raises(ConfigError, match="bytes"):
        arena.restore(PARTITIONS[0], {b"u": b"short"})
