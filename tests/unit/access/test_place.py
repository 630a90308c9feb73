"""Before a worker joins: a process that has ended is known at once, a living one is named."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stream.access import place
from stream.access.place import COMMAND, WorkerLock, client_id, has_ended, hold_id, wait_for_place
from stream.errors import ConfigError


def named(number: int, host: str = socket.gethostname()) -> str:
    return f"eddy-0@{host}/{number}"


def test_a_process_of_this_machine_that_has_ended_is_known() -> None:
    """Killed, also if nobody has waited for it; the same number again in a container. Nothing else counts as ended."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    assert not has_ended(named(process.pid))
    assert not has_ended(named(process.pid, "elsewhere"))
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert has_ended(named(process.pid))
    process.wait()
    assert has_ended(named(process.pid))
    assert has_ended(client_id("0"))
    assert not has_ended(named(process.pid, "elsewhere"))
    assert not has_ended("eddy-0")


class Group:
    """An AdminClient of a group: each question gets the next answer, the last one again and again."""

    def __init__(self, *answers: tuple[str, str] | None) -> None:
        self._answers = list(answers)

    def describe_consumer_groups(self, groups: list[str], **_: Any) -> dict[str, Any]:
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        members = []
        if answer is not None:
            member_id, client = answer
            members = [SimpleNamespace(member_id=member_id, client_id=client, host="/h", group_instance_id="eddy-0")]
        return {groups[0]: SimpleNamespace(result=lambda timeout: SimpleNamespace(members=members))}


def wait(monkeypatch: pytest.MonkeyPatch, *answers: tuple[str, str] | None) -> None:
    monkeypatch.setattr(place, "POLL_S", 0.0)
    monkeypatch.setattr(place, "GRACE_S", 0.0)
    admin: Any = Group(*answers)
    wait_for_place(admin, "shop", "eddy-0", 0.05)


@pytest.mark.parametrize("answers", [[None], [("m", client_id("0"))], [("m", "eddy-0@elsewhere/7"), None]])
def test_a_place_that_is_free_or_becomes_free_is_taken(
    monkeypatch: pytest.MonkeyPatch, answers: list[tuple[str, str] | None]
) -> None:
    """No member; a member that is this machine's dead process; a member whose session ends."""
    wait(monkeypatch, *answers)


@pytest.mark.parametrize(
    "answers",
    [[("m", "eddy-0@elsewhere/7")], [("m", "eddy-0@elsewhere/7"), ("n", "eddy-0@elsewhere/7")], [("m", "eddy-0")]],
)
def test_a_living_process_under_the_same_id_is_named(
    monkeypatch: pytest.MonkeyPatch, answers: list[tuple[str, str] | None]
) -> None:
    """A member that is still there after a session timeout, or that joins again, is alive."""
    with pytest.raises(ConfigError, match=r"eddy-0.* on /h; give each worker"):
        wait(monkeypatch, *answers)


@pytest.mark.parametrize(
    ("client", "said"),
    [
        ("rdkafka", "shop has the member rdkafka on /h; give --group"),
        (COMMAND, "an eddy command on /h has the group shop to itself; start again"),
    ],
)
def test_a_member_that_is_no_worker_is_named(client: str, said: str) -> None:
    """A consumer of another application that has the same name for its group; or a command such as `topics repair`."""
    other = SimpleNamespace(member_id="m", client_id=client, host="/h", group_instance_id=None)
    group = SimpleNamespace(result=lambda timeout: SimpleNamespace(members=[other]))
    admin: Any = SimpleNamespace(describe_consumer_groups=lambda groups, **_: {"shop": group})
    with pytest.raises(ConfigError, match=said):
        wait_for_place(admin, "shop", "eddy-0", 0.05)


def test_a_process_that_kafka_shows_under_the_client_id_of_a_dead_one_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Kafka keeps the client id of the first process under an instance id. The lock of the id says who lives."""
    assert hold_id(tmp_path, "shop", "1") is None
    assert hold_id(tmp_path, "shop", "0") is None
    assert hold_id(tmp_path, "other", "0") is None
    other = hold_id(tmp_path, "shop", "0")
    assert other == client_id("0")
    monkeypatch.setattr(place, "POLL_S", 0.0)
    monkeypatch.setattr(place, "GRACE_S", 0.0)
    admin: Any = Group(("m", client_id("0")))
    with pytest.raises(ConfigError, match=f"alive under this id: {other} on /h"):
        wait_for_place(admin, "shop", "eddy-0", 0.05, other)


def test_without_a_directory_that_can_be_written_only_kafka_knows_of_others(tmp_path: Path) -> None:
    """A lock is no condition for a start."""
    assert hold_id(tmp_path / "none", "shop", "0") is None


def test_workers_of_one_machine_have_the_lowest_free_numbers(tmp_path: Path) -> None:
    """The number of a worker that has ended is used again, so there are few transactional ids."""
    directory = tmp_path / "not" / "there"
    locks = [WorkerLock(directory) for _ in range(3)]
    assert [lock.worker_id.partition("-")[0] for lock in locks] == ["0", "1", "2"]
    os.close(locks[1]._file)  # as the kernel does at the end of a process
    assert WorkerLock(directory).worker_id == locks[1].worker_id
    assert WorkerLock(directory).worker_id.startswith("3-")


def test_workers_of_two_machines_have_different_ids(tmp_path: Path) -> None:
    """Every machine has a number 0, and its own mark; under one id the two would fence each other for ever."""
    one, two, again = WorkerLock(tmp_path / "a"), WorkerLock(tmp_path / "b"), WorkerLock(tmp_path / "a")
    assert {lock.worker_id.partition("-")[0] for lock in (one, two)} == {"0"}
    assert one.worker_id != two.worker_id
    assert again.worker_id.partition("-")[2] == one.worker_id.partition("-")[2]


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """If the data directory is a file, one line names both remedies."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file.*--worker-id or another --data-dir"):
        WorkerLock(tmp_path / "file")
