"""What a listener speaks is known only if it has answered; tests/kafka/test_security.py asks a real broker."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from stream.access import listener
from stream.access.listener import Listener, ask_listener, why_silent
from stream.access.refusal import why_refused
from stream.kafka_config import PLAINTEXT, KafkaConfig

TLS = KafkaConfig({"security.protocol": "ssl"})


@contextmanager
def server(serve: Callable[[socket.socket], object]) -> Iterator[str]:
    """The address of a listener that gives each connection to `serve`."""
    accepting = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        while True:
            try:
                connection, _ = accepting.accept()
            except OSError:
                return
            serve(connection)

    threading.Thread(target=run, daemon=True).start()
    with accepting:
        yield f"127.0.0.1:{accepting.getsockname()[1]}"
        accepting.shutdown(socket.SHUT_RDWR)


def test_a_listener_that_never_answers_is_accused_of_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frozen broker accepts connections too: its operator must not be sent to look for TLS."""
    monkeypatch.setattr(listener, "ASK_S", 0.2)
    kept: list[socket.socket] = []
    with server(kept.append) as address:
        assert ask_listener(address) == Listener(None, None)
        assert [why_refused(address, config, []) for config in (PLAINTEXT, TLS)] == [None, None]


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0\0\0\x05hello", b"\xff\xff\xff\xff"])
def test_a_server_that_is_no_kafka_breaks_nothing(answer: bytes) -> None:
    """Whatever comes back. A load balancer without brokers closes the connection: no property is wrong."""

    def serve(connection: socket.socket) -> None:
        with connection:
            if answer:
                connection.recv(64)
                connection.sendall(answer)

    with server(serve) as address:
        assert ask_listener(address) == Listener(None, None)
        assert [why_refused(address, config, []) for config in (PLAINTEXT, TLS)] == [None, None]


def test_nobody_there_is_no_refusal() -> None:
    """A broker that is down is waited for or looked for; no property is wrong."""
    assert ask_listener("127.0.0.1:9") is None
    assert why_refused("127.0.0.1:9,127.0.0.1:1", PLAINTEXT, []) is None


def test_the_reason_of_a_silence_is_what_a_connection_meets() -> None:
    """A port without a listener, one that accepts and says nothing, and a name that does not exist."""
    with socket.create_server(("127.0.0.1", 0)) as mute, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        silent, refused = (f"127.0.0.1:{one.getsockname()[1]}" for one in (mute, closed))
        assert why_silent(f"{silent}, {refused},no-such-host.invalid:9092") == (
            f"{silent}: accepts a connection and does not answer; {refused}: connection refused; "
            "no-such-host.invalid:9092: the name does not resolve"
        )
