"""A Sink in PostgreSQL: tables for the outputs, and one for the offsets, changed in one transaction.

    eddy_recommendations  one row per user: the latest recommendation
    eddy_anomalies        one row per alert
    eddy_system_alerts    one row per alert on many users
    eddy_sessions         one row per begin and end of a session
    eddy_triggers         one row per trigger
    eddy_offsets          (topic, partition) -> offset of the next message to read

The columns are the fields of the events, and `timestamp` is a timestamptz. Nothing is ever dropped or emptied.
"""

import os
import re
import socket
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
import psycopg
from psycopg.types.json import Jsonb

from stream.errors import ConfigError
from stream.events import Expected, Partition, Run
from stream.outputs import OUTPUTS, Column, columns, values
from stream.places.sink import Away, Event, Moved, Part, latest
from stream.places.url import Url

PRIMARY = {
    "recommendations": ("user_id",),
    "anomalies": ("id",),
    "system-alerts": ("id", "sign", "phase"),  # alerts with different signs can have the same id
    "sessions": ("id", "phase", "revision"),  # a late click goes on with a session that has ended
    "triggers": ("id",),
    "behaviour": ("id",),
}
"""Output -> what a row of its table is found by."""

TYPES: dict[Any, str] = {
    str: "text",
    int: "bigint",
    float: "double precision",
    datetime: "timestamptz",
    list[str]: "text[]",
    list[int]: "bigint[]",
    list[float]: "double precision[]",
    dict[str, float]: "jsonb",
    dict[str, int]: "jsonb",
    dict[str, dict[str, int]]: "jsonb",
    list[Expected]: "jsonb",
    list[Run]: "jsonb",
}
"""Type of a column's values -> its type in PostgreSQL."""

UNFIT = (
    psycopg.DataError,  # U+0000 in a text, a number out of range
    psycopg.IntegrityError,  # a constraint that somebody has added to the table
    psycopg.errors.ProgramLimitExceeded,  # a key that is too long for an index
    ValueError,
    OverflowError,
)
"""Errors of one row. Without the row the others can be written."""

FATAL = re.compile(r"authentication failed|pg_hba\.conf|does not exist|permission denied|no password supplied")
"""In the text of a failed connection, which has no error code: waiting does not help."""

PREFIX = re.compile(r"[a-z_][a-z0-9_]{0,30}")

SESSION = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
    "application_name": "eddy sink",
}
LIMITS = "SET lock_timeout = '20s'; SET idle_in_transaction_session_timeout = '60s'"
"""A frozen process must not keep its lock on the offsets, and nobody must wait for such a lock without end. They are
not among the properties of the connection, where they would replace the `options` of the URL."""


ANSWER_S = 30.0
ROWS = 200
"""Rows of one question, which must have its answer within ANSWER_S."""


class Connection(psycopg.Connection[Any]):
    """A connection that ends if a question has no answer within ANSWER_S.

    libpq waits without end for a server that is frozen or whose disk hangs: its machine still confirms each packet.
    """

    _silent = False

    def wait(self, *args: Any, **more: Any) -> Any:
        cut = threading.Timer(ANSWER_S, self._cut)
        cut.daemon = True
        cut.start()
        try:
            return super().wait(*args, **more)
        except psycopg.OperationalError as exc:
            if self._silent:
                raise psycopg.OperationalError(f"no answer within {ANSWER_S:.0f} s") from exc
            raise
        finally:
            cut.cancel()
            cut.join()

    def _cut(self) -> None:
        self._silent = True
        with suppress(psycopg.Error, OSError), socket.socket(fileno=os.dup(self.fileno())) as copy:
            copy.shutdown(socket.SHUT_RDWR)


class Table(NamedTuple):
    """The table of one output, with its statement for one row."""

    name: str
    columns: list[Column]
    insert: str


class PostgresSink:
    """A Sink in the tables of one database."""

    def __init__(self, url: Url, outputs: Iterable[str], prefix: str = "eddy_", create: bool = False) -> None:
        """Raises ConfigError if the prefix cannot begin the name of a table.

        outputs  names of the outputs that will be written
        prefix   of the names of all tables
        create   create the tables and columns that are missing
        """
        self.where = url.shown
        self._url, self._prefix, self._create = url, checked(prefix), create
        self._tables = {name: _table(name, prefix) for name in outputs}
        self._connection: psycopg.Connection[Any] | None = None

    def open(self) -> None:
        try:
            self._connection = Connection.connect(self._url.text, autocommit=True, **SESSION)  # type: ignore[arg-type]
        except psycopg.ProgrammingError as exc:  # the text of the URL
            raise ConfigError(
                f"{self.where} is no URL of PostgreSQL; it looks like postgresql://USER@HOST:5432/DATABASE"
            ) from exc
        except psycopg.Error as exc:
            reason = self._url.redact(exc)
            if FATAL.search(reason):
                raise ConfigError(f"{self.where} cannot be used ({reason}); see --url and EDDY_SINK_URL") from exc
            raise Away(reason) from exc
        try:
            self._connection.execute(LIMITS)
            if self._create:
                self._connection.execute(ddl(self._tables, self._prefix))
            for table in self._tables.values():
                names = ", ".join(f'"{column.name}"' for column in table.columns)
                self._connection.execute(f"SELECT {names} FROM {table.name} LIMIT 0")
            self._connection.execute(f"SELECT topic, partition, next_offset FROM {self._prefix}offsets LIMIT 0")
        except psycopg.Error as exc:
            raise self._failed(exc) from exc

    def offsets(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        topics = sorted({partition.topic for partition in partitions})
        asked = f"SELECT topic, partition, next_offset FROM {self._prefix}offsets WHERE topic = ANY(%s)"
        try:
            rows = self._open().execute(asked, [topics]).fetchall()
        except psycopg.Error as exc:
            raise self._failed(exc) from exc
        found = {Partition(topic, number): offset for topic, number, offset in rows}
        return {partition: offset for partition, offset in found.items() if partition in partitions}

    def write(self, part: Part) -> int:
        table = self._tables[part.output]
        events: list[Event] = list(part.events)
        newest = events
        if part.output == "recommendations":
            # without the newest ones that the table cannot hold, the user's list of before counts
            events = [event for event in part.events if latest([event])]
            newest = [part.events[n] for n in latest(part.events).values()]
        try:
            with self._open().transaction():
                self._store_offset(part)  # first: it locks the row, so that another process waits here
                return 0 if self._fits(table, newest) else self._insert(table, events)
        except psycopg.Error as exc:
            raise self._failed(exc) from exc

    def close(self) -> None:
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.close()
            self._connection = None

    def _open(self) -> "psycopg.Connection[Any]":
        if self._connection is None:
            raise Away("not connected")
        return self._connection

    def _store_offset(self, part: Part) -> None:
        """Raises Moved if the stored offset is not the expected one; the transaction is then rolled back."""
        offsets, (topic, number) = f"{self._prefix}offsets", part.partition
        if part.begin is None:
            first = f"INSERT INTO {offsets} (topic, partition, next_offset) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING"
            done = self._open().execute(first, [topic, number, part.end])
        else:
            later = f"UPDATE {offsets} SET next_offset = %s WHERE topic = %s AND partition = %s AND next_offset = %s"
            done = self._open().execute(later, [part.end, topic, number, part.begin])
        if done.rowcount != 1:
            raise Moved(part.partition, part.begin)

    def _insert(self, table: Table, events: Sequence[Event]) -> int:
        """Insert the rows of events; return how many were left out because the table cannot hold them.

        It halves the events until each half fits: row by row, one that does not would make a part take seconds.
        """
        if not events or self._fits(table, events):
            return 0
        if len(events) == 1:
            return 1
        half = len(events) // 2
        return self._insert(table, events[:half]) + self._insert(table, events[half:])

    def _fits(self, table: Table, events: Sequence[Event]) -> bool:
        """Insert the rows of events, or none of them; return whether the table can hold them."""
        connection = self._open()
        try:
            with connection.transaction(), connection.cursor() as cursor:  # a savepoint
                rows = [_row(event, table.columns) for event in events]
                for first in range(0, len(rows), ROWS):
                    cursor.executemany(table.insert, rows[first : first + ROWS])
        except UNFIT:
            return False
        return True

    def _failed(self, exc: psycopg.Error) -> Exception:
        reason = self._url.redact(exc)
        if isinstance(exc, psycopg.errors.UndefinedTable | psycopg.errors.UndefinedColumn):
            return ConfigError(
                f"{self.where} lacks a table or a column ({reason}); run once with --create, or run what "
                "`eddy sink postgres --ddl` prints"
            )
        if isinstance(exc, psycopg.ProgrammingError | psycopg.NotSupportedError):
            return ConfigError(f"{self.where} cannot be written ({reason}); docs/sinks.md has the rights that it needs")
        return Away(reason)


def checked(prefix: str) -> str:
    """The prefix of the tables' names. Raises ConfigError if it is none."""
    if not PREFIX.fullmatch(prefix):
        raise ConfigError(
            f"--prefix is {prefix!r}; a table's name begins with a lower-case letter or _, then come digits, too"
        )
    return prefix


def ddl(outputs: Iterable[str], prefix: str) -> str:
    """The SQL that creates what is missing. It changes nothing that exists, and can run any number of times."""
    lines = [
        f"CREATE TABLE IF NOT EXISTS {prefix}offsets (",
        "    topic text, partition integer, next_offset bigint NOT NULL, PRIMARY KEY (topic, partition)",
        ");",
    ]
    for output in outputs:
        table = _table(output, prefix)
        rows = [
            f'    "{name}" {TYPES[kind]}{"" if optional else " NOT NULL"}' for name, kind, optional in table.columns
        ]
        rows.append(f"    PRIMARY KEY ({', '.join(PRIMARY[output])})")
        lines += [f"CREATE TABLE IF NOT EXISTS {table.name} (", ",\n".join(rows), ");"]
        lines += [  # a table of an earlier version
            f'ALTER TABLE {table.name} ADD COLUMN IF NOT EXISTS "{name}" {TYPES[kind]};'
            for name, kind, optional in table.columns
            if optional
        ]
    return "\n".join(lines)


def _table(output: str, prefix: str) -> Table:
    name, of = f"{checked(prefix)}{output.replace('-', '_')}", columns(OUTPUTS[output])
    names = [f'"{column.name}"' for column in of]
    insert = f"INSERT INTO {name} ({', '.join(names)}) VALUES ({', '.join(['%s'] * len(of))})"
    if output == "recommendations":
        replaced = ", ".join(f"{one} = EXCLUDED.{one}" for one in names if one != '"user_id"')
        insert += f" ON CONFLICT (user_id) DO UPDATE SET {replaced}"
    else:
        insert += " ON CONFLICT DO NOTHING"  # the offsets were deleted, so that the topic is read again
    return Table(name, of, insert)


def _row(event: Event, of: list[Column]) -> list[Any]:
    found = zip(values(event, of), of, strict=True)
    return [
        Jsonb(msgspec.to_builtins(value)) if TYPES[column.kind] == "jsonb" and value is not None else value
        for value, column in found
    ]
