"""Real servers for the tests of the sinks: Redis and PostgreSQL, each in a temporary directory on a Unix socket.

Without the programs `redis-server` or `postgres` the tests that need them are skipped with a clear message; with
EDDY_REQUIRE_SERVERS=1 they fail.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from tests.kafka.lane import wait_until

REQUIRED = os.environ.get("EDDY_REQUIRE_SERVERS") == "1"
PG_PLACES = [str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]


def program(name: str) -> str:
    """The path of a server's program, or the end of the test."""
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *PG_PLACES]))
    if found is None:
        reason = f"THE TESTS OF eddy sink ON A REAL SERVER DID NOT RUN: {name} is not installed"
        pytest.fail(reason, pytrace=False) if REQUIRED else pytest.skip(reason)
    return str(Path(found).resolve()) if name == "postgres" else found  # it looks for its files beside itself


@contextmanager
def _directory(user: str | None) -> Iterator[Path]:
    """A new directory with a short path, because that of a Unix socket is limited; it belongs to the user."""
    directory = Path(tempfile.mkdtemp(prefix="eddy-", dir="/tmp"))
    try:
        if user is not None:
            shutil.chown(directory, user)
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class Redis:
    """A Redis with an append-only file that is written before each answer."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._socket = directory / "redis.sock"
        self._program = program("redis-server")
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"unix://{self._socket}"
        self.client: Any = redis.Redis.from_url(self.url)

    def start(self) -> None:
        options = {"port": "0", "unixsocket": str(self._socket), "dir": str(self._directory), "save": "",
                   "appendonly": "yes", "appendfsync": "always"}  # fmt: skip
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        self._process = subprocess.Popen([self._program, *words], stdout=subprocess.DEVNULL)
        wait_until(self._answers, "Redis answers")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False


class Postgres:
    """A PostgreSQL cluster. It refuses to run as root, so root starts it as the user `postgres` or `nobody`."""

    def __init__(self, directory: Path, user: str | None) -> None:
        self._directory, self._user = directory, user
        self._program = program("postgres")
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"postgresql://eddy@/postgres?host={directory}"
        initdb = [str(Path(self._program).with_name("initdb")), "-D", "data", "-U", "eddy", "-A", "trust", "--no-sync"]
        subprocess.run(initdb, cwd=directory, user=user, check=True, stdout=subprocess.DEVNULL)

    def start(self) -> None:
        words = ["-D", "data", "-k", str(self._directory), "-h", "", "-c", "max_connections=20"]
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, *words], cwd=self._directory, user=self._user, stdout=log, stderr=log
            )
        wait_until(self._answers, "PostgreSQL answers")

    def kill(self) -> None:
        """End it at once, without a checkpoint: the next start recovers from the log."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait()

    def rows(self, query: str, *values: object) -> list[Any]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            done = connection.execute(query, values)
            return done.fetchall() if done.description else []

    def read_only(self, on: bool) -> None:
        """Let new transactions of all connections write nothing, as on a standby."""
        self.rows(f"ALTER SYSTEM SET default_transaction_read_only = {'on' if on else 'off'}")
        self.rows("SELECT pg_reload_conf()")

    def _answers(self) -> bool:
        try:
            return bool(self.rows("SELECT 1"))
        except psycopg.OperationalError:
            return False


@contextmanager
def running_redis() -> Iterator[Redis]:
    program("redis-server")
    with _directory(None) as directory:
        server = Redis(directory)
        try:
            server.start()
            yield server
        finally:
            server.kill()


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    program("postgres")
    names = {entry.pw_name for entry in pwd.getpwall()}
    user = None if os.geteuid() else "postgres" if "postgres" in names else "nobody"
    with _directory(user) as directory:
        server = Postgres(directory, user)
        try:
            server.start()
            yield server
        finally:
            server.kill()
