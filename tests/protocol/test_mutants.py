"""Each protection that needs no Kafka is taken out of the code, and its test fails. The others: tests/kafka."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from tests.protocol.mutant import Mutant, applied
from tests.unit.kafka import test_changelog, test_delivery
from tests.unit.kafka.test_changelog import kafka  # noqa: F401, a fixture
from tests.unit.worker import test_batch, test_chunks, test_recovery, test_undecided

RECOVERY = "stream.worker.cycles.recovery:Recovery."
FAILED = (pytest.fail.Exception, Exception)

MUTANTS: dict[str, tuple[Mutant, Callable[..., None], dict[str, Any]]] = {
    "compare": (
        Mutant(f"{RECOVERY}_restore", "if stands[p] != found[p].committed", "if False"),
        test_recovery.test_offset_and_rows_that_never_agree_are_refused,
        {"committed": 9, "stands": 7, "fragment": "older one"},
    ),
    "checksum": (
        Mutant(
            f"{RECOVERY}_check", "if not written.accounts_for(*totals, len(broken)) or len(broken) > most:", "if False:"
        ),
        test_recovery.test_rows_read_in_the_middle_of_another_workers_transaction_are_not_lost_rows,
        {"after": 5, "lost": True},
    ),
    "second look": (
        Mutant(f"{RECOVERY}_restore", "if any(again[p].committed != found[p].committed for p in partitions):", "if 0:"),
        test_recovery.test_rows_read_in_the_middle_of_another_workers_transaction_are_not_lost_rows,
        {"after": 6, "lost": False},
    ),
    "keep": (
        Mutant(f"{RECOVERY}_keep", "if marks.get(p) == ours[p] and", "if"),
        test_recovery.test_partition_is_kept_only_if_changelog_and_group_are_where_memory_is,
        {"mark": {"checksum": 1}, "committed": 5, "kept": 0},
    ),
    "keep (offset)": (
        Mutant(f"{RECOVERY}_keep", "and found[p].committed == had[p]", ""),
        test_recovery.test_partition_is_kept_only_if_changelog_and_group_are_where_memory_is,
        {"mark": {}, "committed": 6, "kept": 0},
    ),
    "abandoned reading": (
        Mutant(f"{RECOVERY}_in_engine", "if self._current is not assignment:", "if False:"),
        test_recovery.test_rows_of_an_assignment_that_is_over_do_not_reach_memory,
        {},
    ),
    "outcome": (
        Mutant(f"{RECOVERY}outcome", "if stands == offsets:", "if False:"),
        test_undecided.test_a_batch_is_sent_again_only_if_it_was_not_committed,
        {"position": 9, "sent": 1},
    ),
    "row checksum": (
        Mutant(
            "stream.state.arena:Arena.load",
            'loaded["checksum"] == checksums(known, loaded, rests)',
            "np.full(len(known), True)",
        ),
        test_recovery.test_broken_row_costs_its_user_the_history_and_nobody_else,
        {},
    ),
    "contiguity": (
        Mutant("stream.worker.cycles.decode:decode", "if chunk.begin != reached:", "if False:"),
        test_chunks.test_a_chunk_that_does_not_begin_at_the_end_of_the_last_one_is_refused,
        {"begin": 12},
    ),
    "chunk's generation": (
        Mutant("stream.worker.cycles.cycle:Cycles._decide", "if c.generation == assignment.generation and", "if"),
        test_chunks.test_a_chunk_of_an_older_generation_is_dropped,
        {},
    ),
    "revoked": (
        Mutant("stream.worker.cycles.writing:Writer.write", "if not current():", "if False:"),
        test_chunks.test_a_batch_that_is_processed_when_the_partitions_are_revoked_is_dropped,
        {},
    ),
    "late reading": (
        Mutant("stream.worker.cycles.cycle:Cycles.read", "if self._assignment is not assignment:", "if False:"),
        test_recovery.test_rows_that_are_read_when_the_partitions_are_revoked_move_no_fetcher,
        {},
    ),
    "rejoin": (
        Mutant("stream.worker.cycles.cycle:Cycles.check_rejoined", "if self._stale_at is not None and", "if False and"),
        test_recovery.test_offset_that_keeps_moving_leaves_nothing_assigned,
        {},
    ),
    "mark": (
        Mutant(
            "stream.worker.cycles.batch:decide",
            "_marks(engine.arena, cycle.staged, found.offsets, topics.changelog)",
            "_marks(engine.arena, cycle.staged, found.offsets if clicks else {}, topics.changelog)",
        ),
        test_chunks.test_offsets_without_clicks_are_skipped,
        {},
    ),
    "end of the clicks": (
        Mutant("stream.kafka.changelog:Changelog.positions", "if offset is not None and offset > high:", "if False:"),
        test_changelog.test_an_offset_beyond_the_end_is_refused,
        {"offset": 91, "fits": False},
    ),
    "last-applied offset": (
        Mutant(
            "stream.engine.engine:Engine.process",
            'clicks.offset > rows["source_offset"][clicks.owner]',
            "np.ones(len(clicks), bool)",
        ),
        test_batch.test_a_click_before_the_begin_of_its_chunk_is_not_decided_again,
        {},
    ),
    "membership": (
        Mutant("stream.kafka.delivery:group_metadata", "if generation < 0 or not member_id:", "if False:"),
        test_delivery.test_offsets_are_never_sent_without_a_membership,
        {"generation": -1, "member": ""},
    ),
}


@pytest.mark.parametrize("protection", MUTANTS)
def test_without_the_protection_its_test_fails(protection: str, request: pytest.FixtureRequest) -> None:
    """So no change can lose the protection unseen."""
    mutant, check, arguments = MUTANTS[protection]
    fixtures = inspect.signature(check).parameters.keys() - arguments.keys()
    arguments = arguments | {name: request.getfixturevalue(name) for name in fixtures}
    check(**arguments)
    with applied(mutant), pytest.raises(FAILED) as caught:
        check(**arguments)
    assert not isinstance(caught.value, NameError | TypeError), "the mutant is broken, not the promise"
