"""The latest alerts: what is kept, and what a client that follows them gets."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from aiohttp import web

from stream.errors import Unanswered
from stream.events import Anomaly, SystemAlert
from stream.web import alerts as alerts_module
from stream.web import server
from stream.web.alerts import KEPT, Alerts, Streams
from stream.web.server import Server, listen


def anomaly(offset: int, user: str = "ann") -> Anomaly:
    id_ = f"clicks-0-{offset}"
    facts: dict[str, Any] = {"reason": "one item", "surprise": 9.0, "p_value": 1e-5, "score": 5.0, "threshold": 1e-4}
    facts |= {"statistics": {}, "pool": "10", "pool_size": 100, "expected": [], "model": "shop/1"}
    return Anomaly(id=id_, user_id=user, item_id="i1", event_type="view", timestamp=1, episode=id_, **facts)


def on_many(offset: int) -> SystemAlert:
    id_ = f"clicks-0-{offset}"
    return SystemAlert(id_, id_, "opened", 0, "unknown items", 1, "300 of 300 users", 300, 0.01, "shop/1")


class Follower:
    """A client of a stream, which reads events one after the other."""

    def __init__(self, port: int, **headers: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 10)
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        self._socket.sendall(f"GET /follow HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode())
        self._file = self._socket.makefile("rb")

    def __enter__(self) -> "Follower":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()

    def status(self) -> int:
        return int(self._file.readline().split()[1])

    def lines(self) -> Iterator[str]:
        for line in self._file:
            yield line.decode().rstrip("\r\n")

    def ids(self, count: int) -> list[str]:
        found: list[str] = []
        for line in self.lines():
            found += [line[4:]] if line.startswith("id: ") else []
            if len(found) == count:
                return found
        raise AssertionError(f"the stream has ended after {found}")


@pytest.fixture
def kept() -> Alerts:
    return Alerts(lambda: 7)


@pytest.fixture
def port(kept: Alerts) -> Iterator[int]:
    streams = Streams(kept)

    async def follow(request: web.Request) -> web.StreamResponse:
        try:
            return await streams.follow(request, request.query.get("user"))
        except Unanswered as exc:
            return web.Response(status=exc.status)

    listener = listen("127.0.0.1", 0)
    found = listener.getsockname()[1]
    running = Server(listener, [web.get("/follow", follow)])
    yield found
    running.close()


def test_the_newest_alerts_are_kept_with_the_time_of_their_commit(kept: Alerts) -> None:
    """At most KEPT, newest first; of one user only his own, and none on many users."""
    kept.add([anomaly(n, f"u{n % 2}") for n in range(KEPT)])
    kept.add([on_many(KEPT), anomaly(KEPT + 1)])
    latest = kept.latest(1_000)
    assert [one["id"] for one in latest] == [f"clicks-0-{n}" for n in range(KEPT + 1, 1, -1)]
    assert latest[1] == {"committed": 7, **json.loads(json.dumps(latest[1])), "sign": "unknown items", "users": 300}
    assert [one["id"] for one in kept.latest(2, "u1")] == ["clicks-0-199", "clicks-0-197"]
    assert kept.latest(9, "nobody") == []


def test_a_client_gets_what_is_kept_and_then_each_new_alert(kept: Alerts, port: int) -> None:
    """Each event has the alert's id, its kind and the message as JSON."""
    kept.add([anomaly(1)])
    with Follower(port) as client:
        assert client.status() == 200
        assert client.ids(1) == ["clicks-0-1"]
        kept.add([on_many(2)])
        assert client.ids(1) == ["clicks-0-2"]
        lines = client.lines()
        assert next(lines) == "event: system-alert"
        assert json.loads(next(lines).removeprefix("data: ")) == kept.latest(1)[0]


def test_a_client_that_comes_again_goes_on_after_the_last_alert_that_it_had(kept: Alerts, port: int) -> None:
    """Alerts with the same id are not left out. An id that is not kept, as after a restart: all that are kept."""
    kept.add([anomaly(1), anomaly(2), on_many(2), anomaly(3)])
    for last, expected in (("clicks-0-2", [2, 3]), ("clicks-0-3", [4]), ("clicks-9-9", [1, 2, 2, 3])):
        with Follower(port, Last_Event_ID=last) as client:
            if last == "clicks-0-3":
                kept.add([anomaly(4)])
            assert client.ids(len(expected)) == [f"clicks-0-{n}" for n in expected]


def test_a_stream_lasts_longer_than_an_answer_and_is_never_silent(
    kept: Alerts, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other connections are cut off after CONNECTION_S; a stream without alerts has comments."""
    monkeypatch.setattr(server, "CONNECTION_S", 0.3)
    monkeypatch.setattr(alerts_module, "HEARTBEAT_S", 0.2)
    with Follower(port) as client:
        began_s = time.monotonic()
        lines = client.lines()
        while time.monotonic() - began_s < 1.0:
            while next(lines) != ": nothing new":
                pass
        kept.add([anomaly(1)])
        assert client.ids(1) == ["clicks-0-1"]


def test_a_client_that_does_not_read_is_cut_off_and_delays_nobody(
    kept: Alerts, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its place among the streams is free again. To add an alert takes no time, and another client gets it."""
    monkeypatch.setattr(alerts_module, "WRITE_S", 0.5)
    monkeypatch.setattr(alerts_module, "LOOK_S", 0.01)
    huge = anomaly(1, "u" * 200_000)
    with Follower(port) as stalled, Follower(port) as reads:
        done = threading.Event()

        def add() -> None:
            for _ in range(100):
                kept.add([huge])
                done.wait(0.01)
            kept.add([anomaly(2)])

        thread = threading.Thread(target=add)
        thread.start()
        assert any(line == "id: clicks-0-2" for line in reads.lines())
        thread.join()
        lines = stalled.lines()
        with suppress(ConnectionError):
            assert "id: clicks-0-2" not in lines, "the client that did not read has got every alert"


def test_there_are_not_more_streams_than_the_limit(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more is 503. When a client goes, there is room again."""
    with ExitStack() as stack:
        clients = [stack.enter_context(Follower(port)) for _ in range(alerts_module.MOST_STREAMS)]
        assert [client.status() for client in clients] == [200] * len(clients)
        with Follower(port) as refused:
            assert refused.status() == 503
        clients[0].__exit__()
        deadline = time.monotonic() + 10
        while True:
            with Follower(port) as again:
                if again.status() == 200:
                    break
            assert time.monotonic() < deadline
            time.sleep(0.05)  # the polling interval; the deadline above decides
