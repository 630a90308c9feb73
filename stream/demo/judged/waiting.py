"""What waits for a user's next click, or for the time that passes without one."""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class _Since(NamedTuple, Generic[T]):
    last_ms: int
    what: T


class Waiting(Generic[T]):
    """One thing for each user who has clicked within `limit_ms`.

    The clicks of a partition come in the order of their times, but those of two partitions do not: so each partition
    has a time of its own.
    """

    def __init__(self, limit_ms: int) -> None:
        self._limit_ms = limit_ms
        self._of: dict[int, OrderedDict[str, _Since[T]]] = {}  # partition -> users, in the order of the last clicks

    def over(self, partition: int, now_ms: int) -> Iterator[T]:
        """Remove what has waited for `limit_ms` when a partition is at this time."""
        users = self._users(partition)
        while users and now_ms - next(iter(users.values())).last_ms >= self._limit_ms:
            yield users.popitem(last=False)[1].what

    def pop(self, partition: int, user: str) -> T | None:
        """Remove what waits for a click of this user."""
        since = self._users(partition).pop(user, None)
        return None if since is None else since.what

    def put(self, partition: int, user: str, now_ms: int, what: T) -> None:
        """Let a thing wait from a click of the user on; call `pop` first."""
        self._users(partition)[user] = _Since(now_ms, what)

    def _users(self, partition: int) -> "OrderedDict[str, _Since[T]]":
        return self._of.setdefault(partition, OrderedDict())
