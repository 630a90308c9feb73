"""The id of a worker, and whether a living process works under it already.

Kafka lets the later process take the place of the earlier one, in the group and as a producer. That is right after a
crash. If both are alive, they take it from each other for ever. Kafka does not show whether a member lives until its
session ends, so a worker writes its host and process into its client id. A process that takes the place within a
session does not change the client id that Kafka shows, so a worker also locks a file.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import secrets
import socket
import time
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException

from stream.access.refusal import OTHERS_GROUP, Admin
from stream.errors import ConfigError
from stream.kafka_config import ADDRESS

ANSWER_S = 6.0
INSTANCE = "eddy-"
"""How the instance id of a worker begins in its group."""

COMMAND = "eddy-command"
"""Client id of a command that has the group to itself, as `eddy topics repair`."""

POLL_S = 0.25
GRACE_S = 2.0
"""Kafka ends a session a little late."""

log = logging.getLogger(__name__)


class WorkerLock:
    """A worker id that no other process uses. The lock is held until the process ends.

    worker_id  the lowest number that is free in `data_dir`, and eight random hex digits of this directory, because
               every machine has a number 0
    """

    def __init__(self, data_dir: Path) -> None:
        """Lock the lowest free number. Raises ConfigError if `data_dir` cannot be written."""
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
            mark = _mark_of(data_dir)
            number = 0
            while not self._lock(data_dir / f"worker-{number}.lock"):
                number += 1
        except OSError as exc:
            raise ConfigError(
                f"no worker number can be locked in {data_dir} ({exc.strerror}); give --worker-id or another --data-dir"
            ) from exc
        self.worker_id = f"{number}-{mark}"

    def _lock(self, path: Path) -> bool:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return False
        self._file = file  # the lock lives as long as the open file
        return True


def hold_id(data_dir: Path, group: str, worker_id: str) -> str | None:
    """Lock the worker id of the group in `data_dir` until the process ends.

    Returns the client id of another process that holds the lock. None if this process holds it now, or if no file can
    be written there: then only Kafka knows of other processes.
    """
    name = hashlib.sha256(f"{group}\0{worker_id}".encode()).hexdigest()[:16]
    with contextlib.suppress(OSError):
        file = os.open(data_dir / f"id-{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(file, 1024).decode(errors="replace")
            os.close(file)
            return holder or "a process that starts"
        os.ftruncate(file, 0)  # the file stays open: the lock lives as long as it
        os.write(file, client_id(worker_id).encode())
    return None


def make_directory(path: Path) -> None:
    """Make the directory `path` with its parents. Faust makes no parents. Raises ConfigError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigError(f"directory {path} cannot be made ({exc.strerror}); give another --data-dir") from exc


def _mark_of(data_dir: Path) -> str:
    """Eight random hex digits, the same ones for every process with this directory."""
    path, new = data_dir / "machine", secrets.token_hex(4)
    with contextlib.suppress(FileExistsError):
        own = data_dir / f"machine-{os.getpid()}"
        own.write_text(new)
        try:
            os.link(own, path)  # it fails if there is one, and no process sees an empty file
        finally:
            own.unlink()
    return path.read_text().strip()


def client_id(worker_id: str, address: str = "") -> str:
    """The client id of this process: worker, the address at which it answers requests, host and process number."""
    answers_at = f"!{address}" if address else ""
    return f"eddy-{worker_id}{answers_at}@{socket.gethostname()}/{os.getpid()}"


def address_of(client_id: str) -> str | None:
    """The address in a worker's client id, host:port; None if it has none."""
    found = ADDRESS.fullmatch(client_id.rpartition("@")[0].rpartition("!")[2])
    return None if found is None else found[0]


def wait_for_place(
    admin: Admin, group: str, instance_id: str, session_timeout_s: float, other: str | None = None
) -> None:
    """Return when no living process has the place `instance_id` in the group.

    A process of this machine that has ended is known at once. Of any other one, its session shows it: if it is there
    after a session timeout, it is alive. A broker that does not answer the question is believed to have no member.

    other  client id of the process that holds the lock of this worker id (`hold_id`). It may be frozen, and the client
           id that Kafka shows may be of a process before it, which has ended
    Raises ConfigError that names the living process, or a member of the group that is no worker.
    """
    holder = _holder(admin, group, instance_id)
    if holder is None or (other is None and has_ended(holder.client_id)):
        return
    log.warning(
        "another process is in the group under this worker id, so this one waits until its session ends: worker=%s "
        "host=%s",
        other or holder.client_id,
        holder.host,
    )
    first, deadline = holder.member_id, time.monotonic() + session_timeout_s + GRACE_S
    while time.monotonic() < deadline:
        time.sleep(POLL_S)
        holder = _holder(admin, group, instance_id)
        if holder is None or (other is None and has_ended(holder.client_id)):
            return
        if holder.member_id != first:
            break
    raise ConfigError(
        f"another worker is alive under this id: {other or holder.client_id} on {holder.host}; give each worker of a "
        "group its own --worker-id, or end the other one"
    )


def has_ended(client_id: str) -> bool:
    """True if a worker's client id is that of a process of this machine that has ended.

    This process itself has ended before, too: in a container every start has the same number.
    """
    host, _, number = client_id.rpartition("@")[2].rpartition("/")
    if host != socket.gethostname() or not number.isdigit():
        return False
    if int(number) == os.getpid():
        return True
    try:
        os.kill(int(number), 0)
        stat = Path(f"/proc/{number}/stat").read_text()
    except ProcessLookupError:
        return True
    except OSError:  # a process of another user, or a system without /proc
        return False
    return stat.rpartition(")")[2].split()[0] in "ZX"  # killed, and its parent has not asked for its exit code yet


def _holder(admin: Admin, group: str, instance_id: str) -> Any:
    """The member of the group with this instance id; None if there is none.

    Raises ConfigError if a member is no worker: Kafka would not let this process join, or give it a part of the clicks.
    """
    future = admin.describe_consumer_groups([group], request_timeout=ANSWER_S)[group]
    try:
        members = future.result(timeout=ANSWER_S).members
    except (KafkaException, TimeoutError):
        return None
    for member in members:
        if member.client_id == COMMAND:
            raise ConfigError(
                f"an eddy command on {member.host} has the group {group} to itself; start again when it has ended. "
                "If it was killed, Kafka forgets it within a minute"
            )
        if not (member.group_instance_id or "").startswith(INSTANCE):
            raise ConfigError(OTHERS_GROUP.format(f": {group} has the member {member.client_id} on {member.host}"))
    return next((member for member in members if member.group_instance_id == instance_id), None)
