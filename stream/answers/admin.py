"""Requests that change something: the token that they need, and what is written to Kafka for them."""

import hmac
from codecs import BOM_UTF8
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from stream.access.publish import Publisher
from stream.errors import ConfigError, Unanswered
from stream.kafka_config import KafkaConfig
from stream.wire.requests import FORGET_HEADER, QUIET_HEADER, Quieting

SHORTEST = 16
"""Bytes of a token. A shorter one can be guessed."""

LONGEST = 1024


class Token:
    """The token of `Authorization: Bearer TOKEN`. The repr does not show it.

    secret  None: every request is refused
    """

    def __init__(self, secret: bytes | None) -> None:
        self._secret = secret

    def check(self, authorization: str | None) -> None:
        """Raises Unanswered unless the header has the token. The time that it takes does not depend on the token."""
        if self._secret is None:
            raise Unanswered(403, "this worker has no token, so it refuses such requests; give it --http-token-file")
        scheme, _, given = (authorization or "").partition(" ")
        fits = hmac.compare_digest(given.strip().encode(errors="surrogateescape"), self._secret)
        if scheme.lower() != "bearer" or not fits:
            raise Unanswered(401, "this request needs the header Authorization: Bearer TOKEN with the worker's token")


def read_token(path: str) -> Token:
    """The token in the file at `path`, without spaces and line ends around it; no path: no token.

    Raises ConfigError if the file cannot be read or holds no token.
    """
    if not path:
        return Token(None)
    try:
        with Path(path).open("rb") as file:
            secret = file.read(LONGEST + 1).removeprefix(BOM_UTF8).strip()
    except OSError as exc:
        raise ConfigError(f"--http-token-file {path} cannot be read ({exc.strerror})") from None
    if not SHORTEST <= len(secret) <= LONGEST or not all(33 <= byte <= 126 for byte in secret):
        raise ConfigError(
            f"the token in --http-token-file {path} has {len(secret)} bytes; it must be one word of {SHORTEST} to "
            f"{LONGEST} letters, digits and signs of ASCII, as `openssl rand -hex 32` writes it"
        )
    return Token(secret)


def request_to_forget(broker: str, topic: str, config: KafkaConfig, users: Iterable[bytes]) -> int:
    """Write a request to forget each of these users, by message key, to every partition of the clicks topic.

    A user's partition is only known to the producers. Returns the number of partitions.
    Raises ConfigError as Publisher does.
    """
    return _to_every_partition(broker, topic, config, users, {FORGET_HEADER: b""})


def request_quiet(broker: str, topic: str, config: KafkaConfig, user: bytes, which: Quieting) -> int:
    """Write a request to keep alerts on a user back to every partition of the clicks topic.

    user  its id as an alert has it. Partitions without a row of this user ignore the request
    Returns the number of partitions. Raises ConfigError as Publisher does.
    """
    return _to_every_partition(broker, topic, config, [user], {QUIET_HEADER: msgspec.json.encode(which)})


def _to_every_partition(
    broker: str, topic: str, config: KafkaConfig, users: Iterable[bytes], headers: Mapping[str, bytes]
) -> int:
    """Write a message without a value for each user to every partition. Returns the number of partitions."""
    publisher = Publisher(broker, topic, config)
    for user in users:
        for partition in range(publisher.partitions):
            publisher.send(user, None, partition, headers)
    publisher.close()
    return publisher.partitions
