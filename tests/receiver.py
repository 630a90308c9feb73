"""A webhook of a test: an HTTP server that keeps the requests, and answers as the test says."""

import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

LIMIT_S = 60.0


class Answer(NamedTuple):
    """hangs: no answer comes until the receiver is closed"""

    status: int = 200
    headers: Mapping[str, str] = {}
    body: bytes = b"ok"
    hangs: bool = False


class Request(NamedTuple):
    key: str
    body: bytes
    type: str
    path: str


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Print nothing: a process that is killed ends its connection in the middle."""


class Receiver:
    """The server, from its construction until `close`. It can be used as a context.

    answers   what the next requests get, in order; those after them get 200
    requests  those that were answered or hang, in the order in which they came
    """

    def __init__(self, *answers: Answer, port: int = 0) -> None:
        self.answers, self.requests = list(answers), list[Request]()
        self._changed, self._closed = threading.Condition(), threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"  # connections are kept

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                answer = receiver._take(
                    Request(self.headers["Idempotency-Key"], body, self.headers["Content-Type"], self.path)
                )
                if answer.hangs:
                    receiver._closed.wait(LIMIT_S)
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                for name, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer.body)

            def log_message(self, *_: object) -> None:
                """Print nothing."""

        self._server = Server(("127.0.0.1", port), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/hooks/S3CRET?token=T0KEN"
        self.where = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def __enter__(self) -> "Receiver":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def keys(self) -> list[str]:
        return [request.key for request in self.requests]

    def wait_for(self, count: int, limit_s: float = LIMIT_S) -> None:
        """Wait until so many requests have come."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.requests) >= count, limit_s), self.requests

    def wait_for_keys(self, count: int, limit_s: float = LIMIT_S) -> None:
        """Wait until requests with so many different keys have come."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(set(self.keys)) >= count, limit_s), self.requests

    def close(self) -> None:
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()

    def _take(self, request: Request) -> Answer:
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()
            return self.answers.pop(0) if self.answers else Answer()


def alert(n: int, user: str = "ann", **other: Any) -> dict[str, Any]:
    """The alert on click n of a topic, which opens an episode."""
    id_ = f"clicks-0-{n}"
    return {
        "id": id_, "episode": id_, "user_id": user, "item_id": "i1", "event_type": "view",
        "timestamp": 1_735_689_602_600 + n, "reason": "10 clicks on one item", "surprise": 1.5, "p_value": 2e-5,
        "score": 4.7, "threshold": 1e-4, "statistics": {"twins": 2e-5}, "pool": "4 clicks", "pool_size": 900,
        "expected": [], "model": "m/1",
    } | other  # fmt: skip


def system_alert(n: int, **other: Any) -> dict[str, Any]:
    """An alert on many users that opens."""
    id_ = f"clicks-0-{n}"
    return {
        "id": id_, "episode": id_, "phase": "opened", "partition": 0, "sign": "twins", "timestamp": 1_735_689_602_600,
        "reason": "30 users do the same", "users": 30, "usual_share": 0.01, "model": "m/1", "p_value": 3e-9,
    } | other  # fmt: skip
