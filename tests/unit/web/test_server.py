"""The HTTP server on a real port: what it answers, and what a bad client can do to it."""

import asyncio
import errno
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from types import SimpleNamespace

import pytest
from aiohttp import web

from stream.errors import ConfigError
from stream.meter import Meter
from stream.web import health as health_module
from stream.web import routes, server
from stream.web.health import Doing, Health
from stream.web.routes import worker_routes
from stream.web.server import MOST_CONNECTIONS, Server, listen


@pytest.fixture
def meter() -> Meter:
    return Meter()


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
def port(meter: Meter, health: Health) -> Iterator[int]:
    """The port of a server with the routes of a worker."""
    listener = listen("127.0.0.1", 0)
    found = listener.getsockname()[1]
    running = Server(listener, worker_routes(meter, health))
    yield found
    running.close()


def get(port: int, path: str) -> tuple[int, str, bytes]:
    """Status, content type and body."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read()
    except urllib.error.HTTPError as exc:
        return exc.code, exc.headers["Content-Type"], exc.read()


def test_the_three_pages_answer(port: int, meter: Meter, health: Health) -> None:
    """A worker that starts is live and not ready, and one that decides is both."""
    meter.count("clicks", 5)
    status, kind, text = get(port, "/metrics")
    assert (status, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert b"\neddy_clicks_total 5.0\n" in text
    assert get(port, "/livez")[0] == 200
    status, kind, text = get(port, "/readyz")
    assert (status, kind) == (503, "application/json; charset=utf-8")
    assert json.loads(text)["ready"] is False
    assert "loads its model" in json.loads(text)["reason"]
    health.doing, health.kafka = lambda: Doing("spare"), SimpleNamespace(out=False, breaks=0)
    status, _, text = get(port, "/readyz")
    assert status == 200
    assert json.loads(text) == {
        "ready": True,
        "reason": "",
        "phase": "spare",
        "partitions": 0,
        "kafka_answers": True,
        "cycle_s": 0.0,
    }


def test_without_a_file_descriptor_a_line_says_so_and_the_port_accepts_later(
    meter: Meter, health: Health, caplog: pytest.LogCaptureFixture
) -> None:
    """asyncio alone would log thousands of stack traces a second."""

    class Listener(socket.socket):
        refusals = 2

        def accept(self) -> tuple[socket.socket, object]:
            if self.refusals:
                self.refusals -= 1
                raise OSError(errno.EMFILE, "Too many open files")
            return super().accept()

    listener = Listener(fileno=listen("127.0.0.1", 0).detach())
    running = Server(listener, worker_routes(meter, health))
    assert get(listener.getsockname()[1], "/livez")[0] == 200
    running.close()
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "the HTTP port cannot accept a connection: Too many open files; raise the limit (ulimit -n)")
    ]


@pytest.mark.parametrize("path", ["/healthz", "/livez/", "/v1/userz/u1"])
def test_an_unknown_path_is_answered_with_those_that_there_are(meter: Meter, health: Health, path: str) -> None:
    """A probe of another program's path, such as /healthz, shows by its answer which one to write. Files of the page
    and paths that need an id are not listed, and a path that is known has no such list."""

    async def none(_: web.Request) -> web.Response:
        raise web.HTTPNotFound

    more = [web.get("/page/page.js", none), web.get("/v1/users/{id}", none)]
    listener = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    running = Server(listener, [*worker_routes(meter, health), *more])
    status, kind, text = get(port, path)
    known = get(port, "/v1/users/u1")
    running.close()
    assert (status, kind) == (404, "application/json; charset=utf-8")
    assert json.loads(text) == {"error": f"Not Found: GET {path}; this port has /metrics, /livez, /readyz"}
    assert json.loads(known[2]) == {"error": "Not Found: GET /v1/users/u1"}


@pytest.mark.parametrize(("fresh_s", "counted"), [(3_600.0, b"0.0"), (0.0, b"5.0")])
def test_metrics_are_made_once_in_an_interval(
    port: int, meter: Meter, monkeypatch: pytest.MonkeyPatch, fresh_s: float, counted: bytes
) -> None:
    """A client that asks without pause gets the same text until the interval is over."""
    monkeypatch.setattr(routes, "FRESH_S", fresh_s)
    get(port, "/metrics")
    meter.count("clicks", 5)
    assert b"\neddy_clicks_total " + counted + b"\n" in get(port, "/metrics")[2]


def test_a_port_that_is_taken_is_one_line() -> None:
    """The line names the port, the reason and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        with pytest.raises(
            ConfigError,
            match=rf"port {taken} of 127.0.0.1 cannot be opened \(Address already in use\); stop the program",
        ):
            listen("127.0.0.1", taken)


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.name.invalid", "a\0b", "\ud800", "ü" * 70])
def test_an_address_that_is_not_of_this_machine_is_one_line(host: str) -> None:
    """No program has the port then, so the line does not advise to stop one."""
    with pytest.raises(ConfigError) as error:
        listen(host, 0)
    line = str(error.value)
    assert line.isprintable()
    assert line.endswith("; --http-host must be an address or a name of this machine")


def test_clients_that_send_nothing_are_cut_off(meter: Meter, health: Health, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half-open connections end by themselves. Meanwhile the pages answer, and afterwards."""
    monkeypatch.setattr(server, "CONNECTION_S", 1.0)
    listener = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    running = Server(listener, worker_routes(meter, health))
    with ExitStack() as stack:
        stack.callback(running.close)
        half = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(MOST_CONNECTIONS - 1)]
        half[0].sendall(b"GET /metrics HTTP/1.1\r\nHost: ")
        assert get(port, "/livez")[0] == 200
        for client in half:
            assert ended(client)
        assert get(port, "/livez")[0] == 200


def ended(client: socket.socket) -> bool:
    """Whether the server ends the connection within 10 s."""
    client.settimeout(10)
    with suppress(ConnectionResetError):
        return client.recv(1) == b""
    return True


def is_open(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return client.recv(1) != b""
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False


def test_more_connections_than_the_limit_end_the_oldest(port: int) -> None:
    """In a burst, too. Those that came last are open and answered."""
    with ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(MOST_CONNECTIONS + 9)
        ]
        began_s = time.monotonic()
        assert all(map(ended, clients[:9]))
        assert time.monotonic() - began_s < server.CONNECTION_S / 2
        assert all(map(is_open, clients[9:]))
        clients[-1].setblocking(True)
        clients[-1].sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert clients[-1].recv(12) == b"HTTP/1.1 200"


def test_idle_connections_do_not_keep_out_the_health_check(port: int) -> None:
    """Else anybody who reaches the port could have the worker killed by its liveness probe."""
    with ExitStack() as stack:
        idle = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(MOST_CONNECTIONS)]
        began_s = time.monotonic()
        assert get(port, "/livez")[0] == 200
        assert time.monotonic() - began_s < server.CONNECTION_S / 2
        assert ended(idle[0])
        assert all(map(is_open, idle[1:]))


def test_a_request_that_is_being_answered_is_not_cut_for_a_newer_connection() -> None:
    """It is the oldest connection, and not idle."""
    asked, go_on = threading.Event(), threading.Event()

    async def slow(_: web.Request) -> web.Response:
        asked.set()
        await asyncio.to_thread(go_on.wait, 10)
        return web.Response(text="done")

    listener = listen("127.0.0.1", 0)
    address = listener.getsockname()
    with ExitStack() as stack:
        stack.callback(Server(listener, [web.get("/slow", slow)]).close)
        oldest = stack.enter_context(socket.create_connection(address))
        oldest.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        assert asked.wait(10)
        idle = [stack.enter_context(socket.create_connection(address)) for _ in range(MOST_CONNECTIONS)]
        assert ended(idle[0])
        go_on.set()
        oldest.settimeout(10)
        assert oldest.recv(12) == b"HTTP/1.1 200"


@pytest.mark.parametrize(
    ("request_line", "status"), [("GET /livez HTTP/1.1", 200), ("GET /none HTTP/1.1", 404), ("nonsense", 400)]
)
def test_no_answer_names_a_version_of_a_program(port: int, request_line: str, status: int) -> None:
    """Neither that of a page, nor that of what is no page or no HTTP. Each answer is the last of its connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(f"{request_line}\r\nHost: x\r\n\r\n".encode())
        answer = b""
        while part := client.recv(10_000):
            answer += part
    head = answer.decode().partition("\r\n\r\n")[0].splitlines()
    assert head[0].split()[1] == str(status)
    assert [line for line in head if line.startswith("Server:")] == ["Server: eddy"]
    assert b"ython" not in answer
    assert b"aiohttp" not in answer


def test_a_server_that_is_closed_gives_its_port_back(meter: Meter, health: Health) -> None:
    """At once, also if a client is still connected."""
    listener = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    running = Server(listener, worker_routes(meter, health))
    with socket.create_connection(("127.0.0.1", port)) as client:
        assert get(port, "/livez")[0] == 200
        running.close()
        assert ended(client)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
    listen("127.0.0.1", port).close()


def test_garbage_and_a_client_that_does_not_read_leave_the_server_running(
    port: int, meter: Meter, caplog: pytest.LogCaptureFixture
) -> None:
    """Bytes that are no HTTP, a huge header, and requests without a reader for the answers. The log stays empty."""
    for garbage in (b"\x16\x03\x01\x02\x00\x01\x00", b"\0" * 100, b"GET " + b"/" * 100_000, b"PUT / HTTP/9\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(garbage)
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 500)
        assert get(port, "/metrics")[0] == 200
    assert get(port, "/livez")[0] == 200
    assert not caplog.records


def test_a_worker_whose_event_loop_is_stuck_is_reported(
    port: int, health: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has a thread of its own, so it answers while the worker's loop is blocked."""
    monkeypatch.setattr(health_module, "SILENT_S", 1.0)
    go_on = threading.Event()

    async def stuck() -> None:
        health.beat(asyncio.get_running_loop())
        go_on.wait(30)

    thread = threading.Thread(target=lambda: asyncio.run(stuck()))
    thread.start()
    deadline = time.monotonic() + 10
    while get(port, "/livez")[0] == 200:
        assert time.monotonic() < deadline
        time.sleep(0.02)  # the polling interval; the deadline above decides
    reason = json.loads(get(port, "/livez")[2])["reason"]
    go_on.set()
    thread.join()
    assert reason == "the event loop has run nothing for 1 s"
