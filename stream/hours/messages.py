"""Makes the messages of the topic of --behaviour-topic."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from stream.behaviour import END, OTHER, START, Behaviour
from stream.hours.table import HOUR_MS, I64, Cells, Hour
from stream.wire.json import encode


def messages(
    hours: Sequence[Hour], event_types: Sequence[str], label: str, most_bytes: int
) -> Iterator[tuple[bytes, bytes]]:
    """The key and the value of the message on each hour.

    event_types  the names that the model knows
    label        "name/version" of the model
    most_bytes   size limit in bytes of a key and a value together. If a value is too large, rare event types count as
                 OTHER: half of them, then half of the rest. A message without names is always small enough
    """
    cells = Cells(event_types)
    for hour in hours:
        most, event = len(cells.names), message(hour, cells, label, len(cells.names))
        while len(value := encode(event)) + len(event.id.encode()) > most_bytes and most:
            most //= 2
            event = message(hour, cells, label, most)
        yield event.id.encode(), value


def message(hour: Hour, cells: Cells, label: str, most: int) -> Behaviour:
    """The message on an hour. most: so many event types have a name in it, those with the most clicks"""
    partition, table = hour
    steps, reached = np.zeros((cells.width, cells.width), np.int64), np.zeros(cells.other, np.int64)
    parts = table.cells.searchsorted([cells.first_reached, cells.users])
    before, after = np.divmod(table.cells[: parts[0]], cells.width)
    steps[before, after] = table.counts[: parts[0]]
    reached[table.cells[parts[0] : parts[1]] - cells.first_reached] = table.counts[parts[0] : parts[1]]
    names = np.array([*cells.names, OTHER, START, END], np.object_)
    named = np.argsort(-steps[:, : cells.other].sum(0), kind="stable")[:most]
    merged = np.full(cells.width, cells.other)
    merged[[*named, cells.start, cells.end]] = [*named, cells.start, cells.end]
    few = np.zeros_like(steps)
    np.add.at(few, (merged[:, None], merged[None, :]), steps)
    start_ms, clicks = table.hour * HOUR_MS, few[:, : cells.start].sum(0)
    return Behaviour(
        id=f"{partition}/{start_ms}",
        partition=partition.number,
        hour=start_ms,
        clicks=int(clicks.sum()),
        users=int(table.counts[parts[1] :].sum()),
        opened=int(few[cells.start].sum()),
        closed=int(few[:, cells.end].sum()),
        events=_named(names, clicks),
        reached=_named(names, np.where(merged[: cells.other] != cells.other, reached, 0)),
        transitions={str(name): _named(names, row) for name, row in zip(names, few, strict=True) if row.any()},
        model=label,
    )


def _named(names: npt.NDArray[np.object_], counts: I64) -> dict[str, int]:
    """The counts (k,) that are not 0, by the first k names."""
    return {str(name): n for name, n in zip(names, counts.tolist(), strict=False) if n}
