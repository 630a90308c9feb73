"""Reads a clicks topic as a log: its messages, up to the end at the call, become a file of JSON lines.

A message is decoded as a worker decodes it, so the same messages are clicks. Other messages, such as requests to forget
a user, are counted and left out. A user's clicks keep the order of their partition.
"""

import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from export.progress import Progress
from stream.access.messages import read_messages
from stream.errors import BadClick, ConfigError
from stream.kafka_config import KafkaConfig
from stream.mapping.mapping import MappingFile
from stream.mapping.shape import message_shape
from stream.wire.json import JsonCodec, encode


@contextmanager
def as_file(
    broker: str, topic: str, config: KafkaConfig, mapping: MappingFile | None, limits: tuple[int, int], watch: Progress
) -> Iterator[Path]:
    """A file with the clicks of a topic, in Eddy's fields, that is deleted afterwards. It is under TMPDIR.

    limits  of the codec: most bytes of a message, and ms that a click may be ahead of the clock
    Raises ConfigError if the topic cannot be read, has no click, or is not in JSON, or if the file cannot be written.
    """
    if mapping is not None and mapping.mapping.format != "json":
        raise ConfigError(
            f"mapping {mapping.name}: [message] format is {mapping.mapping.format!r}, and eddy paths reads topics in "
            "JSON only; give it a file with the events"
        )
    codec = JsonCodec(*limits, None if mapping is None else message_shape(mapping.mapping.of_topic()))
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "topic.jsonl"
        watch.say(f"topic {topic}: reading")
        try:
            rekey = mapping is not None and mapping.mapping.rekey
            clicks, left_out = _write(file, broker, topic, config, codec, rekey)
        except OSError as exc:
            raise ConfigError(
                f"topic {topic}: its clicks cannot be written to {directory} ({exc}); set TMPDIR to a larger disk"
            ) from exc
        counts = ", ".join(f"{count:,} {reason}" for reason, count in left_out.most_common())
        if not clicks:
            what = f"; left out: {counts}. If its messages have another shape, " if counts else ""
            done = (
                f"give --mapping, which `eddy init --topic {topic}` writes" if mapping is None else "correct --mapping"
            )
            raise ConfigError(f"topic {topic} has no clicks" + (what and what + done))
        watch.say(f"topic {topic}: {clicks:,} clicks" + (f"; left out: {counts}" if counts else ""))
        yield file


def _write(
    file: Path, broker: str, topic: str, config: KafkaConfig, codec: JsonCodec, rekey: bool
) -> tuple[int, Counter[str]]:
    """Write the clicks. Returns their number, and reason -> messages that are no clicks."""
    left_out: Counter[str] = Counter()
    clicks, now_ms = 0, time.time_ns() // 1_000_000
    with file.open("wb") as lines:
        for message in read_messages(broker, topic, config):
            try:
                click = codec.decode(message.key(), message.value(), now_ms)
                if not rekey:  # a worker's copy of the messages has the right keys
                    codec.check_key(message.key(), click.user_id)
            except BadClick as exc:
                left_out[exc.reason] += 1
                continue
            lines.write(encode(click) + b"\n")
            clicks += 1
    return clicks, left_out
