"""A clicks topic -> a log with its clicks: the opposite of export/replay.py.

1. Read the topic from a time on to its end at the start, and write a line for each click.
2. If there were requests to forget users, write the file again: a click before such a request is left out.
3. The file gets its name when it is complete.

A request to forget is in every partition (`eddy forget`), and covers the clicks before it in its partition, as for a
worker. That there is one is known when it is read, after the clicks; and they may be more than memory holds.
"""

import gzip
import os
import time
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from confluent_kafka import Message

from export.progress import Progress
from export.record.lines import Lines
from export.record.recorded import FORGOTTEN, LIMIT, REQUEST, Recorded
from stream.access.messages import read_messages, span_of
from stream.errors import BadClick, ConfigError
from stream.kafka_config import PLAINTEXT, KafkaConfig
from stream.mapping.mapping import MappingFile
from stream.mapping.shape import with_headers
from stream.rekey.topic import by_user
from stream.wire.codec import TRUSTED_MS, Codec
from stream.wire.requests import CARRIED_HEADER, FORGET_HEADER, QUIET_HEADER, user_to_forget

ENDINGS = (".jsonl", ".jsonl.gz")
"""Of the names of the files that can be written."""

REPORT_EVERY = 1_000
"""Messages between two reports of progress."""


class Forgotten:
    """The last request to forget each user in each partition. Memory grows with the users who are to be forgotten.

    new  requests that were not known before
    """

    def __init__(self, partitions: int) -> None:
        self.new = 0
        self._partitions = partitions
        self._last: dict[bytes, array[int]] = {}  # user -> offset for each partition, -1 = none

    def add(self, user: bytes, partition: int, offset: int) -> None:
        offsets = self._last.setdefault(user, array("q", [-1]) * self._partitions)
        if offset > offsets[partition]:
            offsets[partition] = offset
            self.new += 1

    def covers(self, user: bytes, partition: int, offset: int) -> bool:
        """Whether a click of the user stands before a request."""
        offsets = self._last.get(user)
        return offsets is not None and offset < offsets[partition]


class Valueless(NamedTuple):
    """A message of confluent-kafka without a value, as stream.wire.requests reads it."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


def check_name(out: Path) -> None:
    """Check OUT before anything is read. Raises ConfigError if it exists or has an ending that is not known."""
    if not out.name.lower().endswith(ENDINGS):
        raise ConfigError(f"{out}: the name must end in {' or '.join(ENDINGS)}")
    if out.exists():
        raise ConfigError(f"{out} exists, and eddy record does not replace a file; give another OUT or remove it")


def check_topic(topic: str, mapping: MappingFile | None) -> None:
    """Raises ConfigError if a mapping that re-keys is given for the topic of the copies."""
    if mapping is not None and mapping.mapping.rekey and topic.endswith(by_user("")):
        raise ConfigError(
            f"topic {topic} has the copies of the workers, where a request to forget a user is not beside each click "
            "of the user; give the topic that the producers write"
        )


def record(
    out: Path,
    broker: str,
    topic: str,
    lines: Lines,
    progress: Progress,
    config: KafkaConfig = PLAINTEXT,
    since_ms: int = 0,
    limit: int | None = None,
) -> Recorded:
    """Write the clicks of a topic to a file, of which OUT has the name when all is written.

    since_ms  Kafka timestamp of the first messages; 0 = from the beginning
    limit     most clicks; None = all
    Raises ConfigError if the topic cannot be read, has no click to write, or if the file cannot be written.
    """
    check_name(out)
    with _file(out) as (part, complete):
        found = write_topic(lambda: _opened(part, out), broker, topic, lines, progress, config, since_ms, limit)
        found.file, found.bytes = str(out), part.stat().st_size
        complete()
    return found


def write_topic(
    opened: Callable[[], AbstractContextManager[BinaryIO]],
    broker: str,
    topic: str,
    lines: Lines,
    progress: Progress,
    config: KafkaConfig = PLAINTEXT,
    since_ms: int = 0,
    limit: int | None = None,
) -> Recorded:
    """Write a line for each click of a topic; the other arguments are those of `record`.

    opened  opens the file to write, empty. If there are requests to forget users, it is called a second time
    Raises ConfigError if the topic cannot be read or has no click to write, OSError if the file cannot be written.
    """
    span = span_of(broker, topic, config, since_ms)
    length = sum(map(len, span.values()))
    forgotten = Forgotten(max(span) + 1)
    again = ""
    while True:
        progress.begin(f"reading {topic}{again}", length)
        messages = read_messages(broker, topic, config, span=span)
        with opened() as file:
            found = write(file, messages, lines, forgotten, topic, len(span), progress, limit)
        if not forgotten.new:
            break
        forgotten.new, again = 0, " again, without the users who are to be forgotten"
    _check(found, since_ms)
    found.deleted = 0 if since_ms else sum(offsets.start for offsets in span.values())
    return found


def write(
    file: BinaryIO,
    messages: Iterable[Message],
    lines: Lines,
    forgotten: Forgotten,
    topic: str,
    partitions: int,
    progress: Progress,
    limit: int | None = None,
) -> Recorded:
    """Write a line for each click among the messages; add requests to forget a user to `forgotten`.

    After `limit` clicks only requests are looked for. Raises NoRegistry if the schema of a message cannot be had.
    """
    now_ms = time.time_ns() // 1_000_000
    found, unused = Recorded(topic, partitions), lines.unused
    for message in messages:
        found.messages += 1
        if found.messages % REPORT_EVERY == 0:
            progress.seen(REPORT_EVERY)
        value = message.value()
        if value is None and _is_request(message, lines.codec, forgotten):
            found.leave_out(REQUEST)
            continue
        if found.clicks == limit:
            found.leave_out(LIMIT)
            continue
        value = with_headers(value, message.headers(), lines.codec.headers)
        try:
            seen_ms = max(now_ms, min(message.timestamp()[1], now_ms + TRUSTED_MS))  # as a worker
            click, line = lines.of(message.key(), value, seen_ms)
        except BadClick as exc:
            found.leave_out(exc.reason, exc.detail)
            continue
        if forgotten.covers(click.user_id.encode(), message.partition(), message.offset()):
            found.leave_out(FORGOTTEN)
            continue
        file.write(line + b"\n")
        found.clicks += 1
        if unused is not None and not unused.see(value or b""):
            found.unused, unused = unused.missing(), None
        at = click.timestamp
        found.first_ms = at if found.first_ms is None else min(found.first_ms, at)
        found.last_ms = at if found.last_ms is None else max(found.last_ms, at)
    if unused is not None:
        found.unused = unused.missing() if found.clicks else []
    return found


def _is_request(message: Message, codec: Codec, forgotten: Forgotten) -> bool:
    """Whether a message without a value is a request about a user or a message between workers. Adds it if it is one
    to forget the user."""
    one = Valueless(message.key(), None, message.headers() or [])
    user = user_to_forget(one, codec)
    if user is not None:
        forgotten.add(user, message.partition(), message.offset())
    ours = {FORGET_HEADER, QUIET_HEADER, CARRIED_HEADER}
    return bool(one.key) and any(name in ours for name, _ in one.headers)


def _check(found: Recorded, since_ms: int) -> None:
    """Raises ConfigError if there is nothing in the file."""
    if not found.messages:
        raise ConfigError(f"topic {found.topic} has no messages" + (" since the time of --from" if since_ms else ""))
    if not found.clicks:
        reasons = [f"{count:,} {reason} ({found.details[reason]})" for reason, count in found.left_out.most_common()]
        raise ConfigError(
            f"topic {found.topic} has no clicks; left out: {', '.join(reasons)}. If its messages have "
            f"another shape, give --mapping, which `eddy init --topic {found.topic}` writes, or correct it"
        )


@contextmanager
def _file(out: Path) -> Iterator[tuple[Path, Callable[[], None]]]:
    """The name of a file beside OUT to write to, and the function that gives it the name OUT when it is complete.

    Without that call the file is deleted at the end. Raises ConfigError if it cannot be written.
    """
    part = out.with_name(f"{out.name}.part")

    def complete() -> None:
        check_name(out)  # it may exist by now
        part.rename(out)

    try:
        with _opened(part, out):  # before the topic is read
            pass
        yield part, complete
    except OSError as exc:
        raise ConfigError(f"{out} cannot be written ({exc.strerror or exc}); give another OUT") from exc
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _opened(part: Path, out: Path) -> Iterator[BinaryIO]:
    """The file, empty, and on disk at the end. It is packed if OUT says so."""
    with part.open("wb") as raw:
        if out.suffix.lower() == ".gz":
            with gzip.GzipFile("", "wb", fileobj=raw) as packed:
                yield cast(BinaryIO, packed)
        else:
            yield raw
        raw.flush()
        os.fsync(raw.fileno())
