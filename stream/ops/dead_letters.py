"""The command `eddy dead-letters`: counts the dead letters by reason, shows them, and publishes them again."""

import os
from base64 import b64decode
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import islice
from typing import TYPE_CHECKING, Any

import click
import msgspec

from stream.errors import ConfigError
from stream.events import DeadLetter
from stream.kafka_config import KafkaConfig, read_kafka_config
from stream.log_lines import counted, printable
from stream.ops.options import connection_options, topic_option
from stream.ops.text import time_of

if TYPE_CHECKING:
    from stream.access.publish import Publisher

RETRY_HEADER = "eddy-retry"
"""Header of a message that was published again; its value is the id of the dead letter."""

MOST_FIELDS = 20

ALIKE = 0.7
"""How alike a mistyped reason is to the one that is meant (difflib's ratio). No two of Eddy's reasons are so alike."""


class Summary(msgspec.Struct):
    """The dead letters of one reason.

    first_ms, last_ms  the earliest and the latest Kafka timestamp of the messages, ms since the epoch
    example            detail of the last one
    fields             field name -> number of messages that are JSON objects with it
    """

    letters: int = 0
    first_ms: int | None = None
    last_ms: int | None = None
    example: str = ""
    fields: Counter[str] = msgspec.field(default_factory=Counter)

    def add(self, letter: DeadLetter) -> None:
        self.letters += 1
        self.first_ms = letter.timestamp if self.first_ms is None else min(self.first_ms, letter.timestamp)
        self.last_ms = letter.timestamp if self.last_ms is None else max(self.last_ms, letter.timestamp)
        self.example = letter.detail
        self.fields.update(_fields(letter))


class Published(msgspec.Struct):
    """What --publish did, in numbers of letters.

    published  written to the clicks topic
    already    not written: the clicks topic has the retry of a letter with this id
    cut        not written: the letter has only the first bytes of the message, because of the limit of its topic
    no_value   not written: the message had no value, or --pseudonymise keeps it out of the letter
    """

    published: int = 0
    already: int = 0
    cut: int = 0
    no_value: int = 0


@click.command("dead-letters")
@connection_options
@topic_option("dead_letters")
@topic_option("clicks")
@click.option("--reason", multiple=True, help="Only letters with this reason; may be given several times.")
@click.option("--show", is_flag=True, help="Print the letters, one JSON object a line, instead of the counts.")
@click.option("--limit", type=click.IntRange(1), help="At most so many letters.")
@click.option("--publish", is_flag=True, help="Write the original messages to the clicks topic again.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def dead_letters(
    broker: str,
    kafka_config: str,
    dead_letters_topic: str,
    clicks_topic: str,
    reason: tuple[str, ...],
    show: bool,
    limit: int | None,
    publish: bool,
    as_json: bool,
) -> None:
    """Count the dead letters by reason, show them, or publish their messages again.

    A dead letter has the message that was no valid click, and the reason. Publish messages again when the cause is
    mended: a model was trained again (model_failed, engine_failed), a clock was set (future_timestamp), or a limit was
    raised (too_large). A message that is wrong in itself becomes a dead letter again.

    --publish writes key and value as they were, with the header eddy-retry. A letter whose retry is still on the clicks
    topic is not published a second time. The clicks then come after newer ones of their users.

    \b
    Examples:
      eddy dead-letters
      eddy dead-letters --reason not_json --show --limit 3
      eddy dead-letters --reason model_failed --publish --broker k1:9092 --kafka-config client.properties
    """
    from stream.access.messages import read_messages, span_of
    from stream.access.publish import Publisher
    from stream.access.rights import check_access

    if show and publish:
        raise click.UsageError("give either --show or --publish.")
    config = read_kafka_config(kafka_config, os.environ)
    if publish:
        check_access(broker, config, reads=[dead_letters_topic, clicks_topic], writes=[clicks_topic])

    span = span_of(broker, dead_letters_topic, config)  # a worker may refuse again what is published meanwhile
    there: Counter[str] = Counter()

    def chosen() -> Iterator[tuple[int, DeadLetter]]:
        there.clear()
        return islice(_letters(read_messages(broker, dead_letters_topic, config, span=span), reason, there), limit)

    if show:
        for _, letter in chosen():
            click.echo(msgspec.json.encode(_readable(letter)))
    elif publish:
        _check_source(broker, clicks_topic, config)
        since_ms = min((written_ms for written_ms, _ in chosen()), default=None)
        done = Published()
        if since_ms is not None:
            since = span_of(broker, clicks_topic, config, since_ms)
            retries = _retries(read_messages(broker, clicks_topic, config, span=since))
            publisher = Publisher(broker, clicks_topic, config)
            with _progress(chosen(), f"publishing on {clicks_topic}") as letters:
                for _, letter in letters:
                    _publish(letter, clicks_topic, publisher, retries, done)
                publisher.close()
        click.echo(msgspec.json.encode(done) if as_json else _lines(done, clicks_topic))
    else:
        with _progress(chosen(), f"reading {dead_letters_topic}") as letters:
            found = summaries(letter for _, letter in letters)
        click.echo(msgspec.json.encode(found) if as_json else _table(found, dead_letters_topic, reason))
    for hint in _not_there(reason, there, limit):  # on stderr, because --json and --show have a form
        click.echo(f"eddy: {hint}", err=True)


def _check_source(broker: str, topic: str, config: KafkaConfig) -> None:
    """Raise ConfigError if a topic is that of the workers' copies: what is published there is not re-keyed."""
    from stream.access.publish import cluster_of
    from stream.access.refusal import Admin
    from stream.rekey.topic import by_user

    source = topic.removesuffix(by_user(""))
    if source != topic and source in cluster_of(Admin(broker, config)).topics:
        raise ConfigError(
            f"topic {topic} has the copies of the workers, and what is published there is not re-keyed; give "
            f"--clicks-topic {source}"
        )


def summaries(letters: Iterable[DeadLetter]) -> dict[str, Summary]:
    """Reason -> its letters, the commonest reason first."""
    found: dict[str, Summary] = {}
    for letter in letters:
        found.setdefault(letter.reason, Summary()).add(letter)
    return dict(sorted(found.items(), key=lambda one: -one[1].letters))


def _letters(
    messages: Iterable[Any], reasons: tuple[str, ...], there: Counter[str]
) -> Iterator[tuple[int, DeadLetter]]:
    """The Kafka timestamp (ms) of each letter with one of the reasons, or of all, and the letter itself.

    there  gets the reason of each letter that was read
    """
    for message in messages:
        try:
            letter = msgspec.json.decode(message.value() or b"", type=DeadLetter)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
            raise ConfigError(
                f"{message.topic()}-{message.partition()}-{message.offset()} is no dead letter ({exc}); see "
                "--dead-letters-topic"
            ) from exc
        there[letter.reason] += 1
        if not reasons or letter.reason in reasons:
            yield message.timestamp()[1], letter


def _not_there(reasons: Sequence[str], there: Mapping[str, int], limit: int | None) -> Iterator[str]:
    """A line for each reason that was asked for and that no letter has, with the nearest one that letters have.

    there  reason -> letters that were read
    limit  with so many letters of the reasons the reading ended, so later ones may have the others; None = no limit
    """
    if limit is not None and sum(there.get(reason, 0) for reason in set(reasons)) >= limit:
        return
    has = ", ".join(f"{printable(name)} ({count:,})" for name, count in Counter(there).most_common(MOST_FIELDS))
    for reason in dict.fromkeys(reasons):
        if reason not in there:
            near = get_close_matches(reason, there, 1, ALIKE)
            meant = f"; did you mean {printable(near[0])!r}?" if near else "."
            yield f"no letter has the reason {reason!r}{meant} The letters have {has or 'no reason: there are none'}"


def _retries(messages: Iterable[Any]) -> set[bytes]:
    """The ids of the letters whose messages were published again."""
    return {value for message in messages for name, value in message.headers() or () if name == RETRY_HEADER}


def _publish(letter: DeadLetter, topic: str, publisher: "Publisher", retries: set[bytes], done: Published) -> None:
    """Publish the message of a letter, into its old partition, if that is possible and was not done; count it.

    retries  the ids of the letters that were published before; gets this one, too: two groups may have refused the same
    """
    key, value = (None if text is None else b64decode(text) for text in (letter.key, letter.value))
    if letter.id.encode() in retries:
        done.already += 1
    elif not value:
        done.no_value += 1
    elif (len(key or b""), len(value)) != (letter.key_bytes, letter.value_bytes):
        done.cut += 1
    else:
        same = letter.topic == topic and letter.partition < publisher.partitions
        publisher.send(key, value, letter.partition if same else None, {RETRY_HEADER: letter.id.encode()})
        retries.add(letter.id.encode())
        done.published += 1


def _readable(letter: DeadLetter) -> dict[str, Any]:
    """The letter with key and value as text, bytes that are not UTF-8 escaped."""
    text = {
        name: None if data is None else b64decode(data).decode(errors="backslashreplace")
        for name, data in (("key", letter.key), ("value", letter.value))
    }
    return msgspec.structs.asdict(letter) | text


def _fields(letter: DeadLetter) -> list[str]:
    """The field names of the message in a letter; none if it is no JSON object."""
    try:
        return list(msgspec.json.decode(b64decode(letter.value or ""), type=dict[str, msgspec.Raw]))[:MOST_FIELDS]
    except (msgspec.DecodeError, UnicodeError, RecursionError, ValueError):
        return []


def _progress(letters: Iterator[tuple[int, DeadLetter]], label: str) -> Any:
    return click.progressbar(letters, label=label, file=click.get_text_stream("stderr"), show_pos=True)


def _lines(done: Published, topic: str) -> str:
    """What --publish did, for a person."""
    if done == Published():
        return "no dead letters with this reason; nothing was published"
    others = {
        "was published before, or another one with the same id": done.already,
        "has only the first bytes of its message": done.cut,
        "has no value to publish": done.no_value,
    }
    lines = [f"{counted(done.published, 'message')} published to {topic}"]
    return "\n".join(
        [*lines, *(f"{count:,} not published: the letter {why}" for why, count in others.items() if count)]
    )


def _table(found: dict[str, Summary], topic: str, reasons: Sequence[str] = ()) -> str:
    """The summaries, for a person. reasons: of the letters that were asked for; none = all."""
    if not found:
        return f"no dead letters in {topic}" + (f" with the reason {' or '.join(reasons)}" if reasons else "")
    lines = []
    for reason, summary in found.items():
        letters = counted(summary.letters, "letter")
        lines.append(f"{reason}: {letters}, {time_of(summary.first_ms)} to {time_of(summary.last_ms)}")
        lines.append(f"    example: {printable(summary.example)}")
        fields = (f"{name} ({count:,})" for name, count in summary.fields.most_common(MOST_FIELDS))
        lines.append(f"    fields: {printable(', '.join(fields)) or 'none, the messages are not JSON objects'}")
    return "\n".join(lines)
