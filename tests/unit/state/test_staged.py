"""Staged rows, and the arena during rebalances, against plain dictionaries."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.events import Partition
from stream.manifest import Tensor
from stream.state.arena import NO_SLOT, Arena, Owner
from stream.state.blocks import BLOCK_SLOTS
from stream.state.checksum import checksums
from stream.state.evict import NEVER, Forgetting, Swept
from stream.state.row import NO_ITEM, NO_OFFSET, Rows, new_rows, row_dtype
from stream.state.staged import Committed, Staged, copies, stage

DTYPE = row_dtype((Tensor("h", (2,)),), recent=3)
MODEL = 5
ONE, TWO = Partition("clicks", 0), Partition("clicks", 1)
OWNERS = st.lists(
    st.tuples(st.sampled_from([ONE, TWO]), st.sampled_from([b"a", b"b", b"c", "\u00fc".encode()])), unique=True
)


def marked(count: int, first: int) -> np.ndarray:
    rows = new_rows(count, DTYPE, MODEL)
    rows["clicks"] = np.arange(first, first + count)
    return rows


def staged(arena: Arena, owners: list[Owner], rows: Rows) -> Staged:
    return stage(arena, owners, arena.find(owners), rows, Swept((), 0, 0))


def put(arena: Arena, owners: list[Owner], rows: Rows) -> None:
    arena.scatter(owners, arena.find(owners), rows)


def contents(arena: Arena) -> dict[Owner, bytes]:
    """Every row of the arena by its owner."""
    return {(partition, key): row for partition in (ONE, TWO) for key, row in arena.rows(partition).items()}


@settings(max_examples=40)
@given(OWNERS, OWNERS)
def test_staged_rows_are_copies_for_known_users_and_new_for_all_others(known: list[Owner], asked: list[Owner]) -> None:
    """A known user continues from the stored row; an unknown one has a zero state, no items and no offset."""
    arena = Arena(DTYPE, MODEL)
    put(arena, known, marked(len(known), 100))
    stored, new = contents(arena), new_rows(1, DTYPE, MODEL).tobytes()
    assert [row.tobytes() for row in copies(arena, arena.find(asked))] == [stored.get(owner, new) for owner in asked]


@settings(max_examples=40)
@given(OWNERS, OWNERS)
def test_steps_on_staged_rows_reach_the_arena_at_commit_only(known: list[Owner], asked: list[Owner]) -> None:
    """To roll back, the staged rows are dropped; a commit changes only the rows of its users."""
    arena = Arena(DTYPE, MODEL)
    put(arena, known, marked(len(known), 100))
    before = contents(arena)
    rows = copies(arena, arena.find(asked))
    rows["clicks"] += 7
    rows["h"] = 0.5
    change = staged(arena, asked, rows)
    assert contents(arena) == before
    change.commit(arena)
    assert contents(arena) == before | {owner: row.tobytes() for owner, row in zip(asked, rows, strict=True)}


@settings(max_examples=40)
@given(OWNERS, OWNERS, OWNERS, st.data())
def test_rows_put_in_place_early_are_not_remembered_before_their_commit(
    known: list[Owner], first: list[Owner], second: list[Owner], data: st.DataObject
) -> None:
    """The engine goes on from them, but whoever asks gets what Kafka has: removed rows, too, and users without one."""
    arena = Arena(DTYPE, MODEL)
    rows_of = Committed(arena, NEVER)
    put(arena, known, marked(len(known), 100))
    every = [(partition, key) for partition in (ONE, TWO) for key in (b"a", b"b", b"c", b"nobody")]

    def remembered() -> dict[Owner, bytes]:
        have, rows = rows_of.remembered(every)
        return {owner: row.tobytes() for owner, row, has in zip(every, rows, have, strict=True) if has}

    def of(owners: list[Owner]) -> dict[Owner, bytes]:
        return {owner: row for owner, row in contents(arena).items() if owner in owners}

    before = of(every)
    gone = [owner for owner in known if owner not in first]
    swept = data.draw(st.lists(st.sampled_from(gone), unique=True)) if gone else []
    early = stage(arena, first, arena.find(first), marked(len(first), 200), Swept(swept, 0, 0))
    rows_of.put_early(early)
    between = of(every)
    assert remembered() == before
    late = staged(arena, second, marked(len(second), 300))
    rows_of.commit(early)
    assert remembered() == between == of(every)
    rows_of.commit(late)
    assert remembered() == of(every)


def test_nobody_is_forgotten_by_the_time_of_rows_that_are_not_committed() -> None:
    """The partition's time that Kafka has counts for whoever asks."""
    arena, asked = Arena(DTYPE, MODEL), [(ONE, b"a")]
    rows_of, rows, others = Committed(arena, Forgetting(10)), marked(2, 1), [(ONE, b"b")]
    rows["clicks"], rows["last_ms"] = 2, 100
    put(arena, [*asked, *others], rows)
    arena.advance(ONE, 100)
    early = stage(arena, others, arena.find(others), marked(1, 2), Swept((), 0, 0), times={ONE: 200})
    rows_of.put_early(early)
    assert rows_of.remembered(asked)[0].tolist() == [True]
    rows_of.commit(early)
    assert rows_of.remembered(asked)[0].tolist() == [False]


@settings(max_examples=40)
@given(OWNERS, OWNERS, st.data())
def test_totals_of_a_cycle_are_those_of_the_arena_after_its_commit(
    known: list[Owner], asked: list[Owner], data: st.DataObject
) -> None:
    """What a cycle writes to Kafka about a partition is what memory, and whoever reads the rows, add up to then."""
    arena = Arena(DTYPE, MODEL)
    staged(arena, known, marked(len(known), 100)).commit(arena)
    gone = [owner for owner in known if owner not in asked]
    swept = data.draw(st.lists(st.sampled_from(gone), unique=True)) if gone else []
    change = stage(arena, asked, arena.find(asked), marked(len(asked), 5), Swept(swept, 0, 0))
    assert change.totals.keys() == {partition for partition, _ in [*asked, *swept]}
    change.commit(arena)
    for partition, totals in change.totals.items():
        checksums = [int.from_bytes(row[:8], "little") for row in arena.rows(partition).values()]
        assert totals == arena.totals(partition) == (len(checksums), sum(checksums) % 2**64)


@settings(max_examples=40)
@given(OWNERS)
def test_the_changelog_restores_what_was_committed(asked: list[Owner]) -> None:
    """Keys and values that a cycle writes to Kafka give a second worker the same rows, byte for byte."""
    arena, other = Arena(DTYPE, MODEL), Arena(DTYPE, MODEL)
    change = staged(arena, asked, marked(len(asked), 1))
    change.commit(arena)
    written: dict[Partition, dict[bytes, bytes]] = {ONE: {}, TWO: {}}
    for partition, key, value in change.changelog:
        assert len(value) == DTYPE.itemsize
        written[partition][key] = value
    for partition, rows in written.items():
        other.hold(partition)
        assert other.load(partition, rows) == []
    assert contents(other) == contents(arena)
    assert len(other) == len(asked)


def test_slots_of_a_lost_partition_are_used_again() -> None:
    """The arena does not grow when rebalances remove a partition and give it back."""
    arena = Arena(DTYPE, MODEL)
    owners = [(ONE, b"%d" % user) for user in range(700)]
    for turn in range(20):
        put(arena, owners, marked(len(owners), turn))
        arena.drop(ONE)
    put(arena, owners, marked(len(owners), 0))
    slots = arena.find(owners).slots.tolist()
    assert len(set(slots)) == len(slots)
    assert 0 <= min(slots) <= max(slots) < BLOCK_SLOTS


def test_a_partition_restored_twenty_times_needs_the_memory_of_one() -> None:
    """A recovery replaces all rows of a partition; no row without an owner remains."""
    arena = Arena(DTYPE, MODEL)
    rows = marked(900, 0)
    rows["checksum"] = checksums([b"%d" % user for user in range(900)], rows)
    rows = {b"%d" % user: row.tobytes() for user, row in enumerate(rows)}
    for _ in range(20):
        arena.hold(ONE)
        arena.load(ONE, rows)
    assert arena.rows(ONE) == rows
    assert arena.find([(ONE, key) for key in rows]).slots.max() < BLOCK_SLOTS


def test_a_slot_that_is_used_again_starts_from_zeros() -> None:
    """After a rebalance a new user in a used slot starts from a zero state, not from the state of the earlier user."""
    arena = Arena(DTYPE, MODEL)
    strangers = [(ONE, b"%d" % user) for user in range(BLOCK_SLOTS)]
    old = marked(BLOCK_SLOTS, 1)
    old["h"], old["recent"], old["source_offset"] = 9.0, 3, 77
    put(arena, strangers, old)
    arena.drop(ONE)
    staged(arena, [(TWO, b"new")], copies(arena, arena.find([(TWO, b"new")]))).commit(arena)
    row = np.frombuffer(arena.rows(TWO)[b"new"], DTYPE)[0]
    assert row["h"].tolist() == [0.0, 0.0]
    assert row["recent"].tolist() == [NO_ITEM] * 3
    assert row["source_offset"] == NO_OFFSET


def test_gathered_rows_are_a_copy() -> None:
    """A change of gathered rows does not change a user's state."""
    arena = Arena(DTYPE, MODEL)
    put(arena, [(ONE, b"a")], marked(1, 4))
    before = arena.rows(ONE)
    gathered = arena.gather(arena.find([(ONE, b"a")]).slots)
    gathered["clicks"] = 0
    assert arena.rows(ONE) == before


def test_partitions_are_those_that_are_held_even_without_a_user() -> None:
    """A partition with an empty changelog is held from `hold` to `drop`; dropping an unknown one is nothing."""
    arena = Arena(DTYPE, MODEL)
    arena.drop(ONE)
    arena.hold(TWO)
    arena.hold(ONE)
    put(arena, [(ONE, b"u")], marked(1, 1))
    assert arena.partitions() == [ONE, TWO]
    assert (len(arena), arena.rows(TWO), arena.find([(TWO, b"u")]).slots.tolist()) == (1, {}, [NO_SLOT])
    arena.drop(TWO)
    assert arena.partitions() == [ONE]
