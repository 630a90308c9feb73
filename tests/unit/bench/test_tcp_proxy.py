"""A proxy for tests of a bad network forwards, delays, stalls and breaks connections."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from bench.tcp_proxy import TcpProxy


@pytest.fixture
def proxy() -> Iterator[TcpProxy]:
    """A proxy in front of a server that sends back what it gets."""
    with socket.create_server(("127.0.0.1", 0)) as server, TcpProxy() as proxy:
        proxy.target = f"127.0.0.1:{server.getsockname()[1]}"

        def echo(connection: socket.socket) -> None:
            with connection, suppress(OSError):  # some tests reset it
                while data := connection.recv(1 << 16):
                    connection.sendall(data)

        def serve() -> None:
            while True:
                try:
                    connection = server.accept()[0]
                except OSError:  # the test is over
                    return
                threading.Thread(target=echo, args=(connection,), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield proxy


def connect(proxy: TcpProxy) -> socket.socket:
    host, _, port = proxy.address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=5)


def test_forwards_everything_in_order(proxy: TcpProxy) -> None:
    """Megabytes come back as they were sent, also with a delay."""
    sent = bytes(range(256)) * 10_000
    proxy.delay_s = 0.02
    with connect(proxy) as client:
        threading.Thread(target=client.sendall, args=(sent,), daemon=True).start()
        found = b""
        while len(found) < len(sent):
            found += client.recv(1 << 16)
    assert found == sent


def test_delay_counts_in_both_directions(proxy: TcpProxy) -> None:
    """A round trip takes at least twice the delay."""
    proxy.delay_s = 0.1
    with connect(proxy) as client:
        began = time.monotonic()
        client.sendall(b"x")
        assert client.recv(1) == b"x"
    assert time.monotonic() - began >= 0.2


def test_stalled_bytes_come_later(proxy: TcpProxy) -> None:
    """Nothing comes back while the proxy is stalled; after `resume` everything does."""
    with connect(proxy) as client:
        client.sendall(b"a")
        assert client.recv(1) == b"a"
        proxy.stall()
        client.sendall(b"b")
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(5)
        proxy.resume()
        assert client.recv(1) == b"b"


def test_broken_connections_can_be_made_again(proxy: TcpProxy) -> None:
    """`drop` breaks a connection; `close` refuses new ones until `listen`."""
    with connect(proxy) as client:
        client.sendall(b"a")
        assert client.recv(1) == b"a"
        proxy.drop()
        with pytest.raises(ConnectionError):
            client.recv(1)
    proxy.close()
    with pytest.raises(ConnectionError):
        connect(proxy)
    proxy.listen()
    with connect(proxy) as client:
        client.sendall(b"a")
        assert client.recv(1) == b"a"
