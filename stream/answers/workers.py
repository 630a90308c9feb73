"""Which worker of the group has which partitions, and where it answers.

Kafka is the only source: a worker writes its address into its client id, and the group's description has each member's
client id and partitions. So a worker that joins or leaves needs no other registration.
"""

import asyncio
import ipaddress
import logging
import socket
import time
from collections.abc import Iterable
from typing import NamedTuple

import aiohttp
import msgspec
from aiohttp import ClientTimeout
from confluent_kafka import ConsumerGroupState, KafkaException
from confluent_kafka.admin import MemberDescription
from yarl import URL

from stream.access.place import address_of
from stream.access.refusal import Admin
from stream.errors import Unanswered
from stream.settings import Settings

log = logging.getLogger(__name__)

FRESH_S = 2.0
"""For how long a description of the group is used. A worker that lost a partition meanwhile answers that it has."""

ANSWER_S = 3.0
"""How long Kafka, or another worker, may take."""

MOST_BYTES = 8 << 20
"""Of an answer. A list of 1,000 items with ids of 256 characters has less than 4 MB."""

RETRY_S = 1

FORWARDED = "Eddy-Forwarded"
"""The header of a request that comes from a worker. It is never passed on again."""


class Member(NamedTuple):
    """A worker of the group.

    client_id   has its address, see access.place
    partitions  of the clicks topic
    """

    client_id: str
    partitions: frozenset[int]


class Nothing(msgspec.Struct):
    """The answer of a worker that has no row of the user in `partitions`, which are all that it has."""

    partitions: list[int]


class Workers:
    """The workers of one group. Every method is called in one event loop.

    own    client id of this worker
    place  its group.instance.id. Kafka gives a worker that came back within its session the client id of the process
           before it
    """

    def __init__(self, admin: Admin, group: str, topic: str, own: str, place: str) -> None:
        self._admin = admin
        self._group = group
        self._topic = topic
        self._own = own
        self._place = place
        self._lock = asyncio.Lock()
        self._members: list[Member] = []
        self._read_s = -FRESH_S

    async def ask(self, path: str, query: str, partitions: frozenset[int]) -> bytes | None:
        """Ask the workers that have these partitions. Returns the answer of the one that has a row of the user.

        None if none of them has one, and they have all the partitions.
        Raises Unanswered if a partition is moving, or if a worker does not answer.
        """
        asked = [member for member in await self._described() if member.partitions & partitions]
        nobody = partitions.difference(*(member.partitions for member in asked))
        if nobody or any(member.client_id == self._own for member in asked):
            self._read_s = -FRESH_S
            raise moving(nobody or partitions)
        forwarded = (self._forward(member, path, query) for member in asked)
        answers = await asyncio.gather(*forwarded, return_exceptions=True)
        left = partitions
        for answer in answers:
            if isinstance(answer, bytes):
                return answer
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
            assert isinstance(answer, Nothing)
            left = left.difference(answer.partitions)
        if left:
            self._read_s = -FRESH_S
            raise moving(left)
        return None

    async def ask_all(self, path: str, query: str) -> list[tuple[Member, bytes | Unanswered | None]]:
        """Ask all workers of the group. Returns each member with its answer, or why it has none.

        The answer of this worker itself is None: it knows it. Raises Unanswered if Kafka does not describe the group.
        """
        members = await self._described()
        others = [member for member in members if member.client_id != self._own]
        found = await asyncio.gather(*(self._forward(each, path, query) for each in others), return_exceptions=True)
        answers: dict[str, bytes | Unanswered | None] = {}
        for member, answer in zip(others, found, strict=True):
            if isinstance(answer, Nothing):
                answer = Unanswered(503, f"worker {member.client_id} does not have {path}; it may be an older one")
            if isinstance(answer, BaseException) and not isinstance(answer, Unanswered):
                raise answer
            answers[member.client_id] = answer
        return [(member, answers.get(member.client_id)) for member in members]

    async def _described(self) -> list[Member]:
        """The members of the group, at most FRESH_S old."""
        async with self._lock:
            if time.monotonic() - self._read_s >= FRESH_S:
                self._members = await asyncio.to_thread(self._describe)
                self._read_s = time.monotonic()
            return self._members

    def _describe(self) -> list[Member]:
        future = self._admin.describe_consumer_groups([self._group], request_timeout=ANSWER_S)[self._group]
        try:
            group = future.result(timeout=ANSWER_S)
        except (KafkaException, TimeoutError):
            raise Unanswered(503, "Kafka does not answer which worker has which partitions", RETRY_S) from None
        if group.state != ConsumerGroupState.STABLE:
            raise Unanswered(503, "the group gives its partitions to workers at this moment", RETRY_S)
        return [Member(self._client_id(member), self._partitions(member)) for member in group.members]

    def _client_id(self, member: MemberDescription) -> str:
        return self._own if member.group_instance_id == self._place else str(member.client_id)

    def _partitions(self, member: MemberDescription) -> frozenset[int]:
        given = member.assignment.topic_partitions if member.assignment else []
        return frozenset(one.partition for one in given if one.topic == self._topic)

    async def _forward(self, member: Member, path: str, query: str) -> bytes | Nothing:
        address = address_of(member.client_id)
        if address is None:
            raise Unanswered(
                503, f"worker {member.client_id} is needed for the answer and has no address; give it --http-advertise"
            )
        url = URL(f"http://{address}{path}{'?' if query else ''}{query}", encoded=True)
        try:
            async with (
                aiohttp.ClientSession(timeout=ClientTimeout(ANSWER_S)) as session,
                session.get(url, headers={FORWARDED: "1"}, allow_redirects=False) as answer,
            ):
                status, body = answer.status, await answer.content.read(MOST_BYTES)
                while status == 200 and not answer.content.at_eof() and len(body) < MOST_BYTES:
                    body += await answer.content.read(MOST_BYTES)
        except (aiohttp.ClientError, TimeoutError, ValueError) as exc:
            self._read_s = -FRESH_S
            raise Unanswered(
                503,
                f"worker {member.client_id} is needed for the answer and does not answer ({type(exc).__name__}); if it "
                "lives, check --http-advertise, --http-answers and the network between the workers",
                RETRY_S,
            ) from exc
        if status == 200:
            return body
        return _nothing(member, status, body)


def _nothing(member: Member, status: int, body: bytes) -> Nothing:
    """The answer of a worker without a row. Raises Unanswered for any other answer."""
    if status == 404:
        try:
            return msgspec.json.decode(body, type=Nothing)
        except (msgspec.DecodeError, UnicodeDecodeError):
            pass
    try:
        reason = str(msgspec.json.decode(body, type=dict[str, object]).get("error"))
    except (msgspec.DecodeError, UnicodeDecodeError):
        reason = f"status {status}"
    raise Unanswered(400 if status == 400 else 503, f"worker {member.client_id}: {reason}", RETRY_S)


def moving(partitions: Iterable[int]) -> Unanswered:
    """The error for partitions that no worker is ready to answer for."""
    numbers = ", ".join(map(str, sorted(partitions)))
    return Unanswered(503, f"no worker has the states of partition {numbers} yet: they move, or are recovered", RETRY_S)


def warn_of_readers(settings: Settings) -> None:
    """Log that the port answers requests about users and listens on a network, if both is so."""
    host = settings.http_host
    if settings.http_answers and advertised("", host, settings.http_port):
        log.warning(
            "whoever reaches the HTTP port can read what is known of users: http_host=%s http_port=%d; let a firewall, "
            "a NetworkPolicy or a proxy admit only the shop's services and the other workers, or omit --http-host "
            "(docs/security.md)",
            host,
            settings.http_port,
        )


def advertised(given: str, host: str, port: int) -> str:
    """The address at which the group's other workers reach this one, host:port; "" if they cannot.

    given       as in Settings.http_advertise
    host, port  where this worker listens
    """
    if given or host == "localhost":
        return given
    try:
        where = ipaddress.ip_address(host)
    except ValueError:  # a name
        return f"{host}:{port}"
    if where.is_loopback:
        return ""
    name = socket.gethostname() if where.is_unspecified else f"[{where}]" if where.version == 6 else host
    return f"{name}:{port}"
