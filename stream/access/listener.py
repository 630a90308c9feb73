"""Asks a Kafka listener what it speaks: TLS or not, SASL or not.

librdkafka knows that a connection was closed, not why. Two questions to the listener find out: does it answer a TLS
handshake, and what does it answer to SaslHandshake, which is allowed before anybody has said who he is?

Source: Kafka protocol guide, SaslHandshake (api key 17) version 1.
"""

import socket
import ssl
import struct
from contextlib import suppress
from typing import NamedTuple

ASK_S = 3.0
ILLEGAL_SASL_STATE = 34
"""Error code of a listener without SASL."""


class Listener(NamedTuple):
    """What a listener speaks; None where it did not answer the question.

    tls         False only if it answered in plain text
    mechanisms  of SASL; () if the listener has no SASL
    """

    tls: bool | None
    mechanisms: tuple[str, ...] | None


def ask_listener(address: str) -> Listener | None:
    """What the listener at host:port speaks; None if nobody accepts a connection there. Takes up to 4 ASK_S."""
    host, _, port = address.strip().rpartition(":")
    endpoint = (host.strip("[]"), int(port))
    try:
        with socket.create_connection(endpoint, ASK_S):
            pass
    except OSError:
        return None
    if _speaks_tls(endpoint):
        return Listener(True, _ask(endpoint, tls=True))
    mechanisms = _ask(endpoint, tls=False)
    return Listener(None if mechanisms is None else False, mechanisms)


def why_silent(broker: str) -> str:
    """Why the brokers at host:port[,host:port...] give no answer, as far as a connection shows it. For a log line."""
    return "; ".join(f"{address.strip()}: {_why_silent(address)}" for address in broker.split(","))


def _why_silent(address: str) -> str:
    host, _, port = address.strip().rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), ASK_S):
            return "accepts a connection and does not answer"
    except socket.gaierror:
        return "the name does not resolve"
    except TimeoutError:
        return f"no connection within {ASK_S:.0f} s"
    except OSError as exc:
        return (exc.strerror or str(exc)).lower()


def _ask(endpoint: tuple[str, int], tls: bool) -> tuple[str, ...] | None:
    """The SASL mechanisms; None without an answer of Kafka's, such as over TLS from who wants a certificate first."""
    with suppress(OSError, struct.error), socket.create_connection(endpoint, ASK_S) as plain:
        if not tls:
            return _mechanisms(plain)
        with _context().wrap_socket(plain, server_hostname=endpoint[0]) as wrapped:
            return _mechanisms(wrapped)
    return None


def _context() -> ssl.SSLContext:
    """Trusts everybody: nothing secret is said, and nothing that is heard is believed."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _speaks_tls(endpoint: tuple[str, int]) -> bool:
    """False if it may be anything else: a load balancer without a broker behind it closes connections, too."""
    try:
        with (
            socket.create_connection(endpoint, ASK_S) as plain,
            _context().wrap_socket(plain, server_hostname=endpoint[0]),
        ):
            return True
    except ssl.SSLError as exc:  # an alert is an answer in TLS
        return "ALERT" in (exc.reason or "")
    except OSError:
        return False


def _mechanisms(connection: socket.socket) -> tuple[str, ...] | None:
    """The answer to SaslHandshake. Raises OSError or struct.error if it is none of Kafka's."""
    body = struct.pack(">hhi", 17, 1, 1) + _text("eddy") + _text("?")
    connection.sendall(struct.pack(">i", len(body)) + body)
    (length,) = struct.unpack(">i", _receive(connection, 4))
    if not 10 <= length < 10_000:
        return None
    answer = _receive(connection, length)
    _, code, count = struct.unpack_from(">ihi", answer)
    if code == ILLEGAL_SASL_STATE:
        return ()
    names, at = [], 10
    for _ in range(count):
        (size,) = struct.unpack_from(">h", answer, at)
        names.append(answer[at + 2 : at + 2 + size].decode("ascii", "replace"))
        at += 2 + size
    return tuple(names) or None


def _text(text: str) -> bytes:
    return struct.pack(">h", len(text)) + text.encode()


def _receive(connection: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        part = connection.recv(count - len(found))
        if not part:
            raise ConnectionResetError("closed")
        found += part
    return found
