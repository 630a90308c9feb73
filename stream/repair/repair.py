"""`eddy topics repair`: survey, plan, and if asked, apply."""

from typing import Any

from stream.access.refusal import Admin
from stream.errors import ConfigError
from stream.kafka.changelog import Changelog
from stream.kafka.topics import partition_counts
from stream.kafka_config import KafkaConfig
from stream.repair.apply import apply
from stream.repair.plan import plan
from stream.repair.survey import Say, strays, survey
from stream.repair.transaction import check_no_members, roll_back
from stream.settings import Topics


def repair_topics(
    broker: str,
    config: KafkaConfig,
    group: str,
    topics: Topics,
    partitioner: str,
    clicks: str,
    accept_lost_rows: bool,
    apply_it: bool,
    say: Say,
) -> dict[str, Any]:
    """Plan a repair, apply it if `apply_it`, and return what was planned, ready for JSON.

    partitioner, clicks  as in `survey`
    Raises ConfigError if the group has members, if it cannot be decided what to do, or if clicks of users whose rows
    would move away are not decided yet: their new partition could come first.
    """
    admin = Admin(broker, config)
    partition_counts(admin, broker)  # first, because nothing else says why there is no connection
    check_no_members(admin, group)
    roll_back(broker, config, group)
    changelog = Changelog(broker, group, topics.changelog, config)
    try:
        found = survey(admin, broker, changelog, topics, partitioner, clicks, say)
    except TimeoutError as exc:  # a killed worker's transaction ends within its session timeout
        raise ConfigError(f"{exc}: a transaction is open there; wait, and run the repair again") from exc
    changes = plan(found.found, found.place, accept_lost_rows)
    undecided = strays(changelog, changes, found.place) if found.place is not None else []
    if undecided:
        where = ", ".join(f"{each.clicks} clicks of {each.users} users in {each.partition}" for each in undecided)
        raise ConfigError(
            f"not decided yet, and the states of their users would move to other partitions: {where}. When all "
            "producers use the new partitions, run `eddy worker --drain` with the worker's options until it ends; then "
            "run the repair again"
        )
    grow = partition_counts(admin, broker)[topics.changelog] < len(changes)
    if apply_it and (grow or any(change.needed for change in changes)):
        apply(admin, broker, config, group, topics, found.before, changes, say)
    return {
        "applied": apply_it,
        "grow": grow,
        "partitions_before": found.before,
        "partitions_now": len(changes),
        "partitioner": found.partitioner,
        "partitions": {
            str(change.found.partition): {
                "changed": change.needed,
                "committed": change.found.committed,
                "offset": change.next,
                "users": len(change.found.rows) if change.mark is None else change.mark.users,
                "arrived": change.arrived,
                "left": change.left,
                "merged": change.merged,
                "broken": len(change.found.broken),
                "why": change.why,
            }
            for change in changes
        },
    }
