"""Makes the Rekeying of a worker from its settings."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

from confluent_kafka import Consumer

from stream.access.begin import begin
from stream.access.credentials import connect
from stream.kafka.changelog import Changelog
from stream.kafka.delivery import Delivery
from stream.kafka.waiting import Watch
from stream.kafka_config import KafkaConfig
from stream.meter import Meter
from stream.rekey.rekeying import Rekeying
from stream.settings import Settings
from stream.start_at import EARLIEST, LATEST, UNDECIDED
from stream.wire.codec import Codec


def open_rekeying(
    settings: Settings,
    source: str,
    worker_id: str,
    most_bytes: int,
    codec: Codec,
    config: KafkaConfig,
    watch: Watch,
    meter: Meter,
    anonymous: Callable[[bytes], str | None] | None = None,
) -> Rekeying:
    """The Rekeying of a worker.

    settings    its clicks topic is that of the copies
    most_bytes  as topic.check returns it
    codec       one of its own, which gives the user ids as the producers write them
    anonymous   as in `copied`
    """
    topic = settings.topics.clicks
    consumer = {
        "group.id": topic,
        "group.instance.id": f"{settings.group}:{worker_id}",  # a restart causes no rebalance
        "client.id": f"eddy-{worker_id}-rekey",
        "session.timeout.ms": int(settings.session_timeout_s * 1000),
        "heartbeat.interval.ms": 300,  # a rebalance is noticed at once
        "enable.auto.commit": False,
        "isolation.level": "read_committed",
        "enable.partition.eof": True,
        "auto.offset.reset": "error",  # what Kafka deleted is counted, and not skipped without a word
        "fetch.queue.backoff.ms": 5,
        "queued.max.messages.kbytes": 16_384,
        "log_level": 2,
    }
    return Rekeying(
        source,
        topic,
        most_bytes,
        codec,
        partial(connect, Consumer, settings.broker, config, consumer),
        Changelog(settings.broker, topic, "", config, watch),
        Delivery(
            settings.broker,
            f"{settings.group}:{worker_id}:rekey",
            settings.session_timeout_s,
            settings.hang_s,
            {topic: most_bytes},
            config,
            watch,
        ),
        begin(settings.broker, config, settings.topics.recommendations, _begin(settings.start_at)),
        watch,
        meter,
        settings.stay_in_group,
        anonymous,
    )


def _begin(start_at: str) -> str:
    """Where the copying begins in a partition without an offset: at a time, also for `latest`.

    A partition that is added later then begins with its first message. What other groups have decided is asked in the
    topic of the copies: so `undecided` copies all.
    """
    if start_at == LATEST:
        return datetime.now(UTC).isoformat()
    return EARLIEST if start_at == UNDECIDED else start_at
