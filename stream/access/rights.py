"""What the user of a worker or a command must be allowed on topics, groups and transactional ids, checked at its start.

The broker itself says which operations this user may do on topics and groups (KIP-430), so a missing right is refused
at the start with its name, and not at the first click. It has no such answer for a transactional id. So the broker is
asked for a producer with a transaction timeout of 0 ms, which it refuses: for the missing right, or else for the
timeout. Kafka looks at both before it looks at the transactional id, so no producer is fenced and nothing is written.
"""

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import msgspec
from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AclOperation, NewTopic

from stream.access.credentials import aiokafka_client
from stream.access.publish import cluster_of, nearest
from stream.access.refusal import Admin
from stream.errors import ConfigError, MissingRights, Problems
from stream.kafka_config import KafkaConfig
from stream.settings import Topics

Rights = Mapping[str, Sequence[AclOperation]]
"""Topic -> the operations that are needed on it."""

ANSWER_S = 6.0
READ, WRITE = AclOperation.READ, AclOperation.WRITE
NEEDED = {
    "clicks": (READ,),
    "recommendations": (WRITE,),
    "anomalies": (WRITE,),
    "dead_letters": (WRITE,),
    "changelog": (READ, WRITE),
    "system_alerts": (WRITE,),
    "sessions": (WRITE,),
    "triggers": (WRITE,),
    "behaviour": (WRITE,),
}
"""Topic of Topics -> the operations of a worker on it. Kafka grants DESCRIBE with each of them."""


def rights_of(topics: Topics) -> dict[str, Sequence[AclOperation]]:
    """Topic -> the operations of a worker with these topics on it."""
    named = {field: name for field, name in msgspec.structs.asdict(topics).items() if name}
    return {name: NEEDED[field] for field, name in named.items()}


def check_rights(admin: Admin, needed: Rights, groups: Sequence[str] = (), ids: Sequence[str] = ()) -> None:
    """Raises MissingRights that names every right that this user lacks.

    needed  topic -> the operations that are needed on it
    groups  consumer groups that this user must be able to join. aiokafka would try it without end and without a word
    ids     transactional ids that this user must be able to use, and that no living process uses
    Topics that do not exist are left out. Without an authorizer everybody has every right. A broker that does not
    answer the question is believed to allow everything.
    """
    futures = admin.describe_topics(TopicCollection(list(needed)), include_authorized_operations=True)
    members = _asked_for_groups(admin, groups)
    on_topics: list[tuple[str, str]] = []
    for name, operations in needed.items():
        allowed = _allowed(futures[name], KafkaError.TOPIC_AUTHORIZATION_FAILED)
        on_topics += [(operation.name, name) for operation in operations if operation not in allowed]
    on_groups = [
        f"READ on {group}"
        for group, future in members.items()
        if READ not in _allowed(future, KafkaError.GROUP_AUTHORIZATION_FAILED)
    ]
    lacking = {
        "topics": [f"{operation} on {name}" for operation, name in on_topics],
        "consumer groups": on_groups,
        "transactional ids": [f"WRITE on {name}" for name in _refused_ids(admin, ids)],
    }
    if any(lacking.values()):
        hidden = [name for name in needed if _refused(futures[name])]
        raise MissingRights(
            f"this user lacks rights {_listed(lacking)}; add the ACLs of docs/security.md (kafka-acls.sh)"
            f"{_or_not_there(admin, hidden)}",
            {name for _, name in on_topics},
        )


def check_access(
    broker: str,
    config: KafkaConfig,
    reads: Sequence[str],
    writes: Sequence[str] = (),
    members: Sequence[str] = (),
    creates: Sequence[str] = (),
    groups: Sequence[str] = (),
) -> None:
    """Check all rights of a command beside a worker before it begins: else it would fail at one after the other.

    reads    topics that it reads
    writes   topics that it writes
    members  names of its consumer groups and of its transactional ids, which have the same names
    creates  topics that it creates if they are missing
    groups   names of consumer groups without a transactional id
    Raises ConfigError that names every right that this user lacks, or if the broker cannot be reached.
    """
    admin = Admin(broker, config)
    cluster = cluster_of(admin)
    if embedded(cluster):
        return
    asked = ((READ, reads), (WRITE, writes))
    needed = {name: [right for right, of in asked if name in of] for name in dict.fromkeys([*reads, *writes])}
    with Problems() as problems:
        check_rights(admin, needed, [*members, *groups], members)
    with problems:
        check_may_create(admin, [name for name in creates if name not in cluster.topics])
    problems.end()


def embedded(cluster: Any) -> bool:
    """True for librdkafka's embedded broker, which compacts nothing, allows everything and answers few questions."""
    return bool((cluster.cluster_id or "").startswith("mockCluster"))


def _refused_ids(admin: Admin, ids: Sequence[str]) -> list[str]:
    """The transactional ids that this user may not write with; none if the broker does not answer."""
    if not ids:
        return []
    with ThreadPoolExecutor(1, "rights") as thread:  # the caller may be in an event loop
        return thread.submit(asyncio.run, _ask_for_producers(admin, ids)).result()


async def _ask_for_producers(admin: Admin, ids: Sequence[str]) -> list[str]:
    from aiokafka.errors import KafkaError as AioKafkaError
    from aiokafka.protocol.transaction import InitProducerIdRequest

    client = aiokafka_client(admin.broker, admin.config, ANSWER_S)
    refused: list[str] = []
    try:
        await client.bootstrap()
        for name in ids:
            answer = await client.send(client.get_random_node(), InitProducerIdRequest(name, 0))
            if answer.error_code == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
                refused.append(name)
    except (AioKafkaError, OSError, TimeoutError):
        return refused
    finally:
        await client.close()
    return refused


def _asked_for_groups(admin: Admin, groups: Sequence[str]) -> dict[str, Any]:
    """Group -> the future of its description."""
    if not groups:
        return {}
    futures: dict[str, Any] = admin.describe_consumer_groups(
        list(groups), include_authorized_operations=True, request_timeout=ANSWER_S
    )
    return futures


def _listed(lacking: Mapping[str, Sequence[str]]) -> str:
    """ "on topics: READ on a, WRITE on b; on consumer groups: READ on c"."""
    return "; ".join(f"on {kind}: {', '.join(rights)}" for kind, rights in lacking.items() if rights)


def _or_not_there(admin: Admin, hidden: Sequence[str]) -> str:
    """The end of a line on topics that this user may not see: Kafka does not say whether they exist."""
    if not hidden:
        return ""
    meant = ""
    with suppress(KafkaException):
        seen = admin.described(ANSWER_S).topics
        near = {name: nearest(name, seen) for name in hidden}
        meant = "".join(f"; did you mean {other!r} by {name!r}?" for name, other in near.items() if other)
    return f", or there is no such topic ({', '.join(hidden)}): without a right on a topic Kafka hides it{meant}"


def check_may_create(admin: Admin, names: Sequence[str]) -> None:
    """Raises ConfigError that names every right that this user lacks to create topics of these names.

    A topic that this user may not see counts as missing. The broker is asked to check the creation and not to do it, so
    nothing is created if a right is missing. Other errors are left to the creation.
    """
    if not names:
        return
    creations = admin.create_topics([NewTopic(name, 1, 1) for name in names], validate_only=True)
    sights = admin.describe_topics(TopicCollection(list(names)), include_authorized_operations=True)
    lacking = [f"CREATE on {name}" for name in names if _refused(creations[name])]
    lacking += [f"DESCRIBE on {name}" for name in names if _refused(sights[name])]
    if lacking:
        raise ConfigError(
            f"this user lacks rights on topics: {', '.join(lacking)} (CREATE on the cluster includes that on every "
            "topic); nothing was created; add the ACLs of docs/security.md (kafka-acls.sh)"
        )


def _refused(future: Any) -> bool:
    """True if the broker refuses this user; False for another error, too."""
    try:
        future.result(timeout=ANSWER_S)
    except KafkaException as exc:
        refusals = (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED)
        return exc.args[0].code() in refusals
    except TimeoutError:
        return False
    return False


def lost_right(broker: str, topics: Topics, config: KafkaConfig) -> ConfigError | None:
    """The refusal of `check_rights`, for a worker that fails and may have lost a right; None if that is not why."""
    try:
        check_rights(Admin(broker, config), rights_of(topics))
    except ConfigError as refusal:
        return refusal
    return None


def _allowed(future: Any, refusal: int) -> set[AclOperation]:
    everything = {READ, WRITE}
    try:
        operations = future.result(timeout=ANSWER_S).authorized_operations
    except KafkaException as exc:
        return set() if exc.args[0].code() == refusal else everything
    except TimeoutError:
        return everything
    return everything if operations is None else set(operations)
