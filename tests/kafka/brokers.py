"""One server of each kind for all processes of a run of the tests."""

import fcntl
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from bench.apache_kafka import ApacheKafka

SESSION_S = 60.0


class Addresses(NamedTuple):
    """Where a broker is; the last three are those of a secured one."""

    address: str
    tls: str
    sasl: str
    notls: str


class Server(Protocol):
    """A process that was started."""

    def stop(self) -> None: ...


S = TypeVar("S", bound=Server)


@contextmanager
def one_broker(directory: Path, kind: str, start: Callable[[float], ApacheKafka]) -> Iterator[Addresses]:
    """The addresses of one broker for all test processes that share the directory.

    start  gets the session_s of a broker that nobody kills: on a machine that stands still for some seconds it would
           lose the leadership of all partitions
    """

    def addresses(broker: ApacheKafka) -> list[str]:
        return [broker.address, broker.tls, broker.sasl, broker.notls]

    with one_server(directory, kind, lambda: start(SESSION_S), addresses) as found:
        yield Addresses(*found)


@contextmanager
def one_server(
    directory: Path, kind: str, start: Callable[[], S], addresses: Callable[[S], list[str]]
) -> Iterator[list[str]]:
    """The addresses of one server for all test processes that share the directory.

    Each user holds a shared lock. The first process starts the server, and stops it when no other holds the lock. What
    a process took last it must give back first, as pytest does with fixtures: then no two wait for each other.
    """
    started, file = None, directory / f"{kind}.json"
    with (directory / f"{kind}.lock").open("w") as lock:
        while True:
            fcntl.flock(lock, fcntl.LOCK_SH)
            if file.exists():
                break
            fcntl.flock(lock, fcntl.LOCK_EX)  # releases the shared lock first: another process may come before us
            if not file.exists():
                started = start()
                file.write_text(json.dumps(addresses(started)))
        try:
            yield json.loads(file.read_text())
        finally:
            if started is not None:
                fcntl.flock(lock, fcntl.LOCK_EX)
                file.unlink()
                started.stop()
