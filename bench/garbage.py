"""Measures what bad messages cost: messages per CPU second of a batch with 1 % garbage, and of one without.

A batch is what a worker does between a fetch and a transaction: decode, decide, make all records, count. Each round
runs the same messages in three ways, in turn: clean, with 1 % of them replaced by bad ones of 14 kinds, and with an
event id in each click. Each run has a process of its own: the layout of a process in memory alone makes it up to 7 %
faster or slower. Exit code 1 if the throughput with garbage is below 0.9 of the clean one.

    python -m bench.garbage [--rounds N]
"""

import argparse
import json
import logging
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec

from bench.report import RESULTS, write_report
from export.model.untrained import write_untrained
from stream.events import Partition
from stream.kafka.consumer.fetch import Chunk
from stream.mapping.decoding import user_ids
from stream.meter import Meter
from stream.model.runtime import Model, load_model
from stream.settings import Topics
from stream.wire.json import JsonCodec
from stream.worker.cycles.batch import decide, encode_all
from stream.worker.observe import Observed
from stream.worker.served import open_engine

ITEMS, HIDDEN, USERS, K = 20_000, 128, 2_000, 20
BATCH, BATCHES = 2_000, 5
GARBAGE, GOAL = 0.01, 0.9
TRIES = 3
NOW_MS = 1_760_000_000_000

Message = tuple[bytes | None, bytes | None]


def click(n: int, rng: random.Random) -> dict[str, Any]:
    user, item = int(USERS * rng.random() ** 2), int(ITEMS * rng.random() ** 3)
    return {"user_id": f"user-{user}", "item_id": f"i{item}", "timestamp": NOW_MS + 137 * n, "event_type": "view"}


def bad(event: dict[str, Any], rng: random.Random) -> Message:
    """A message that is no click, made of one."""
    key, good = event["user_id"].encode(), msgspec.json.encode(event)
    changes: list[dict[str, Any]] = [
        {"timestamp": "yesterday"},
        {"timestamp": -1},
        {"timestamp": 4_000_000_000_000},
        {"item_id": ["i1"]},
        {"item_id": ""},
        {"item_id": "i" * 300},
        {"user_id": None},
        {"category": "c" * 70_000},
    ]
    kinds: list[Message] = [(key, json.dumps({**event, **change}).encode()) for change in changes]
    kinds += [
        (key, good[: rng.randrange(1, len(good))]),
        (key, good.replace(b"user", b"\xff\xfe")),
        (key, b'{"user_id":' * 5_000),
        (key, None),
        (None, good),
        (b"somebody else", good),
    ]
    return rng.choice(kinds)


def clean_messages(events: list[dict[str, Any]]) -> list[Message]:
    return [(event["user_id"].encode(), msgspec.json.encode(event)) for event in events]


def with_garbage(events: list[dict[str, Any]]) -> list[Message]:
    rng = random.Random(1)
    return [
        bad(event, rng) if rng.random() < GARBAGE else message
        for event, message in zip(events, clean_messages(events), strict=True)
    ]


def with_event_ids(events: list[dict[str, Any]]) -> list[Message]:
    return clean_messages([{**event, "event_id": f"{n:032x}"} for n, event in enumerate(events)])


SIDES: dict[str, Callable[[list[dict[str, Any]]], list[Message]]] = {
    "clean": clean_messages,
    "garbage": with_garbage,
    "event_ids": with_event_ids,
}


def fastest(side: str, directory: Path) -> tuple[float, int]:
    """Messages per CPU second of the fastest of TRIES runs, and the number of dead letters of one.

    Other programs only make a run slower. The first run warms up.
    """
    logging.disable(logging.WARNING)
    model, rng = load_model(directory, "cpu"), random.Random(0)
    messages = SIDES[side]([click(n, rng) for n in range(BATCH * BATCHES)])
    runs = [measure(model, directory, messages) for _ in range(TRIES + 1)]
    return max(rate for rate, _ in runs[1:]), runs[0][1]


def measure(model: Model, directory: Path, messages: list[Message]) -> tuple[float, int]:
    """Messages per CPU second of a new engine, and the number of dead letters."""
    engine, codec = open_engine(model, directory, K, 1, 0.001), JsonCodec(65_536, 3_600_000)
    topics, partition = Topics(), Partition("clicks", 0)
    limits = dict.fromkeys(msgspec.structs.astuple(topics), 1_000_000)
    observed = Observed(Meter(), model, engine.arena, 8, user_ids)
    records = [
        SimpleNamespace(offset=offset, key=key, value=value, timestamp=NOW_MS, headers=())
        for offset, (key, value) in enumerate(messages)
    ]
    starts = range(0, len(records), BATCH)
    chunks = [Chunk(partition, 1, at, at + BATCH, 0, records[at : at + BATCH], 0) for at in starts]
    refused = 0
    began = time.process_time()
    for chunk in chunks:
        decided = decide(engine, codec, topics, [chunk], {partition: chunk.begin}, NOW_MS)
        batch = encode_all(engine, topics, limits, decided)
        engine.commit(batch.cycle)
        observed.committed([chunk], batch)
        refused += len(batch.refused)
    return len(messages) / (time.process_time() - began), refused


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=RESULTS / "garbage.json", help="where to write the report")
    given = parser.parse_args()
    rates: dict[str, list[float]] = {name: [] for name in SIDES}
    letters: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "untrained" / "1"
        write_untrained(directory, [f"i{n}" for n in range(ITEMS)], ["view", "cart", "purchase"], HIDDEN)
        new_process = get_context("spawn")
        with ProcessPoolExecutor(max_workers=1, mp_context=new_process, max_tasks_per_child=1) as processes:
            for turn in range(given.rounds):
                names = list(SIDES)
                for name in names[turn % len(names) :] + names[: turn % len(names)]:  # no side is always first
                    rate, letters[name] = processes.submit(fastest, name, directory).result()
                    rates[name].append(rate)
                print(f"round {turn + 1} of {given.rounds}", file=sys.stderr, flush=True)
    results: dict[str, Any] = {}
    for name, rounds in rates.items():
        ratios = [one / clean for one, clean in zip(rounds, rates["clean"], strict=True)]
        results[name] = {
            "messages_per_cpu_s": round(statistics.median(rounds)),
            "dead_letters": letters[name],
            "of_clean": round(statistics.median(ratios), 3),
            "lowest": round(min(ratios), 3),
            "highest": round(max(ratios), 3),
        }
        print(
            f"{name:10}{results[name]['messages_per_cpu_s']:>9,} messages/s, {results[name]['of_clean']:.3f} of clean"
        )
    ratio = results["garbage"]["of_clean"]
    failures = [f"throughput with garbage is {ratio} of the clean one; the goal is {GOAL}"] if ratio < GOAL else []
    conditions = {
        "batch": BATCH,
        "messages of a run": BATCH * BATCHES,
        "runs of a process": TRIES,
        "rounds": given.rounds,
        "garbage": GARBAGE,
        "items": ITEMS,
        "hidden": HIDDEN,
        "users": USERS,
        "k": K,
    }
    write_report(given.out, "bench.garbage", conditions, results, failures)
    for line in failures:
        print(f"FAILED: {line}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
