"""What `eddy paths` counts, by plain loops over lists: the oracle of export/sequences. Imports nothing of Eddy."""

import csv
from itertools import groupby, pairwise
from pathlib import Path
from random import Random
from typing import NamedTuple

HALF_HOUR_MS = 30 * 60_000
START_MS = 1_735_689_600_000
EVENTS = ("view", "cart", "purchase", "search")


class Row(NamedTuple):
    user: str
    session: str
    item: str
    category: str
    event: str
    ms: int


class Session(NamedTuple):
    user: str
    rows: list[Row]


def random_rows(seed: int, users: int = 12, clicks: int = 400, items: int = 6) -> list[Row]:
    """Rows in a random order; many have equal times, and the session ids of a user overlap."""
    rng, rows = Random(seed), []
    for _ in range(clicks):
        user, item = f"u{rng.randrange(users)}", rng.randrange(items)
        ms = START_MS + rng.randrange(150) * 5 * 60_000
        category = "" if item == 0 else f"c{item % 3}"
        rows.append(Row(user, f"s{rng.randrange(3)}", f"i{item}", category, rng.choice(EVENTS), ms))
    return rows


def write(rows: list[Row], path: Path, sessions: bool) -> Path:
    """The rows as a CSV file, with a session column or without one."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        names = ["user_id", "item_id", "category", "event_type", "timestamp"]
        writer.writerow([*names, *["session_id"] * sessions])
        for row in rows:
            writer.writerow([row.user, row.item, row.category, row.event, row.ms, *[row.session] * sessions])
    return path


def by_user(rows: list[Row]) -> dict[str, list[Row]]:
    """The rows of each user in the order of time; those of equal times keep the order of the file."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.user, []).append(row)
    return {user: sorted(mine, key=lambda row: row.ms) for user, mine in found.items()}


def sessions_of(rows: list[Row], own: bool) -> list[Session]:
    """The sessions: by their ids, or by pauses of half an hour."""
    found = []
    for user, mine in by_user(rows).items():
        if own:
            ids = list(dict.fromkeys(row.session for row in mine))
            found += [Session(user, [row for row in mine if row.session == one]) for one in ids]
            continue
        current: list[Row] = []
        for row in mine:
            if current and row.ms - current[-1].ms >= HALF_HOUR_MS:
                found.append(Session(user, current))
                current = []
            current.append(row)
        found.append(Session(user, current))
    return found


def path_of(values: list[str]) -> list[str]:
    """The steps of a session: equal values in a row are one step."""
    return [value for value, _ in groupby(values)]


def reached(rows: list[Row], stages: list[str]) -> list[Row]:
    """The rows with which the stages are reached, one after the other."""
    found: list[Row] = []
    for row in rows:
        if len(found) < len(stages) and row.event == stages[len(found)]:
            found.append(row)
    return found


def transitions(paths: list[list[str]]) -> dict[tuple[str, str], int]:
    """How often each step follows each other one, with (begin) and (end)."""
    found: dict[tuple[str, str], int] = {}
    for path in paths:
        whole = ["(begin)", *path, "(end)"]
        for pair in pairwise(whole):
            found[pair] = found.get(pair, 0) + 1
    return found


def prefixes(paths: list[list[str]], depth: int, fewest: int) -> dict[tuple[str, ...], list[int]]:
    """Each prefix of up to `depth` steps, the end being one, with the numbers of its sessions.

    A prefix that fewer than `fewest` sessions have does not go on.
    """
    found: dict[tuple[str, ...], list[int]] = {}
    for length in range(1, depth + 1):
        for number, path in enumerate(paths):
            whole = [*path, "(end)"]
            before = tuple(whole[: length - 1])
            if len(whole) >= length and (length == 1 or len(found.get(before, ())) >= fewest):
                found.setdefault(tuple(whole[:length]), []).append(number)
    return found
