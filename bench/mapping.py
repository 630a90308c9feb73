"""Time to decode a message and to read a log by a mapping, compared with Eddy's fields and options for columns.

The mappings and messages are those of docs/examples: RetailRocket (flat) and Segment (nested, ISO 8601, with all that
Segment adds). Each round times all of them, one after the other, so that a change of the machine's load hits all alike.
The log is a CSV with RetailRocket's columns; its figures are CPU time of the whole process, for each row.

    python -m bench.mapping [--rounds 100] [--json]
"""

import argparse
import sys
import tempfile
import time
import timeit
from collections.abc import Callable
from pathlib import Path

import msgspec

from bench.report import RESULTS, ROOT, Figures, conclude, write_report
from export.init import rows
from export.log.log import read_log
from export.log.reader import ColumnNames
from stream.mapping.parse import read_mapping
from stream.mapping.shape import message_shape
from stream.wire.json import JsonCodec, encode

EXAMPLES = ROOT / "docs" / "examples"
NOW_MS = 1_760_000_000_000
START_MS = 1_433_221_332_117
CALLS, ROWS = 2_000, 300_000
MOST_TIMES = 4.0
"""The claim: no message takes more than this many times as long as one with Eddy's fields."""

CASES = {"retailrocket": ("retailrocket.csv", 0, b"257597"), "segment": ("segment.jsonl", 2, b"u-17")}
"""Mapping -> the file of its sample, the number of a row, and its user."""


def cases() -> dict[str, tuple[Callable[[], object], int]]:
    """What is timed, with the bytes of its message: a click with Eddy's fields first, then the mapped ones."""
    plain = JsonCodec(65_536, 3_600_000)
    found: dict[str, tuple[Callable[[], object], int]] = {}
    for name, (file, number, user) in CASES.items():
        codec = JsonCodec(65_536, 3_600_000, message_shape(read_mapping(EXAMPLES / f"{name}.toml").mapping.of_topic()))
        row = list(rows(EXAMPLES / file))[number]
        whole = {key: int(text) if isinstance(text, str) and text.isdigit() else text for key, text in row.items()}
        message = msgspec.json.encode(whole)
        usual = encode(codec.decode(user, message, NOW_MS))
        found[f"{name}: Eddy's fields"] = (lambda m=usual, u=user: plain.decode(u, m, NOW_MS)), len(usual)
        found[f"{name}: mapped"] = (lambda m=message, u=user, c=codec: c.decode(u, m, NOW_MS)), len(message)
    return found


def log_seconds(count: int) -> dict[str, float]:
    """The CPU time of reading a log of `count` rows with options for its columns, and with a mapping, in seconds."""
    names = ColumnNames(user="visitorid", item="itemid", event="event", time="timestamp")
    mapping = read_mapping(EXAMPLES / "retailrocket.toml")
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "log.csv"
        with path.open("w") as file:
            file.write("timestamp,visitorid,event,itemid,transactionid\n")
            file.writelines(f"{START_MS + 7 * n},{n % 50_000},view,{7_919 * n % 20_000},\n" for n in range(count))
        began = time.process_time()
        read_log(path, names)
        between = time.process_time()
        read_log(path, mapping=mapping)
        return {"options for columns": between - began, "mapping": time.process_time() - between}


def measure(rounds: int) -> dict[str, Figures]:
    """The shortest time of a message of each case in microseconds, and how many times that of its usual form it is."""
    todo = cases()
    times: dict[str, list[float]] = {name: [] for name in todo}
    for _ in range(rounds):
        for name, (decode, _) in todo.items():
            times[name].append(timeit.timeit(decode, number=CALLS) / CALLS * 1e6)
    found: dict[str, Figures] = {}
    for name, (_, size) in todo.items():
        ratio = min(times[name]) / min(times[f"{name.partition(':')[0]}: Eddy's fields"])
        found[name] = {"bytes": size, "us": round(min(times[name]), 2), "times": round(ratio, 2)}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--json", action="store_true", help="also print the result as one JSON object")
    parser.add_argument("--out", type=Path, default=RESULTS / "mapping.json", help="where to write the result")
    given = parser.parse_args()
    found = measure(given.rounds)
    for name, its in found.items():
        print(f"{name:30}{its['bytes']:>6} bytes {its['us']:>8.2f} us {its['times']:>6.2f} times")
    logs = {name: {"us": round(seconds / ROWS * 1e6, 1)} for name, seconds in log_seconds(ROWS).items()}
    for name, its in logs.items():
        print(f"a row of a log, {name:30}{its['us']:>8.1f} us")
    failures = [f"{name}: {its['times']} times" for name, its in found.items() if its["times"] > MOST_TIMES]
    return conclude(
        write_report(
            given.out, "bench.mapping", {"rounds": given.rounds, "rows": ROWS}, {**found, "log": logs}, failures
        ),
        given.json,
    )


if __name__ == "__main__":
    sys.exit(main())
