"""The topics of a worker: created by `eddy topics create`, checked before every start, and never changed.

The changelog must be compacted and have as many partitions as the clicks topic: its partition p has the states of the
users in partition p of the clicks topic. Kafka refuses a record that is larger than its topic's `max.message.bytes`,
and then the whole transaction fails. So this module reads the limits, and the worker makes every record fit.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

import msgspec
from confluent_kafka import KafkaException
from confluent_kafka.admin import ConfigResource, NewTopic, ResourceType

from stream.access.publish import create_topic
from stream.access.refusal import Admin
from stream.access.rights import Rights, check_may_create, check_rights, embedded, rights_of
from stream.errors import ConfigError, MissingRights, NoAnswer, Problems
from stream.kafka_config import PLAINTEXT, KafkaConfig
from stream.settings import Topics

ANSWER_S = 6.0
COMPACTED = {
    "cleanup.policy": "compact",
    "min.cleanable.dirty.ratio": "0.2",  # compact early, because recovery reads all records that are not compacted
    "segment.bytes": "67108864",
}

LIMIT = "max.message.bytes"
DEFAULT_LIMIT = 1_048_588
"""Kafka's default of LIMIT: 1 MiB and 12 bytes."""

SMALLEST_LIMIT = 16_384
"""The smallest allowed LIMIT of an output topic. A decision or an alert without its list is always smaller, also if its
ids have 256 characters that JSON writes with six bytes each."""

FRAME_BYTES = 128
"""Kafka also counts the headers against LIMIT: 61 bytes for a batch, up to 33 for a record."""

NO_RIGHTS: Rights = {}

log = logging.getLogger(__name__)


def create_topics(
    broker: str, topics: Topics, partitions: int, replication: int, config: KafkaConfig = PLAINTEXT, *others: str
) -> dict[str, str]:
    """Create the missing topics and check the existing ones. Return topic name -> what was done.

    others  topics that a worker does not use: they are created, and not checked
    Raises ConfigError if the broker does not answer or refuses, or if existing topics do not fit.
    """
    admin = Admin(broker, config)
    present = partition_counts(admin, broker)
    planned = {name: present.get(name, partitions) for name in (*topics.names(), *others)}
    planned[topics.changelog] = present.get(topics.changelog, planned[topics.clicks])
    check_same_partitions(planned, topics)  # a mistyped name must not become a topic
    check_may_create(admin, wanted := sorted(planned.keys() - present.keys()))
    for name in wanted:
        settings = COMPACTED if name == topics.changelog else {}
        create_topic(admin, NewTopic(name, planned[name], replication, config=settings))
    found = _wait_for(admin, broker, topics).partitions | {name: present.get(name, partitions) for name in others}
    check_same_partitions(found, topics)
    return {name: f"{'created' if name in wanted else 'exists'}, {count} partitions" for name, count in found.items()}


class Checked(NamedTuple):
    """The topics of a worker: topic -> number of partitions, and topic -> configuration where it may be read."""

    partitions: dict[str, int]
    configs: Mapping[str, Mapping[str, str]]


def check_topics(
    broker: str,
    topics: Topics,
    config: KafkaConfig = PLAINTEXT,
    *groups: str,
    ids: Sequence[str] = (),
    more: Rights = NO_RIGHTS,
) -> Checked:
    """Raises ConfigError with all reasons why a worker cannot run with these topics, groups and transactional ids.

    more  rights that it needs beside those of `rights_of`
    Call `check_same_partitions`, too, except for a worker with --drain.
    """
    admin = Admin(broker, config)
    present = partition_counts(admin, broker)  # first, because nothing else says why there is no connection
    with Problems() as problems:
        if not embedded(_metadata(admin, broker)):
            needed = {**more, **rights_of(topics), **more}  # the source first; more than READ on the copies
            check_rights(admin, needed, groups, ids)
    hidden = [name for one in problems.found if isinstance(one, MissingRights) for name in one.topics]
    checked = Checked({}, {})
    with problems:
        checked = _check(admin, broker, topics, present, hidden)
    problems.end()
    return checked


def record_limits(topics: Topics, configs: Mapping[str, Mapping[str, str]], longest_row: int) -> dict[str, int]:
    """Return the largest size in bytes of a record's key and value together, for each topic that a worker writes.

    longest_row  largest size in bytes of a state row's key and value. A state row cannot be shortened
    Raises ConfigError if state rows do not fit into the changelog.
    """
    written = [name for name in topics.names() if name != topics.clicks]
    limits = {name: limit - FRAME_BYTES for name, limit in _limits(configs, written).items()}
    if limits[topics.changelog] < longest_row:
        raise ConfigError(
            f"topic {topics.changelog} has {LIMIT}={limits[topics.changelog] + FRAME_BYTES}: this model's state rows "
            f"need {longest_row + FRAME_BYTES}; {_raise_limit(topics.changelog, longest_row + FRAME_BYTES)}"
        )
    return limits


def _named(topics: Topics, missing: Sequence[str]) -> str:
    """The options with which a command creates the missing topics that have other names than the default ones."""
    named, usual = msgspec.structs.asdict(topics), msgspec.structs.asdict(Topics())
    options = (f" --{field.replace('_', '-')}-topic {name}" for field, name in named.items() if name != usual[field])
    return "".join(option for option in options if option.split()[-1] in missing)


def _check(
    admin: Admin, broker: str, topics: Topics, present: Mapping[str, int], hidden: Sequence[str] = ()
) -> Checked:
    """hidden: topics that may be there and that this user may not see. They are left out. Raises ConfigError."""
    missing = [name for name in topics.names() if name not in present and name not in hidden]
    if missing:
        near = get_close_matches(missing[0], present.keys() - topics.names(), 1)
        meant = f"did you mean {near[0]!r}? Else " if near else ""
        raise ConfigError(
            f"no topic {', '.join(missing)} on {broker}; {meant}create what is missing with `eddy topics create "
            f"--broker {broker}{_named(topics, missing)}`"
        )
    names = [name for name in topics.names() if name in present]
    configs = configs_of(admin, broker, names)
    with Problems() as problems:
        _check_compaction(configs, topics.changelog)
    with problems:
        _check_letters(configs, topics.dead_letters)
    events = [name for name in names if name not in (topics.clicks, topics.changelog)]
    for name, limit in _limits(configs, events).items():
        with problems:
            if limit < SMALLEST_LIMIT:
                raise ConfigError(
                    f"topic {name} has {LIMIT}={limit}, too small for every event; {_raise_limit(name, SMALLEST_LIMIT)}"
                )
    problems.end()
    if "compact" in _policy(configs, topics.clicks):
        log.warning(
            "the clicks topic is compacted: Kafka deletes a click when a later one of its user has come, so a worker "
            "that is behind misses clicks and cannot count them; set cleanup.policy=delete: topic=%s",
            topics.clicks,
        )
    return Checked({name: present[name] for name in names}, configs)


def check_same_partitions(present: Mapping[str, int], topics: Topics) -> None:
    """Raises ConfigError if clicks and changelog have not the same number of partitions (topic -> partitions)."""
    if present[topics.changelog] != present[topics.clicks]:
        raise ConfigError(
            f"topic {topics.changelog} has {present[topics.changelog]} partitions, {topics.clicks} has "
            f"{present[topics.clicks]}: they must be equal. Is one of the names mistyped? If partitions were "
            f"added to {topics.clicks}, run `eddy topics repair`, which moves the users' states. Else give another "
            "--changelog-topic, and another --group with it, and create it with `eddy topics create`"
        )


def partition_counts(admin: Admin, broker: str) -> dict[str, int]:
    """Return topic -> number of partitions for every topic that this user may see. Raises ConfigError."""
    topics = _metadata(admin, broker).topics
    return {name: len(topic.partitions) for name, topic in topics.items() if topic.error is None}


def _metadata(admin: Admin, broker: str) -> Any:
    """What the cluster says of itself. Raises NoAnswer or, if it refuses this user, ConfigError."""
    try:
        return admin.described(ANSWER_S)
    except KafkaException as exc:
        refusal = admin.refusal()
        if refusal is not None:
            raise refusal from None
        raise NoAnswer(
            f"no Kafka answers at {broker} within {ANSWER_S:.0f} s ({exc.args[0].name()}); is it running, and is "
            "--broker its address as seen from here?"
        ) from exc


def _wait_for(admin: Admin, broker: str, topics: Topics) -> Checked:
    """Wait until a broker knows the new topics, then check its answer: the next broker may not know them yet."""
    deadline = time.monotonic() + ANSWER_S
    names = set(topics.names())
    while not names <= (present := partition_counts(admin, broker)).keys() and time.monotonic() < deadline:
        time.sleep(0.05)
    return _check(admin, broker, topics, present)


def configs_of(admin: Admin, broker: str, names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return topic -> its configuration. If a configuration cannot be read, log it and omit the topic."""
    if not names or embedded(_metadata(admin, broker)):  # confluent-kafka raises ValueError for an empty list
        return {}
    found: dict[str, dict[str, str]] = {}
    unread: dict[str, str] = {}
    asked = [ConfigResource(ResourceType.TOPIC, name) for name in names]
    for resource, future in admin.describe_configs(asked).items():
        try:
            found[resource.name] = {name: entry.value for name, entry in future.result(timeout=ANSWER_S).items()}
        except (TimeoutError, KafkaException) as exc:
            error = exc.args[0] if isinstance(exc, KafkaException) else None
            if error is None or error.code() < 0:
                raise NoAnswer(f"Kafka does not answer, asked for the configuration of {resource.name}: {exc}") from exc
            unread[resource.name] = error.name()  # perhaps it is not allowed; the worker can run without it
    if unread:
        log.warning(
            "the configuration of topics could not be read, so cleanup.policy is not checked and %s is assumed to be "
            "%d; the right DESCRIBE_CONFIGS allows it: topics=%s errors=%s",
            *(LIMIT, DEFAULT_LIMIT, ",".join(unread), ",".join(sorted(set(unread.values())))),
        )
    return found


def _limits(configs: Mapping[str, Mapping[str, str]], names: Sequence[str]) -> dict[str, int]:
    """Return topic -> its LIMIT in bytes."""
    return {name: int(configs.get(name, {}).get(LIMIT, DEFAULT_LIMIT)) for name in names}


def _raise_limit(topic: str, limit: int) -> str:
    return f"raise it with kafka-configs.sh --alter --topic {topic} --add-config {LIMIT}={limit}"


def _check_compaction(configs: Mapping[str, Mapping[str, str]], changelog: str) -> None:
    """Raise ConfigError if Kafka would delete rows of the changelog by age."""
    policy = _policy(configs, changelog)
    if "delete" in policy:
        raise ConfigError(
            f"topic {changelog} has cleanup.policy={policy}: Kafka would delete users' states; "
            f"{_set(changelog, 'compact')}"
        )


def _check_letters(configs: Mapping[str, Mapping[str, str]], dead_letters: str) -> None:
    """Raise ConfigError if Kafka would refuse dead letters without a key, and delete others by their keys."""
    policy = _policy(configs, dead_letters)
    if "compact" in policy:
        raise ConfigError(
            f"topic {dead_letters} has cleanup.policy={policy}: Kafka would refuse the dead letter of a message "
            f"without a key, and keep only the last one of each key; {_set(dead_letters, 'delete')}"
        )


def _policy(configs: Mapping[str, Mapping[str, str]], topic: str) -> str:
    """The cleanup.policy of a topic; empty if it could not be read."""
    return configs.get(topic, {}).get("cleanup.policy", "")


def _set(topic: str, policy: str) -> str:
    return f"set it to {policy} with kafka-configs.sh --alter --topic {topic} --add-config cleanup.policy={policy}"
