"""Requests that are passed on: to real servers, with the group's description by hand."""

import asyncio
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from confluent_kafka import ConsumerGroupState, KafkaException

from stream.access.place import address_of, client_id
from stream.answers.workers import FORWARDED, Member, Workers, advertised
from stream.errors import Unanswered
from stream.web.server import Server, listen

OWN, PLACE = "eddy-a!127.0.0.1:1@here/1", "eddy-a"


class Group:
    """An AdminClient of a group. `members` is client id -> numbers of partitions."""

    def __init__(self, **members: list[int]) -> None:
        self.members: dict[str, list[int]] = members
        self.state = ConsumerGroupState.STABLE
        self.asked = 0

    def describe_consumer_groups(self, groups: list[str], **_: Any) -> dict[str, Any]:
        self.asked += 1
        return {groups[0]: SimpleNamespace(result=self.result)}

    def result(self, timeout: float) -> Any:
        if self.state is None:
            raise KafkaException
        parts = {
            client: [SimpleNamespace(topic="clicks", partition=n) for n in numbers]
            for client, numbers in self.members.items()
        }
        members = [
            SimpleNamespace(
                client_id=client,
                group_instance_id=re.split("[!@]", client)[0],
                assignment=SimpleNamespace(topic_partitions=given),
            )
            for client, given in parts.items()
        ]
        return SimpleNamespace(state=self.state, members=members)


@pytest.fixture
def others() -> Iterator[dict[str, str]]:
    """Client ids of workers that have the user, have not, are not ready, and talk nonsense. `seen` has the request."""

    async def knows(request: web.Request) -> web.Response:
        header = request.headers.get(FORWARDED)
        return web.json_response({"user": request.match_info["id"], "query": request.query_string, "header": header})

    async def has_none(_: web.Request) -> web.Response:
        return web.json_response({"error": "no row", "partitions": [1, 2]}, status=404)

    async def refuses(_: web.Request) -> web.Response:
        return web.json_response({"error": "the worker loads its model"}, status=503)

    async def babbles(_: web.Request) -> web.Response:
        return web.Response(status=404, body=b"\xff{")

    with ExitStack() as stack:
        found = {}
        for handler in (knows, has_none, refuses, babbles):
            listener = listen("127.0.0.1", 0)
            port = listener.getsockname()[1]
            server = Server(listener, [web.get("/v1/users/{id}", handler)])
            stack.callback(server.close)
            found[handler.__name__] = f"eddy-{handler.__name__}!127.0.0.1:{port}@there/{port}"
        yield found


def ask(group: Group, partitions: set[int], path: str = "/v1/users/ann", query: str = "") -> bytes | None:
    return asyncio.run(Workers(group, "shop", "clicks", OWN, PLACE).ask(path, query, frozenset(partitions)))  # type: ignore[arg-type]


def test_a_request_is_passed_on_as_it_was_written(others: dict[str, str]) -> None:
    """With its escapes and its query, and with the header that ends the way."""
    answer = ask(Group(**{others["knows"]: [1], OWN: [0]}), {1}, "/v1/users/a%2Fb%20c", "k=3&exclude=i%2C1")
    assert json.loads(answer or b"") == {"user": "a/b c", "query": "k=3&exclude=i,1", "header": "1"}


def test_nobody_has_the_user_only_if_all_partitions_were_looked_in(others: dict[str, str]) -> None:
    """A worker that has lost one of them since the group was described does not count for it."""
    group = Group(**{others["has_none"]: [1, 2, 3], OWN: [0]})
    assert ask(group, {1, 2}) is None
    with pytest.raises(Unanswered, match="no worker has the states of partition 3 yet"):
        ask(group, {1, 3})


def test_one_worker_that_has_the_user_is_enough(others: dict[str, str]) -> None:
    """Whatever the others answer."""
    for name in ("has_none", "refuses", "babbles"):
        assert ask(Group(**{others[name]: [1], others["knows"]: [2]}), {1, 2}) is not None


@pytest.mark.parametrize(
    ("name", "words"),
    [("refuses", "the worker loads its model"), ("babbles", "status 404")],
)
def test_a_worker_without_an_answer_is_named(others: dict[str, str], name: str, words: str) -> None:
    """With its reason, as a 503."""
    with pytest.raises(Unanswered, match=words) as raised:
        ask(Group(**{others[name]: [1]}), {1})
    assert (raised.value.status, raised.value.retry_s) == (503, 1)
    assert others[name] in str(raised.value)


def test_a_worker_that_is_not_there_is_named() -> None:
    """It has ended, or its address is wrong, or it has none."""
    with pytest.raises(Unanswered, match=r"does not answer .*check --http-advertise"):
        ask(Group(**{"eddy-b!127.0.0.1:1@there/1": [1]}), {1})
    with pytest.raises(Unanswered, match="is needed for the answer and has no address; give it --http-advertise"):
        ask(Group(**{"eddy-b@there/1": [1]}), {1})


def test_partitions_that_move_are_no_answer() -> None:
    """Nobody has them, this worker is about to read them, the group has no assignment, or Kafka does not answer."""
    for members in ({"eddy-b@there/1": [2]}, {OWN: [1]}):
        with pytest.raises(Unanswered, match="no worker has the states of partition 1 yet"):
            ask(Group(**members), {1})
    group = Group()
    group.state = ConsumerGroupState.PREPARING_REBALANCING
    with pytest.raises(Unanswered, match="gives its partitions to workers at this moment"):
        ask(group, {1})
    group.state = None
    with pytest.raises(Unanswered, match="Kafka does not answer"):
        ask(group, {1})


def test_a_worker_that_came_back_knows_itself_by_its_place() -> None:
    """After kill -9 and a restart within its session, Kafka shows the client id of the process that was killed."""
    group = Group(**{"eddy-a!127.0.0.1:1@here/0": [0]})
    workers = Workers(group, "shop", "clicks", OWN, PLACE)  # type: ignore[arg-type]
    assert asyncio.run(workers.ask_all("/v1/status", "")) == [(Member(OWN, frozenset({0})), None)]


def test_the_group_is_described_once_for_many_requests(others: dict[str, str]) -> None:
    """And again at once after a request that it sent to the wrong place."""
    group = Group(**{others["has_none"]: [1, 2, 3]})

    async def run() -> None:
        workers = Workers(group, "shop", "clicks", OWN, PLACE)  # type: ignore[arg-type]
        await asyncio.gather(*(workers.ask("/v1/users/ann", "", frozenset({1})) for _ in range(5)))
        assert group.asked == 1
        with pytest.raises(Unanswered):
            await workers.ask("/v1/users/ann", "", frozenset({3}))
        await workers.ask("/v1/users/ann", "", frozenset({2}))
        assert group.asked == 2

    asyncio.run(run())


@pytest.mark.parametrize(
    ("given", "host", "expected"),
    [
        ("", "127.0.0.1", ""),
        ("", "::1", ""),
        ("", "localhost", ""),
        ("", "10.0.0.7", "10.0.0.7:9464"),
        ("", "fd00::7", "[fd00::7]:9464"),
        ("", "shop-1.internal", "shop-1.internal:9464"),
        ("127.0.0.1:80", "127.0.0.1", "127.0.0.1:80"),
        ("proxy:80", "0.0.0.0", "proxy:80"),
    ],
)
def test_the_address_of_a_worker(given: str, host: str, expected: str) -> None:
    """None where other machines would reach themselves. It is read from the client id as it was written there."""
    address = advertised(given, host, 9464)
    assert address == expected
    assert address_of(client_id("a@b!c", address)) == (expected or None)


def test_all_addresses_are_advertised_as_the_name_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others cannot connect to 0.0.0.0."""
    monkeypatch.setattr("socket.gethostname", lambda: "shop-1")
    assert [advertised("", host, 1) for host in ("0.0.0.0", "::")] == ["shop-1:1"] * 2
    assert address_of("eddy-0@shop-1/7") is None
    assert address_of("eddy-a!b@shop-1/7") is None
