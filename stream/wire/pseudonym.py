"""User ids replaced by keyed hashes as soon as a message is decoded (--pseudonymise).

The rule that must not break: behind this codec there is no raw user id. Outputs, dead letters and the changelog have
pseudonyms only. A dead letter cannot hold the message, whose fields may have the id anywhere; topic, partition and
offset lead to it for as long as the clicks topic keeps it.

Source: RFC 7693 (BLAKE2b with a key is a MAC): without the key nobody can test whether a pseudonym is a known user's.
"""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from stream.errors import BadClick, ConfigError, Dropped
from stream.events import Click
from stream.wire.codec import Codec
from stream.wire.fields import LONGEST_ID, word

SHORTEST_KEY, LONGEST_KEY = 16, 64
"""Bytes of a key. BLAKE2b takes 64 at most."""

WITHHELD = "withheld, because --pseudonymise is on and it may show the user id"
WITHOUT_IDS = frozenset({"empty_value", "too_large", "empty_key", "future_timestamp", "model_failed", "unknown_schema"})
"""Reasons whose detail has nothing of the message but numbers."""


class Pseudonyms:
    """User id -> 32 hex digits, always the same ones with the same key. The repr does not show the key."""

    def __init__(self, key: bytes) -> None:
        """Raises ConfigError if the key has too few or too many bytes."""
        if not SHORTEST_KEY <= len(key) <= LONGEST_KEY:
            raise ConfigError(
                f"the key of --pseudonymise has {len(key)} bytes; it must have {SHORTEST_KEY} to {LONGEST_KEY}, as "
                "`openssl rand -hex 32` writes them"
            )
        self._key = key

    def of(self, user_id: str) -> str:
        return self._hash(user_id.encode(), 16).hex()

    def of_message_key(self, key: bytes) -> bytes:
        """The pseudonym of the user whose id a Kafka key is, also in another form such as 17.0 for 17."""
        try:
            user = word(key.decode(), LONGEST_ID)
        except ValueError:  # Unusable, or not UTF-8: the id of nobody, but perhaps part of one
            user = None
        return (self.of(user) if user else self._hash(key, 16).hex()).encode()

    @property
    def mark(self) -> int:
        """63 bits that tell this key from another one and do not show it. State rows of another key are refused."""
        return int.from_bytes(self._hash(b"eddy: mark of the key", 8), "little") >> 1

    def _hash(self, data: bytes, size: int) -> bytes:
        return hashlib.blake2b(data, key=self._key, digest_size=size).digest()


def read_pseudonyms(path: str) -> Pseudonyms:
    """The pseudonyms of the key file at `path`; spaces and line ends around the key are no part of it.

    Raises ConfigError if the file cannot be read or holds no key.
    """
    try:
        return Pseudonyms(Path(path).read_bytes().strip())
    except OSError as exc:
        raise ConfigError(f"--pseudonymise {path} cannot be read ({exc.strerror})") from None


class Kept(NamedTuple):
    """What a dead letter keeps of a record: the fields of aiokafka's ConsumerRecord that it needs."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None


class PseudonymousCodec:
    """Decodes with another codec; no user id comes out.

    left_out  that of the other codec
    """

    def __init__(self, codec: Codec, pseudonyms: Pseudonyms) -> None:
        self._codec = codec
        self._pseudonyms = pseudonyms
        self.left_out, self.headers = codec.left_out, codec.headers

    def decode(self, key: bytes | None, value: bytes | None, now_ms: int) -> Click:
        """As Codec.decode; the click has the pseudonym of its user. Raises only BadClick, without the id."""
        try:
            click = self._codec.decode(key, value, now_ms)
        except Dropped:
            raise
        except BadClick as exc:
            if exc.reason in WITHOUT_IDS:
                raise
            reason = exc.reason
        else:
            event_id = click.event_id and self._pseudonyms.of(click.event_id)  # it may have the user id in it
            return msgspec.structs.replace(click, user_id=self._pseudonyms.of(click.user_id), event_id=event_id)
        raise BadClick(reason, WITHHELD)  # outside of `except`, so that the first one is not its context

    def check_key(self, key: bytes | None, user_id: str) -> None:
        """As Codec.check_key; `user_id` is a pseudonym. Raises BadClick without the id."""
        if not key:
            self._codec.check_key(key, user_id)  # raises
        elif self.user(key) != user_id.encode():
            raise BadClick("key_is_not_user", WITHHELD)

    def user(self, key: bytes) -> bytes | None:
        """The pseudonym of the user with this message key."""
        user = self._codec.user(key)
        return None if user is None else self._pseudonyms.of(user.decode()).encode()

    def keep(self, record: Any) -> Kept:
        """The record without its value, keyed by the pseudonym."""
        key = self._pseudonyms.of_message_key(record.key) if record.key else record.key
        return Kept(record.offset, record.timestamp, key, None)


def pseudonymous(codec: Codec, path: str) -> tuple[Codec, int]:
    """`codec` with the pseudonyms of the key file at `path`, and their mark; `codec` itself and 0 for no path.

    Raises ConfigError if the file cannot be read or holds no key.
    """
    if not path:
        return codec, 0
    pseudonyms = read_pseudonyms(path)
    return PseudonymousCodec(codec, pseudonyms), pseudonyms.mark
