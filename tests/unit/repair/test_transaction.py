"""Who may be in the group while a command writes its offsets."""

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from stream.errors import ConfigError
from stream.repair import transaction
from stream.repair.transaction import check_no_members


class Answers:
    """An Admin that answers one after the other: with the code of an error, or with the members of the group."""

    def __init__(self, *answers: Any) -> None:
        self._answers = list(answers)

    def describe_consumer_groups(self, groups: list[str]) -> dict[str, Future[Any]]:
        answer, future = self._answers.pop(0), Future[Any]()
        if isinstance(answer, int):
            future.set_exception(KafkaException(KafkaError(answer)))
        else:
            future.set_result(SimpleNamespace(members=answer))
        return {groups[0]: future}


def asked(*answers: Any) -> None:
    admin: Any = Answers(*answers)
    check_no_members(admin, "eddy")


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause between two questions."""
    monkeypatch.setattr(transaction, "PAUSE_S", 0.0)


def test_a_new_cluster_has_no_coordinator_yet() -> None:
    """It makes its topic of offsets when a group is first asked for, as in an import into it."""
    asked(KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.COORDINATOR_LOAD_IN_PROGRESS, [])


def test_members_and_refusals_are_one_line_at_once() -> None:
    """A worker would go on writing with what the command replaces."""
    worker = SimpleNamespace(group_instance_id="eddy-0", member_id="m", host="/10.0.0.7")
    with pytest.raises(ConfigError, match=r"has 1 member \(eddy-0 on /10.0.0.7\); stop all workers"):
        asked([worker])
    with pytest.raises(ConfigError, match="READ on its consumer group"):
        asked(KafkaError.GROUP_AUTHORIZATION_FAILED)
    with pytest.raises(ConfigError, match="could not be asked for its members: INVALID_GROUP_ID"):
        asked(KafkaError.INVALID_GROUP_ID)
