"""What a command of `eddy sink` runs: it waits for Kafka, checks rights, reads to its end, and prints what was done.

Kafka's clients are imported here when they are needed, because --help needs none.
"""

import logging
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from threading import Event as Flag
from typing import TYPE_CHECKING

import click
import msgspec

from stream.errors import ConfigError
from stream.kafka_config import KafkaConfig, read_kafka_config
from stream.log_lines import log_to_stderr
from stream.sinks.options import sources

if TYPE_CHECKING:
    from stream.places.sink import Sink
    from stream.places.webhook import Webhook


def copy(
    place: "Sink",
    rows: int,
    every_s: float,
    written: Sequence[str] = (),
    created: Sequence[str] = (),
    *,
    broker: str,
    kafka_config: str,
    outputs: tuple[str, ...],
    once: bool,
    log_format: str,
    as_json: bool,
    **topics: str,
) -> None:
    """Copy the topics of the outputs to a sink until SIGTERM or Ctrl-C, and print what was done.

    written  topics that the sink reads and writes, with a group and a transactional id of the same name
    created  those of them that it creates if they are missing
    topics   name of each topic, as recommendations_topic
    Raises ConfigError.
    """
    from stream.access.rights import check_access
    from stream.sinks.run import Copying
    from stream.sinks.source import Source

    config = read_kafka_config(kafka_config, os.environ)
    names = sources({"outputs": outputs, **topics})
    check = partial(check_access, broker, config, [*names, *written], written, written, created)
    with started(broker, config, next(iter(names)), check, once, log_format) as stopped:
        source = Source(broker, list(names), config, stopped)
        done = Copying(source, place, names, rows, every_s, stopped, _seen()).run(once)
    if as_json:
        click.echo(msgspec.json.encode(done))
        return
    counts = ", ".join(f"{count:,} {output}" for output, count in done.written.items())
    click.echo(f"{counts} written to {place.where}; {done.left_out:,} messages left out")


def post(
    webhook: "Webhook",
    form: str,
    only_opened: bool,
    most: float,
    of_group: str,
    begins: str,
    *,
    broker: str,
    kafka_config: str,
    outputs: tuple[str, ...],
    once: bool,
    log_format: str,
    as_json: bool,
    **topics: str,
) -> None:
    """Post the messages of the outputs until SIGTERM or Ctrl-C, and print what was done. Raises ConfigError.

    most      messages a minute
    of_group  consumer group
    begins    where a new group begins, as the setting start_at
    topics    name of each topic, as anomalies_topic
    """
    from stream.access.begin import begin
    from stream.access.rights import check_access
    from stream.places.chat import FORMS, IN_WORDS
    from stream.sinks.group import GroupSource
    from stream.sinks.post import Minute, Posting

    if form == "slack" and not set(outputs) <= set(IN_WORDS):
        raise ConfigError(f"--format slack has lines for {', '.join(IN_WORDS)} only; name some of these with --topics")
    config = read_kafka_config(kafka_config, os.environ)
    names = sources({"outputs": outputs, **topics})
    check = partial(check_access, broker, config, list(names), groups=[of_group])
    with started(broker, config, next(iter(names)), check, once, log_format) as stopped:
        source = GroupSource(broker, list(names), config, stopped, of_group, begin(broker, config, "", begins))
        posting = Posting(source, webhook, names, FORMS[form], only_opened, Minute(most), stopped, _seen())
        done = posting.run(once)
    if as_json:
        click.echo(msgspec.json.encode(done))
        return
    counts = ", ".join(f"{count:,} {output}" for output, count in done.written.items())
    rest = f"{done.later:,} later ones of episodes, {done.over_limit:,} above the limit, {done.refused:,} refused"
    click.echo(f"{counts} posted to {webhook.where}; {rest}; {done.left_out:,} messages left out")


@contextmanager
def started(
    broker: str, config: KafkaConfig, topic: str, check: Callable[[], None], once: bool, log_format: str
) -> Iterator[Flag]:
    """The flag that SIGTERM and Ctrl-C set, when Kafka answers.

    topic  Kafka is asked for it now and then
    check  of the rights, once Kafka answers
    Raises ConfigError, also at the end: if Kafka has refused this client meanwhile, which sets the flag.
    """
    from stream.kafka.waiting import watch_kafka
    from stream.sinks.patience import ONCE_S, Patience, at_start

    log_to_stderr(log_format)
    logging.getLogger("stream").setLevel(logging.INFO)
    watch = watch_kafka(broker, topic, config)
    watch.wait(partial(at_start, broker, Patience(ONCE_S if once else math.inf)))
    check()
    stopped = Flag()
    for number in (signal.SIGTERM, signal.SIGINT):  # until here there is nothing to finish
        signal.signal(number, lambda *_: stopped.set())
    refusals: list[ConfigError] = []

    def refuse(refusal: ConfigError) -> None:
        refusals.append(refusal)
        stopped.set()

    watch.start(refuse)
    yield stopped
    if refusals:
        raise refusals[0]


def _seen() -> Callable[[str], None]:
    """Shows a line in a terminal, instead of the one before; nothing elsewhere."""

    def show(text: str) -> None:
        if sys.stderr.isatty():
            click.echo(f"\r{text}\x1b[K", nl=False, err=True)

    return show
