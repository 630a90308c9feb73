"""Checks that the lists on Kafka have the recall and MRR of `eddy evaluate` on the same clicks, to the 4th decimal.

1. A model is trained on the first days of Globo.
2. The next day is replayed through a real Kafka to two workers. One worker is killed with kill -9 and restarted.
3. Recall and MRR are computed from the `recommendations` topic and compared with `eddy evaluate`.
4. One worker of a second group processes the same day without a crash. Every user's state must be bit-equal.

Exit code 1 if anything differs, or if Eddy is not better than Markov.

    python -m bench.parity [--clicks N] [--days D] [--json]
"""

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
from confluent_kafka import Message

from bench.apache_kafka import VERSION, ApacheKafka, KafkaUnavailable
from bench.command import run_eddy, say, stop
from bench.groups import EXCLUDE_RECENT, KILL_AT, Run, disturbed, undisturbed
from bench.readers import read_topic
from bench.report import DATA_DIRECTORY, RESULTS, ROOT, conclude, write_report
from export.evaluate.evaluate import Quality, judge
from stream.errors import EddyError
from stream.events import Click, Recommendation, click_of
from stream.kafka.topics import create_topics
from stream.manifest import FORMAT

DATA = DATA_DIRECTORY / "globo_clicks.parquet"
RESULT = RESULTS / "parity.json"
COLUMNS = ["--item-col", "article_id"]
START_MS, DAY_MS = 1_506_826_800_000, 86_400_000
PARTITIONS = 4


# -- the model --------------------------------------------------------------------------------------------------------


def trained_model(days: int, extra: list[str]) -> tuple[Path, float]:
    """A model of the first `days` days and the seconds of its training. The same settings are trained only once."""
    arguments = [*COLUMNS, "--until", START_MS + days * DAY_MS, *extra]
    key = hashlib.sha256(json.dumps([FORMAT, DATA.stat().st_size, *map(str, arguments)]).encode()).hexdigest()[:12]
    directory = ROOT / ".cache" / "parity" / key
    took = directory / "seconds.json"
    if not took.is_file():
        say(f"training on days 1 to {days} (only once: the model stays in {directory.relative_to(ROOT)})")
        began = time.monotonic()
        run_eddy("train", DATA, *arguments, "--out", directory / "globo" / "1")
        took.write_text(json.dumps(round(time.monotonic() - began, 1)))
    return directory / "globo" / "1", json.loads(took.read_text())


def end_of(start_ms: int, clicks: int | None) -> int:
    """The end of the replay, ms since the epoch: after `clicks` clicks, or after the day if `clicks` is None."""
    if clicks is None:
        return start_ms + DAY_MS
    import polars as pl

    times = pl.read_parquet(DATA, columns=["timestamp"])["timestamp"].sort()
    after = times.filter(times >= start_ms)
    return int(after[min(clicks, len(after) - 1)])


# -- results ----------------------------------------------------------------------------------------------------------


def online_quality(clicks: list[Message], decisions: list[Message]) -> tuple[Quality, int, int, int]:
    """Recall and MRR of the lists on the topic, number of users, of clicks without a decision, of surplus decisions."""
    decode_click = msgspec.json.Decoder(Click).decode
    decode_decision = msgspec.json.Decoder(Recommendation).decode
    counted: Counter[str] = Counter()
    lists: dict[str, list[str]] = {}
    for message in decisions:
        decision = decode_decision(message.value())
        counted[click_of(decision.id)] += 1
        lists[click_of(decision.id)] = decision.items
    in_order = sorted(clicks, key=lambda message: (message.partition(), message.offset()))
    ids = [f"{message.topic()}-{message.partition()}-{message.offset()}" for message in in_order]
    missing = len(set(ids) - counted.keys())
    duplicates = counted.total() - len(counted) + len(counted.keys() - set(ids))
    decoded = [decode_click(message.value()) for message in in_order]
    quality = judge(
        (click.user_id, click.session_id or "", click.item_id, lists.get(id_, []))
        for id_, click in zip(ids, decoded, strict=True)
    )
    return quality, len({click.user_id for click in decoded}), missing, duplicates


def states(broker: str, changelog: str) -> dict[tuple[int, bytes], bytes]:
    """The last state row of each user: (partition, key) -> row."""
    return {(m.partition(), m.key()): m.value() for m in read_topic(broker, changelog)}


def measure(broker: str, model: Path, start_ms: int, end_ms: int, logs: Path) -> dict[str, Any]:
    """Do both runs on one broker and return the values to compare."""
    cut = [*COLUMNS, "--from", start_ms, "--until", end_ms]
    say("running eddy evaluate (offline)")
    flags = ["--exclude-recent", EXCLUDE_RECENT, "--device", "cpu", "--json"]
    done = run_eddy("evaluate", model, DATA, *cut, *flags)
    offline = json.loads(done.output.strip().splitlines()[-1])
    clicks = offline["clicks"]

    killed, whole = Run(broker, model, "killed", logs), Run(broker, model, "whole", logs)
    for run in (killed, whole):
        create_topics(broker, run.topics, PARTITIONS, 1)

    def publish() -> None:
        run_eddy("replay", DATA, *cut, "--broker", broker, "--topic", "clicks", "--speed", "max")

    say(f"replaying {clicks:,} clicks to two workers; one is killed")
    facts = disturbed(killed, publish, clicks)
    say("processing the same clicks again with one worker")
    facts |= undisturbed(whole, clicks)

    published = read_topic(broker, "clicks")
    quality, users, missing, duplicates = online_quality(published, read_topic(broker, killed.topics.recommendations))
    after_crash, expected = states(broker, killed.topics.changelog), states(broker, whole.topics.changelog)
    return {
        "online_recall20": quality.recall20,
        "offline_recall20": offline["eddy"]["recall20"],
        "online_mrr20": quality.mrr20,
        "offline_mrr20": offline["eddy"]["mrr20"],
        "markov_recall20": offline["markov"]["recall20"],
        "markov_mrr20": offline["markov"]["mrr20"],
        "popularity_recall20": offline["popularity"]["recall20"],
        "popularity_mrr20": offline["popularity"]["mrr20"],
        "judged": quality.judged,
        "users": users,
        "clicks": len(published),
        "state_mismatches": sum(
            after_crash.get(key) != expected.get(key) for key in after_crash.keys() | expected.keys()
        ),
        "missing": missing + clicks - len(published),
        "duplicates": duplicates,
        **facts,
    }


def failures(results: dict[str, Any]) -> list[str]:
    """One line for each part of the claim that does not hold."""
    found = [
        f"online {name} {results[f'online_{name}']:.6f} is not the offline {results[f'offline_{name}']:.6f}"
        for name in ("recall20", "mrr20")
        if abs(results[f"online_{name}"] - results[f"offline_{name}"]) >= 0.5e-4
    ]
    found += [
        f"{name} is {results[name]}, but must be 0"
        for name in ("state_mismatches", "missing", "duplicates")
        if results[name]
    ]
    found += [
        f"online {name} {results[f'online_{name}']:.4f} is not above Markov with {results[f'markov_{name}']:.4f}"
        for name in ("recall20", "mrr20")
        if results[f"online_{name}"] <= results[f"markov_{name}"]
    ]
    return found


def table(results: dict[str, Any]) -> str:
    rows = [f"{'':12}{'recall@20':>10}{'MRR@20':>10}"]
    rows += [
        f"{name:12}{results[f'{name}_recall20']:>10.4f}{results[f'{name}_mrr20']:>10.4f}"
        for name in ("online", "offline", "markov", "popularity")
    ]
    counts = ("clicks", "users", "judged", "state_mismatches", "missing", "duplicates", "one_worker_clicks_per_s")
    rows += [f"{name:26}{results[name]:>10,}" for name in counts]
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--clicks", type=int, help="replay only this many clicks of the day, for a quick check")
    parser.add_argument("--days", type=int, default=2, help="train on the first DAYS days, replay the next [2]")
    parser.add_argument("--train", default="", help='more options for `eddy train`, such as "--epochs 1"')
    parser.add_argument("--json", action="store_true", help="also print the result as one JSON object")
    parser.add_argument("--out", type=Path, default=RESULT, help="where to write the result")
    given = parser.parse_args()
    if not DATA.is_file():
        stop(f"{DATA} does not exist: set EDDY_DATA to the directory of globo_clicks.parquet")
    start_ms = START_MS + given.days * DAY_MS
    logs = Path(tempfile.mkdtemp(prefix="eddy-parity-"))
    try:
        with ApacheKafka() as kafka:
            model, train_s = trained_model(given.days, given.train.split())
            end_ms = end_of(start_ms, given.clicks)
            results = {**measure(kafka.address, model, start_ms, end_ms, logs), "train_seconds": train_s}
    except (KafkaUnavailable, EddyError) as exc:
        stop(str(exc))
    shutil.rmtree(logs, ignore_errors=True)
    wrong = failures(results)
    conditions = {
        "data": DATA.name,
        "trained_on": f"days 1 to {given.days}",
        "replayed": f"day {given.days + 1}" + (f", its first {given.clicks:,} clicks" if given.clicks else ""),
        "partitions": PARTITIONS,
        "exclude_recent": EXCLUDE_RECENT,
        "killed": f"one of two workers, kill -9 at {KILL_AT:.0%} of the clicks, restarted",
        "reference": "one worker, another group, undisturbed",
    }
    report = write_report(given.out, "bench.parity", conditions, results, wrong, kafka=VERSION)
    print(table(results))
    return conclude(report, given.json)


if __name__ == "__main__":
    sys.exit(main())
