"""The paths under /v1 on a real port with a real engine: answers, errors, and what a bad client can send."""

import json
import random
import socket
import string
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import web

from stream.answers.admin import Token, read_token
from stream.answers.desk import Desk, Open, Partitioner
from stream.answers.openapi import SCHEMAS, description
from stream.answers.routes import OFF, answer_routes, no_routes
from stream.answers.similar import Similar
from stream.answers.users import Users
from stream.answers.workers import FORWARDED, Workers
from stream.engine.engine import Engine
from stream.errors import ConfigError
from stream.events import Click, Partition
from stream.kafka.partitioners import KeySample, murmur2
from stream.meter import Meter
from stream.model.runtime import I64, load_model
from stream.past.because import Because
from stream.past.clicks import Past
from stream.web.display import Display
from stream.web.files import page_routes
from stream.web.health import Health
from stream.web.server import Server, listen
from stream.wire.json import JsonCodec
from stream.wire.pseudonym import PseudonymousCodec, Pseudonyms
from stream.worker.served import open_engine
from tests.decide import run
from tests.unit.answers.test_workers import OWN, PLACE, Group
from tests.unit.web.test_alerts import anomaly, on_many

START_MS = 1_700_000_000_000
ODD = "a/b ?&#%{}ü\u2028"
SECRET = b"0123456789abcdef"


class Running:
    """A server with one worker that has all partitions. `forgotten` has the keys of requests to forget."""

    def __init__(self, directory: Path) -> None:
        self.forgotten: list[bytes] = []
        self.out = False
        model = load_model(directory, "cpu")
        self.engine: Engine = open_engine(model, directory, 5, 1, 0.01)
        run(self.engine, [Click(user, f"i{n}", START_MS + n) for n, user in enumerate(("ann", ODD, "17"))])
        self.positions = {Partition("clicks", 0): 3}
        self.codec = JsonCodec(65_536, 3_600_000)
        self.desk, self.display = Desk(), Display(Meter(), Health(), True)
        self.parts = Open(
            Users(self.engine, lambda: self.positions),
            self.codec,
            Partitioner(1),
            Workers(Group(**{OWN: [0]}), "g", "clicks", OWN, PLACE),  # type: ignore[arg-type]
            Similar(model, directory),
            lambda: self.out,
            5,
            lambda key: len(self.forgotten.append(key) or self.forgotten),  # type: ignore[func-returns-value]
        )
        listener = listen("127.0.0.1", 0)
        self.port: int = listener.getsockname()[1]
        self.server = Server(listener, answer_routes(self.desk, Token(SECRET), self.display))

    def get(self, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, Any]]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as exc:
            failed = exc
        assert failed.headers["Content-Type"].startswith("application/json"), path
        assert failed.headers["Retry-After"] == ("1" if failed.code == 503 else None)
        return failed.code, json.loads(failed.read())


@pytest.fixture
def running(model_dir: Path) -> Iterator[Running]:
    made = Running(model_dir)
    made.desk.open = made.parts
    yield made
    made.server.close()


def test_every_answer_has_the_fields_of_the_description(running: Running) -> None:
    """The description is an OpenAPI document, and the page loads nothing from elsewhere."""
    running.display.alerts.add([anomaly(1, ODD), anomaly(2, "ann")])
    users = f"/v1/users/{quote(ODD, safe='')}"
    shown = {
        "Recommendations": running.get(f"{users}/recommendations?k=3&exclude=i1,i2&exclude=i4"),
        "User": running.get(f"{users}?k=2"),
        "Similar": running.get("/v1/items/i3/similar?k=4"),
        "Forgotten": running.get(users, "DELETE", Authorization=f"Bearer {SECRET.decode()}"),
        "Anomalies": running.get("/v1/anomalies?limit=3"),
        "Error": running.get("/v1/users/ann?k=0"),
    }
    for name, (status, body) in shown.items():
        assert status == {"Forgotten": 202, "Error": 400}.get(name, 200), body
        assert list(body) == SCHEMAS[name]["required"], name
    assert shown["Recommendations"][1]["user_id"] == shown["User"][1]["user_id"] == ODD
    state = shown["User"][1]
    assert [one["id"] for one in state["episodes"]] == ["clicks-0-1"]
    for field in ("last_clicks", "episodes"):
        [each] = state[field]
        assert list(each) == SCHEMAS["User"]["properties"][field]["items"]["required"]
    assert running.forgotten == [ODD.encode()]
    status, document = running.get("/v1/openapi.json")
    assert (status, document) == (200, json.loads(json.dumps(description())))
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert {f"{{{p['name']}}}" in path for p in operation["parameters"] if p["in"] == "path"} <= {True}
    with urllib.request.urlopen(f"http://127.0.0.1:{running.port}/v1", timeout=10) as answer:
        page = answer.read().decode()
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "/v1/users/{id}/recommendations" in page
    assert not [word for word in ("src=", "http://", "https://", "url(", "@import") if word in page]


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/v1/users/ann/recommendations?k=1001", 400, "k is '1001'; it must be a whole number from 1 to 1000"),
        ("/v1/users/ann/recommendations?k=0", 400, "k is '0'"),
        ("/v1/users/ann/recommendations?k=%C2%B2", 400, "k is '²'"),
        ("/v1/users/ann/recommendations?k=3&k=4", 400, "give it once"),
        ("/v1/users/ann/recommendations?K=3", 400, "parameter 'K' does not exist here; there are k, exclude, category"),
        ("/v1/users/ann?category=shoes", 400, "parameter 'category' does not exist here; there are k"),
        ("/v1/users/ann/recommendations?category=shoes", 400, "category needs a catalogue"),
        ("/v1/users/ann/recommendations?category=", 400, "category has 0 characters"),
        (f"/v1/users/ann/recommendations?exclude={'i,' * 1001}", 400, "exclude names 1001 items"),
        (f"/v1/users/{'x' * 257}", 400, "no click can have this user id"),
        ("/v1/users/M%FCller", 400, "the id in the path is not in UTF-8"),
        ("/v1/users/%ED%A0%80", 400, "the id in the path is not in UTF-8"),
        ("/v1/items/M%FCller/similar", 400, "the id in the path is not in UTF-8"),
        ("/v1/anomalies?limit=201", 400, "limit is '201'; it must be a whole number from 1 to 200"),
        ("/v1/anomalies?k=3", 400, "parameter 'k' does not exist here; there are user, limit"),
        ("/v1/workers?k=3", 400, "parameter 'k' does not exist here; there are none"),
        ("/v1/users/nobody", 404, "no state of this user"),
        ("/v1/items/nothing/similar", 404, "does not know this item"),
        ("/v1/users/", 404, "Not Found: GET /v1/users/"),
        ("/v1/nothing", 404, "Not Found"),
    ],
)
def test_a_wrong_request_gets_a_reason(running: Running, path: str, status: int, words: str) -> None:
    """As JSON; nothing of it is an error of the worker."""
    found, body = running.get(path)
    assert (found, list(body)) == (status, ["error"])
    assert words in body["error"]


async def nonsense(_: web.Request) -> web.Response:
    return web.Response(body=b'{"anomalies": 3')


def test_alerts_and_figures_of_all_workers_are_merged(running: Running) -> None:
    """Newest commit first, up to the limit; who has not answered is named. Of one user: only his, by the shop's id. A
    request of a worker gets only what this worker has, and without Kafka there are the own alerts and the reason."""
    other = Display(Meter(), Health(), True)
    other.alerts._clock_ms, running.display.alerts._clock_ms = lambda: 20, iter((10, 30)).__next__
    running.display.alerts.add([anomaly(1), anomaly(2, "ben")])
    other.alerts.add([anomaly(3), on_many(4)])
    running.display.alerts.add([anomaly(5)])
    listener = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    server = Server(listener, [*page_routes(other), *answer_routes(Desk(), Token(None), other)])
    theirs, silent = f"eddy-b!127.0.0.1:{port}@there/1", "eddy-c@there/2"
    group = Group(**{OWN: [0], theirs: [1, 2], silent: [3]})
    workers = Workers(group, "g", "clicks", OWN, PLACE)  # type: ignore[arg-type]
    running.desk.open = Open(**{**vars(running.parts), "workers": workers})

    def ids(path: str, **headers: str) -> list[int]:
        status, body = running.get(path, **headers)
        assert status == 200, body
        return [int(alert["id"].rpartition("-")[2]) for alert in body["anomalies"]]

    assert ids("/v1/anomalies") == [5, 4, 3, 2, 1]
    assert ids("/v1/anomalies?limit=2") == [5, 4]
    assert ids("/v1/anomalies", **{FORWARDED: "1"}) == [5, 2, 1]
    [missing] = running.get("/v1/anomalies")[1]["unanswered"]
    assert missing.startswith(f"worker {silent} is needed")
    _, found = running.get("/v1/workers")
    assert list(found["workers"][0]) == SCHEMAS["Workers"]["properties"]["workers"]["items"]["required"]
    assert [(one["client_id"], one["this"], one["partitions"]) for one in found["workers"]] == [
        (OWN, True, [0]),
        (theirs, False, [1, 2]),
        (silent, False, [3]),
    ]
    assert list(found["workers"][0]["status"]) == SCHEMAS["Status"]["required"]
    assert [one["status"] and one["status"]["phase"] for one in found["workers"]] == ["starting", "starting", None]
    assert "no address" in found["workers"][2]["error"]
    server.close()
    strange = Server(listen("127.0.0.1", port), [web.get("/v1/{rest:.*}", nonsense)])
    assert ids("/v1/anomalies") == [5, 2, 1]
    assert "no worker of this version" in running.get("/v1/anomalies")[1]["unanswered"][0]
    assert "no worker of this version" in running.get("/v1/workers")[1]["workers"][1]["error"]
    strange.close()
    running.out = True
    status, body = running.get("/v1/anomalies?user=ben")
    assert (status, "Kafka does not answer" in body["error"]) == (503, True)
    assert ids("/v1/anomalies") == [5, 2, 1]
    assert "Kafka does not answer" in running.get("/v1/anomalies")[1]["unanswered"][0]
    running.out = False
    assert ids("/v1/anomalies?user=ben") == [2]


def test_alerts_are_streamed_to_who_asks_for_a_stream(running: Running) -> None:
    """By the header Accept. A wrong parameter is an error there, too."""
    running.display.alerts.add([anomaly(1), anomaly(2, "ben")])
    address = f"http://127.0.0.1:{running.port}/v1/anomalies"
    asked = urllib.request.Request(f"{address}?user=ben", headers={"Accept": "text/event-stream"})
    with urllib.request.urlopen(asked, timeout=10) as stream:
        assert stream.headers["Content-Type"] == "text/event-stream"
        assert [stream.readline() for _ in range(3)] == [b"retry: 1000\n", b"\n", b"id: clicks-0-2\n"]
    assert running.get("/v1/anomalies?limit=x", Accept="text/event-stream")[0] == 400
    headers = socket.create_connection(("127.0.0.1", running.port), timeout=10)
    with headers, headers.makefile("rb") as answer:
        request = "HEAD /v1/anomalies HTTP/1.1", "Host: x", "Accept: text/event-stream", "Connection: close", "", ""
        headers.sendall("\r\n".join(request).encode())
        assert b"Content-Type: text/event-stream" in answer.read()  # up to the end of the connection


def test_other_methods_are_refused(running: Running) -> None:
    """405 with a reason."""
    assert running.get("/v1/users/ann", "POST")[0] == 405


def test_a_request_to_forget_needs_the_token(running: Running, tmp_path: Path) -> None:
    """Nothing is written without it. A worker without a token refuses every such request."""
    given = {"none": "", "wrong": "Bearer 0123456789abcdeg", "short": "Bearer 0", "scheme": f"Basic {SECRET.decode()}"}
    for header in given.values():
        assert running.get("/v1/users/ann", "DELETE", Authorization=header)[0] == 401
    assert running.forgotten == []
    assert running.get("/v1/users/ann", "DELETE", Authorization=f"bearer {SECRET.decode()}")[0] == 202
    assert running.get("/v1/users/M%FCller", "DELETE", Authorization=f"Bearer {SECRET.decode()}")[0] == 400
    assert running.forgotten == [b"ann"]
    listener = listen("127.0.0.1", 0)
    running.port = listener.getsockname()[1]
    without = Server(listener, answer_routes(running.desk, read_token(""), running.display))
    status, body = running.get("/v1/users/ann", "DELETE", Authorization=f"Bearer {SECRET.decode()}")
    assert (status, "--http-token-file" in body["error"]) == (403, True)
    without.close()
    assert SECRET.decode() not in repr(Token(SECRET))


def test_a_token_of_an_editor_on_windows_is_the_token(tmp_path: Path) -> None:
    """A byte order mark is no part of it: each request would be refused, and nothing would show why."""
    (tmp_path / "token").write_bytes(b"\xef\xbb\xbf" + SECRET + b"\r\n")
    read_token(str(tmp_path / "token")).check(f"Bearer {SECRET.decode()}")


@pytest.mark.parametrize(
    "text", [b"", b"short\n", b"two words of a token", b"x" * 1025, bytes(range(128, 160)), b"0123456789abcdef\0"]
)
def test_a_file_without_a_token_ends_the_start(tmp_path: Path, text: bytes) -> None:
    """One line with what a token must be; so does a file that is not there."""
    (tmp_path / "token").write_bytes(text)
    with pytest.raises(ConfigError, match="it must be one word of 16 to 1024"):
        read_token(str(tmp_path / "token"))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_token(str(tmp_path / "none"))


def test_a_worker_that_is_not_ready_says_so(running: Running) -> None:
    """Before it has its model, and while Kafka does not answer: another worker may have the partitions."""
    running.out = True
    for path in ("/v1/users/ann", "/v1/users/ann/recommendations", "/v1/items/i3/similar"):
        status, body = running.get(path)
        assert (status, "Kafka does not answer" in body["error"]) == (503, True)
    running.desk.open = None
    status, body = running.get("/v1/users/ann/recommendations")
    assert (status, "loads its model" in body["error"]) == (503, True)


def test_other_requests_are_answered_while_reasons_are_computed(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also about the same user. The reasons are those of the list that they belong to, whatever the user does
    meanwhile; a second request for reasons waits for the first."""
    path = "/v1/users/ann/recommendations?k=3&because=2"
    before, called, go_on, calls = running.get(path)[1], threading.Event(), threading.Event(), []
    reasons = Because.of

    def blocked(because: Because, past: Past, items: I64, most: int) -> list[list[dict[str, Any]]]:
        calls.append(len(past.gap_ms))
        called.set()
        assert go_on.wait(30)
        return reasons(because, past, items, most)

    monkeypatch.setattr(Because, "of", blocked)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(running.get, path)
        assert called.wait(10)
        try:
            run(running.engine, [Click("ann", "i40", START_MS + 60_000)], 3)
            second = pool.submit(running.get, path)
            now = running.get("/v1/users/ann/recommendations?k=3")[1]
            assert running.get("/v1/users/17")[0] == 200
            assert calls == [1]
        finally:
            go_on.set()
        assert first.result(30) == (200, before)
        assert {name: second.result(30)[1][name] for name in now} == now
    assert now["last_click"] != before["last_click"]
    assert calls == [1, 2]


def test_a_request_of_a_worker_is_not_passed_on(running: Running) -> None:
    """Without a row the answer names the partitions that were looked in, and the Workers are not asked."""
    for path in ("/v1/users/nobody", "/v1/users/nobody/recommendations"):
        status, body = running.get(path, **{FORWARDED: "1"})
        assert (status, body["partitions"]) == (404, [0])
    assert running.get("/v1/users/ann", **{FORWARDED: "1"})[0] == 200


def test_a_real_id_is_hashed_by_a_worker_with_pseudonyms(running: Running, model_dir: Path) -> None:
    """The id of the path is the shop's, that of the answer is the pseudonym."""
    pseudonyms = Pseudonyms(b"k" * 32)
    run(running.engine, [Click(pseudonyms.of("bob"), "i9", START_MS)], 3)
    codec = PseudonymousCodec(running.codec, pseudonyms)
    running.desk.open = Open(**{**vars(running.parts), "codec": codec})
    status, body = running.get("/v1/users/bob")
    assert (status, body["user_id"], body["last_items"]) == (200, pseudonyms.of("bob"), ["i9"])


def test_a_worker_that_does_not_answer_says_how_to(model_dir: Path) -> None:
    """An HTTP port alone shows no user."""
    listener = listen("127.0.0.1", 0)
    server = Server(listener, no_routes())
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(f"http://127.0.0.1:{listener.getsockname()[1]}/v1/users/ann", timeout=10)
    assert (raised.value.code, json.loads(raised.value.read())) == (404, {"error": OFF})
    server.close()


def test_no_bytes_of_a_client_are_an_error_of_the_worker(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    """Random paths, queries and headers: each is answered below 500, or cut off; nothing is logged."""
    rng = random.Random(7)
    pieces = "/v1/users/ /recommendations ?k= exclude= & % %ff %00 .. // ü \x7f {}".split(" ")  # noqa: SIM905
    for _ in range(300):
        odd = (rng.choice(rng.choice([pieces, string.printable[:94]])) for _ in range(rng.randrange(9)))
        path = "/v1/users/" + "".join(odd)
        method = rng.choice(["GET", "GET", "DELETE", "HEAD", "PUT"])
        head = bytes(rng.randrange(256) for _ in range(rng.randrange(20))) if rng.random() < 0.3 else b""
        with socket.create_connection(("127.0.0.1", running.port), 10) as client:
            client.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: ".encode() + head + b"\r\n\r\n")
            client.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: client.recv(65_536), b""))
        status = int(answer.split(b" ", 2)[1]) if answer else 400
        assert status < 500, (method, path, head, answer)
        assert b"Traceback" not in answer
    assert not caplog.records
    assert running.get("/v1/users/ann")[0] == 200


def test_the_partitioner_is_learned_from_the_clicks() -> None:
    """One that gives every partition is used; before, and if producers differ, all partitions are in question."""
    found, sample = Partitioner(8), KeySample(8)
    everything = frozenset(range(8))
    assert found.partitions_of(b"ann") == everything
    for number in range(100):
        key = f"user{number}".encode()
        sample.add(key, murmur2(key) % 8, number)
    found.note(sample.verdict())
    assert found.partitions_of(b"ann") == {murmur2(b"ann") % 8}
    found.note(KeySample(8).verdict())
    assert found.partitions_of(b"ann") == {murmur2(b"ann") % 8}
    sample.add(b"user3", (murmur2(b"user3") + 1) % 8, 200)
    found.note(sample.verdict())
    assert found.partitions_of(b"ann") == everything
