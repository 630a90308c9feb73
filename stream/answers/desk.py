"""Finds the answer to a request: from the rows of this worker, or from the worker that has the user's partition.

A user has one row, in the partition of the user's clicks. Kafka does not store which partitioner chose it. So the rows
themselves decide: a worker looks in all partitions that it has. For a user that it does not find it asks the owner of
the partition that the producers' partitioner gives, or, while that is not known, all workers. Nobody has a row of the
user only if all partitions in question were looked in.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import msgspec

from stream.answers.asked import Asked
from stream.answers.similar import Similar
from stream.answers.users import Users
from stream.answers.workers import RETRY_S, Member, Workers
from stream.errors import EddyError, Unanswered
from stream.kafka.partitioners import PARTITIONERS, Verdict
from stream.wire.codec import Codec

T = TypeVar("T")


class Latest(msgspec.Struct):
    """The latest alerts of one worker, each with the time of its commit."""

    anomalies: list[dict[str, Any]]


class Partitioner:
    """The partitioner that all producers of the clicks use, as far as it is known from the clicks.

    partitions  number of partitions of the clicks topic
    """

    def __init__(self, partitions: int) -> None:
        self._all = frozenset(range(partitions))
        self._name: str | None = None

    def note(self, verdict: Verdict) -> None:
        """Take over what a sample of keys shows; one that shows nothing changes nothing. Any thread may call it."""
        if len(verdict.found) == 1 and not verdict.unexplained and not verdict.split:
            self._name = verdict.found[0]
        elif verdict.mixed or verdict.unknown:
            self._name = None

    def partitions_of(self, key: bytes) -> frozenset[int]:
        """The partitions that may have a row of the user with this message key."""
        if self._name is None:
            return self._all
        return frozenset({PARTITIONERS[self._name](key) % len(self._all)})


@dataclass(frozen=True)
class Open:
    """What a worker answers from, once it has started.

    out          returns whether Kafka does not answer
    k            length of a list if the request gives none
    forget       writes a request to forget the user with this message key; blocks. Returns the number of partitions
    """

    users: Users
    codec: Codec
    partitioner: Partitioner
    workers: Workers
    similar: Similar
    out: Callable[[], bool]
    k: int
    forget: Callable[[bytes], int]


class Desk:
    """Answers requests. Every method is called in the event loop of the HTTP port.

    It makes an answer there: a different thread would add two hand-overs, and each may wait for the GIL. What takes a
    core for longer, or waits for Kafka, runs in a thread, one at a time; other requests are answered meanwhile.

    open  None until the worker has loaded its model and joins the group
    """

    def __init__(self) -> None:
        self.open: Open | None = None
        self._one_at_a_time = asyncio.Lock()

    def opened(self) -> Open:
        """Raises Unanswered while the worker starts, and while Kafka does not answer.

        Without Kafka, another worker may have taken the partitions, and this one would not know.
        """
        if self.open is None:
            raise Unanswered(503, "the worker loads its model and checks the topics", RETRY_S)
        if self.open.out():
            raise Unanswered(503, "Kafka does not answer, so the states may be those of an earlier time", RETRY_S)
        return self.open

    async def recommendations(
        self, id_: str, asked: Asked, path: str, query: str, forwarded: bool
    ) -> dict[str, Any] | bytes | frozenset[int]:
        """The list of a user: a JSON object, or one as bytes from another worker.

        id_          the user's id, as the message key has it
        path, query  of the request, to pass it on
        forwarded    the request comes from a worker
        returns      for a forwarded request that finds no row: the partitions of this worker
        """
        open_, user, key = self._user(id_)
        needed = open_.partitioner.partitions_of(key)
        new_if_in = None if forwarded else needed
        found = open_.users.recommendations(user, asked, new_if_in)
        if found.answer is None:
            if forwarded:
                return found.partitions
            answer = await open_.workers.ask(path, query, needed - found.partitions)
            if answer is not None:
                return answer
            found = open_.users.recommendations(user, asked, frozenset())
            assert found.answer is not None
        if found.because is not None:
            return found.answer | await self._in_thread(found.because)
        return found.answer

    async def state(
        self, id_: str, k: int, path: str, query: str, forwarded: bool
    ) -> dict[str, Any] | bytes | frozenset[int]:
        """What is known of a user, as `recommendations`. Raises Unanswered if nothing is."""
        open_, user, key = self._user(id_)
        found = open_.users.state(user, k)
        if found.answer is not None:
            return found.answer
        if forwarded:
            return found.partitions
        missing = open_.partitioner.partitions_of(key) - found.partitions
        answer = await open_.workers.ask(path, query, missing) if missing else None
        if answer is None:
            raise Unanswered(404, "no state of this user: no click was decided, or the user is forgotten")
        return answer

    def user(self, id_: str) -> str:
        """The user with this id as rows and alerts have it. Raises Unanswered."""
        return self._user(id_)[1].decode()

    async def anomalies(self, own: list[dict[str, Any]], limit: int, path: str, query: str) -> dict[str, Any]:
        """The latest alerts of all workers, newest first, and why some have not answered.

        own    those of this worker, which are the answer while Kafka does not say which other workers there are
        limit  largest number of alerts
        """
        try:
            answers = await self.opened().workers.ask_all(path, query)
        except Unanswered as exc:
            return {"anomalies": own, "unanswered": [str(exc)]}
        found, unanswered = [*own], []
        for member, answer in answers:
            read = _read(member, answer, Latest)
            if isinstance(read, Latest):
                found += read.anomalies
            elif read is not None:
                unanswered.append(str(read))
        found.sort(key=lambda alert: -int(alert.get("committed", 0)))  # stable: a worker's own order stays
        return {"anomalies": found[:limit], "unanswered": unanswered}

    async def workers(self, own: dict[str, Any]) -> dict[str, Any]:
        """The workers of the group: partitions and figures of each.

        own  the figures of this worker, as on /v1/status
        """
        answers = await self.opened().workers.ask_all("/v1/status", "")
        return {"workers": [_worker(member, answer, own) for member, answer in answers]}

    async def forget(self, id_: str) -> int:
        """Write a request to forget a user. Returns to how many partitions it was written."""
        open_, _, key = self._user(id_)
        return await self._in_thread(partial(open_.forget, key))

    async def similar(self, item: str, k: int) -> dict[str, Any]:
        """The items that are similar to one, as `Similar.of`."""
        return await self._in_thread(partial(self.opened().similar.of, item, k))

    async def _in_thread(self, answer: Callable[[], T]) -> T:
        async with self._one_at_a_time:
            return await asyncio.to_thread(answer)

    def _user(self, id_: str) -> tuple[Open, bytes, bytes]:
        """The user with this id, as rows have it, and the message key. Raises Unanswered."""
        open_ = self.opened()
        try:
            key = id_.encode()
        except UnicodeEncodeError:  # half of a surrogate pair
            key = b""
        user = open_.codec.user(key) if key else None
        if user is None:
            raise Unanswered(400, "no click can have this user id: it must be 1 to 256 characters in UTF-8")
        return open_, user, key


def _worker(member: Member, answer: bytes | Unanswered | None, own: dict[str, Any]) -> dict[str, Any]:
    """One worker of the group as a JSON object; `this` is True for the one that answers."""
    read = _read(member, answer, dict[str, Any])
    return {
        "client_id": member.client_id,
        "this": read is None,
        "partitions": sorted(member.partitions),
        "status": own if read is None else read if isinstance(read, dict) else None,
        "error": str(read) if isinstance(read, Unanswered) else None,
    }


def _read(member: Member, answer: bytes | Unanswered | None, kind: type[T]) -> T | Unanswered | None:
    """The answer of a worker as an object of a type, or why it has none; None if it is this worker."""
    if not isinstance(answer, bytes):
        return answer
    try:
        return msgspec.json.decode(answer, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Unanswered(503, f"worker {member.client_id} has sent something else: it is no worker of this version")


def reason(exc: EddyError) -> Unanswered:
    """The answer for an error that is not about the request: of Kafka, or of the disk of the states."""
    return exc if isinstance(exc, Unanswered) else Unanswered(503, str(exc), RETRY_S)
