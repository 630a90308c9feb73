"""Lists are judged by the next click of their user."""

import numpy as np

from stream.events import Partition
from stream.lists.hits import Hits
from stream.lists.top import Lists
from stream.state.arena import Owner

CLICKS_0, CLICKS_1 = Partition("clicks", 0), Partition("clicks", 1)
ANN, BEN = (CLICKS_0, b"ann"), (CLICKS_0, b"ben")


def judge(hits: Hits, *clicks: tuple[Owner, int, list[int]], begins: bool = False) -> tuple[int, int]:
    """Judge one batch of clicks: (user, clicked item, the list after the click)."""
    owners = list(dict.fromkeys(user for user, _, _ in clicks))
    items = np.zeros((len(clicks), 3), np.int64)
    for row, (_, _, recommended) in zip(items, clicks, strict=True):
        row[: len(recommended)] = recommended
    return hits.judge(
        owners,
        np.array([owners.index(user) for user, _, _ in clicks], np.intp),
        np.full(len(clicks), begins),
        np.array([item for _, item, _ in clicks]),
        Lists(items, items.astype(np.float32), np.array([len(recommended) for _, _, recommended in clicks])),
    )


def test_a_list_is_judged_once_by_the_next_click_of_its_user() -> None:
    """In the same batch and in a later one; other users' clicks do not count, nor does the padding of a short list."""
    hits = Hits(every=1)
    assert judge(hits, (ANN, 9, [1, 2, 3]), (BEN, 9, [4]), (ANN, 2, [5, 6, 7])) == (1, 1)
    assert judge(hits, (BEN, 0, [4]), (ANN, 8, [1, 2, 3])) == (2, 0)
    assert judge(hits, (ANN, 3, [])) == (1, 1)


def test_a_click_without_a_list_and_one_that_begins_a_session_judge_and_leave_nothing() -> None:
    """With --lists last most clicks have none; and after a pause a user wants something else."""
    hits = Hits(every=1)
    judge(hits, (ANN, 9, [1]), (ANN, 1, []))
    assert judge(hits, (ANN, 1, [2])) == (0, 0)
    assert judge(hits, (ANN, 2, [3]), begins=True) == (0, 0)
    assert judge(hits, (ANN, 3, [1])) == (1, 1)


def test_one_user_id_in_two_partitions_is_two_users() -> None:
    """As everywhere in Eddy."""
    hits = Hits(every=1)
    judge(hits, (ANN, 9, [1]))
    assert judge(hits, ((CLICKS_1, b"ann"), 1, [1])) == (0, 0)


def test_memory_is_bounded_and_the_sample_is_of_users() -> None:
    """Of more users the latest ones stay; and each user of a sample is judged at every click."""
    hits = Hits(every=1, most_users=10)
    users = [(CLICKS_0, b"u%d" % n) for n in range(100)]
    judge(hits, *((user, 0, [1]) for user in users))
    assert judge(hits, *((user, 1, [1]) for user in users)) == (10, 10)
    sample = Hits(every=4)
    rounds = [judge(sample, *((user, 1, [1]) for user in users)) for _ in range(4)]
    judged = sum(hash(user) % 4 == 0 for _, user in users)
    assert rounds == [(0, 0)] + [(judged, judged)] * 3
    sample.forget()
    assert judge(sample, *((user, 1, [1]) for user in users)) == (0, 0)
