"""A Sink in Redis: the latest message of each user as it is on the topic, and the offsets, by one script.

    eddy:recs:USER              the latest recommendation (JSON)
    eddy:alerts:USER            the latest alert on the user
    eddy:system:PARTITION SIGN  the latest alert on many users
    eddy:sessions:USER          the latest begin or end of a session
    eddy:triggers:RULE USER     the latest trigger of a rule
    eddy:behaviour:CLICKS-P/MS  what was done in the hour of a partition that begins at MS
    eddy:offsets:TOPIC          a hash: partition -> offset of the next message to read

Redis runs a script as a whole, and writes it as a whole into its append-only file and to its replicas.
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from stream.errors import ConfigError
from stream.events import Partition
from stream.places.sink import Away, Moved, Part, latest
from stream.places.url import Url

WORDS = {
    "recommendations": "recs",
    "anomalies": "alerts",
    "system-alerts": "system",
    "sessions": "sessions",
    "triggers": "triggers",
    "behaviour": "behaviour",
}
"""Output -> the word in its keys."""

WRITE = """
local stored = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if stored ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
for i = 2, #KEYS do
  if ARGV[4] == '0' then redis.call('SET', KEYS[i], ARGV[i + 3])
  else redis.call('SET', KEYS[i], ARGV[i + 3], 'EX', ARGV[4]) end
end
return 1
"""
"""Keys: the hash of offsets, then those to set. Arguments: partition, expected offset or '', offset to store, seconds
to live or 0, then the values. The first write is the offset: out of memory, Redis refuses it and nothing is done."""

ANSWER_S = 30.0
CONNECT_S = 10.0

PASSING = (
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.ReadOnlyError,  # of a replica: the connection is to a primary of before
    redis.exceptions.ClusterDownError,  # and MASTERDOWN
    redis.exceptions.TryAgainError,
)
PASSING_WORDS = re.compile(r"^BUSY\b|\b(MISCONF|NOREPLICAS|READONLY|OOM|MASTERDOWN) ")
"""Errors that end by themselves, or when an operator makes room. redis-py cuts off the first word of those for which it
has a class, so the text of those does not show it. Before Redis 7 the word of an error inside a script comes late:
ERR Error running script (call to f_1): @user_script:4: -READONLY You can't write against a read only replica."""


def _check_database(url: str) -> None:
    """Raises ValueError if a URL has a database that is no number: redis-py then takes the database 0 in silence."""
    parts = urlsplit(url)
    database = parts.path.removeprefix("/")
    if parts.scheme in ("redis", "rediss") and database and not (database.isascii() and database.isdigit()):
        raise ValueError(f"database {database!r}")


class RedisSink:
    """A Sink in one Redis database."""

    def __init__(self, url: Url, prefix: str = "eddy:", ttl_s: int = 0) -> None:
        """Raises ConfigError if the URL is none of Redis.

        prefix  of all keys
        ttl_s   a key is deleted if nothing was written to it for so many seconds; 0 = never
        """
        self.where = url.shown
        self._url, self._prefix, self._ttl_s = url, prefix, ttl_s
        try:
            self._client: Any = redis.Redis.from_url(
                url.text,
                socket_timeout=ANSWER_S,
                socket_connect_timeout=CONNECT_S,
                retry=Retry(NoBackoff(), 0),  # the loop reads the stored offset before a retry
            )
            _check_database(url.text)
        except (ValueError, TypeError) as exc:
            raise ConfigError(f"{url.shown} is no URL of Redis; it looks like redis://HOST:6379/0") from exc
        self._script = self._client.register_script(WRITE)

    def open(self) -> None:
        if self._ask(lambda: self._client.info("cluster")).get("cluster_enabled"):
            raise ConfigError(
                f"{self.where} is a Redis Cluster, in which a script cannot set the keys of several users; give a "
                "Redis without cluster mode"
            )

    def offsets(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        found: dict[Partition, int] = {}
        for topic in {partition.topic for partition in partitions}:
            stored = self._ask(partial(self._client.hgetall, self._offsets(topic)))
            found |= {Partition(topic, int(number)): int(offset) for number, offset in stored.items()}
        return {partition: offset for partition, offset in found.items() if partition in partitions}

    def write(self, part: Part) -> int:
        newest = latest(part.events)
        word = WORDS[part.output]
        keys = [self._offsets(part.partition.topic), *(f"{self._prefix}{word}:{name}" for name in newest)]
        expected = "" if part.begin is None else part.begin
        values = [part.partition.number, expected, part.end, self._ttl_s, *(part.raw[n] for n in newest.values())]
        if not self._ask(lambda: self._script(keys=keys, args=values)):
            raise Moved(part.partition, part.begin)
        return 0

    def close(self) -> None:
        with suppress(redis.RedisError):
            self._client.close()

    def _offsets(self, topic: str) -> str:
        return f"{self._prefix}offsets:{topic}"

    def _ask(self, call: Any) -> Any:
        """The answer of Redis. Raises Away or ConfigError."""
        try:
            return call()
        except (redis.AuthenticationError, redis.exceptions.NoPermissionError) as exc:
            if isinstance(exc, redis.AuthenticationError) and not self._url.has_password:
                raise ConfigError(
                    f"{self.where} wants a password; give it in EDDY_SINK_URL, as redis://:PASSWORD@HOST:6379/0 "
                    f"({self._url.redact(exc)})"
                ) from exc
            raise ConfigError(
                f"{self.where} refuses this user ({self._url.redact(exc)}); docs/sinks.md has the rights that it needs"
            ) from exc
        except redis.ResponseError as exc:
            if isinstance(exc, PASSING) or PASSING_WORDS.search(str(exc)):
                raise Away(self._url.redact(exc)) from exc
            raise ConfigError(f"{self.where} cannot be written ({self._url.redact(exc)}); see --prefix") from exc
        except (redis.RedisError, OSError) as exc:
            raise Away(self._url.redact(exc)) from exc
