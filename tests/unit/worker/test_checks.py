"""What a worker refuses before it joins: rows of another group, and never those of a group that goes on meanwhile."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from confluent_kafka import TopicPartition

from stream.errors import ConfigError
from stream.events import Partition
from stream.kafka.changelog import Changelog, Mark, Position
from stream.kafka.waiting import KafkaWatch
from stream.state.arena import Arena
from stream.worker.checks import check_rows

ONE, TWO = Partition("clicks", 0), Partition("clicks", 1)


class Group:
    """A changelog beside a group's offsets.

    seen   what a first look shows of the two: (offset, mark) of each partition
    later  what the reads that wait show one after another: (offset before, mark, offset after)
    """

    group, topic = "shop", "changelog"

    def __init__(self, seen: tuple[int | None, int | None], later: tuple[int | None, int | None, int | None]) -> None:
        self.seen = seen
        self.offsets, self.mark = [later[0], later[2]], later[1]
        self.asked: list[Partition] = []

    def consumer(self, isolation: str) -> Any:
        assert isolation == "read_uncommitted", "a dead worker's transaction would be waited for"

        def committed(asked: Sequence[TopicPartition], timeout: float) -> list[TopicPartition]:
            return [TopicPartition(at.topic, at.partition, -1001 if self.seen[0] is None else 7) for at in asked]

        return SimpleNamespace(committed=committed, close=lambda: None)

    def newest(self, partitions: Sequence[Partition], take: Any) -> dict[Partition, Mark]:
        marks = {ONE: self.seen[1], TWO: None if self.seen[0] is None else 7}
        return {p: Mark(at, 0, 0) for p in partitions if (at := marks[p]) is not None}

    def positions(self, partitions: Sequence[Partition]) -> dict[Partition, Position]:
        self.asked += partitions
        return dict.fromkeys(partitions, Position(self.offsets.pop(0), 0))

    def marks(self, partitions: Sequence[Partition]) -> dict[Partition, Mark]:
        return {} if self.mark is None else dict.fromkeys(partitions, Mark(self.mark, 0, 0))

    def ends(self, partitions: Sequence[Partition]) -> dict[Partition, tuple[int, int]]:
        return dict.fromkeys(partitions, (0, 0 if self.mark is None else 9))


def check(group: Group) -> None:
    arena = cast(Arena, SimpleNamespace(check=lambda *_: None))
    check_rows(cast(Changelog, group), arena, "clicks", 2, cast(KafkaWatch, SimpleNamespace(answered_s=0.0)))


@pytest.mark.parametrize(
    ("seen", "later", "message"),
    [
        ((None, 9), (None, 9, None), "has no committed offset there"),
        ((7, 9), (7, 9, 7), "at offset 9 of clicks-0, but group shop is at 7"),
        ((7, 5), (7, 5, 7), "at offset 5 of clicks-0, but group shop is at 7"),
        ((7, None), (7, None, 7), "the changelog has no rows of that partition"),
    ],
)
def test_rows_of_another_group_are_refused(seen: Any, later: Any, message: str) -> None:
    """Marks without an offset, after it or before it, and an offset beside an empty changelog."""
    with pytest.raises(ConfigError, match=message):
        check(Group(seen, later))


@pytest.mark.parametrize(
    ("seen", "later"),
    [((7, 9), (9, 12, 15)), ((7, 9), (9, 9, 9)), ((None, 9), (9, 9, 12)), ((7, None), (None, None, None))],
    ids=["between", "at rest", "a new group", "offsets that are gone"],
)
def test_a_group_that_goes_on_meanwhile_is_not_refused(seen: Any, later: Any) -> None:
    """A mark between the offsets before and after it is right; only the partitions that differ are read again."""
    group = Group(seen, later)
    check(group)
    assert group.asked == [ONE, ONE]


def test_offsets_and_rows_that_agree_are_read_once() -> None:
    """No read waits for a transaction that a killed worker has left open."""
    group = Group((7, 7), (None, None, None))
    check(group)
    assert not group.asked
