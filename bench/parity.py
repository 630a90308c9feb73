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
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import msgspec
from confluent_kafka import Message

from bench.apache_kafka import VERSION, ApacheKafka, KafkaUnavailable
from bench.readers import progress, read_topic
from bench.report import DATA_DIRECTORY, RESULTS, ROOT, write_report
from export.evaluate.evaluate import Quality, judge
from stream.errors import EddyError
from stream.events import Click, Recommendation
from stream.kafka.topics import create_topics
from stream.settings import Topics

DATA = DATA_DIRECTORY / "globo_clicks.parquet"
RESULT = RESULTS / "parity.json"
COLUMNS = ["--item-col", "article_id"]
START_MS, DAY_MS = 1_506_826_800_000, 86_400_000
PARTITIONS = 4
EXCLUDE_RECENT = 1
KILL_AT = 0.4
DRAIN_S = 600.0


def stop(line: str) -> NoReturn:
    print(f"parity: {line}", file=sys.stderr)
    sys.exit(2)


def eddy(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run an `eddy` command and wait for its end. If it fails, the benchmark ends with exit code 2."""
    done = subprocess.run(_command(*arguments), cwd=ROOT, env=_environment(), text=True, check=False, **options)
    if done.returncode != 0:
        stop(f"eddy {arguments[0]} ended with exit code {done.returncode}")
    return done


def _command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "stream.ops.cli", *map(str, arguments)]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


# -- the model --------------------------------------------------------------------------------------------------------


def trained_model(days: int, extra: list[str]) -> tuple[Path, float]:
    """A model of the first `days` days and the seconds of its training. The same settings are trained only once."""
    arguments = [*COLUMNS, "--until", START_MS + days * DAY_MS, *extra]
    key = hashlib.sha256(json.dumps([DATA.stat().st_size, *map(str, arguments)]).encode()).hexdigest()[:12]
    directory = ROOT / ".cache" / "parity" / key
    took = directory / "seconds.json"
    if not took.is_file():
        print(
            f"training on days 1 to {days} (only once: the model stays in {directory.relative_to(ROOT)})",
            file=sys.stderr,
        )
        began = time.monotonic()
        eddy("train", DATA, *arguments, "--out", directory / "globo" / "1", stdout=sys.stderr)
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


# -- the two runs -----------------------------------------------------------------------------------------------------


@dataclass
class Run:
    """The workers of one consumer group on the clicks topic, with their own output topics."""

    broker: str
    model: Path
    group: str
    logs: Path

    @property
    def topics(self) -> Topics:
        return Topics(
            "clicks", *(f"{self.group}-{word}" for word in ("recommendations", "anomalies", "dead", "states"))
        )

    def start(self, worker_id: int) -> subprocess.Popen[bytes]:
        topics = [("--" + name.replace("_", "-") + "-topic", topic) for name, topic in _fields(self.topics)]
        with (self.logs / f"{self.group}-{worker_id}.log").open("ab") as log:
            return subprocess.Popen(
                _command(
                    *("worker", "--model", self.model, "--broker", self.broker, "--group", self.group),
                    *("--worker-id", worker_id, "--exclude-recent", EXCLUDE_RECENT, "--device", "cpu"),
                    *(part for pair in topics for part in pair),
                ),
                cwd=ROOT,
                env=_environment(),
                stdout=log,
                stderr=log,
            )

    def wait(self, reached: Callable[[int, int], bool], processes: list[subprocess.Popen[bytes]]) -> float:
        """Wait until `reached(committed, all)`; return the clicks per second since the first commit that was seen.

        processes  the workers; if one has ended, or after DRAIN_S seconds, the benchmark ends with exit code 2
        """
        deadline = time.monotonic() + DRAIN_S
        first: tuple[float, int] | None = None
        with progress(self.broker, self.group, "clicks") as read_progress:
            while True:
                committed, ends = read_progress()
                now = time.monotonic()
                first = (now, committed) if first is None and committed else first
                if reached(committed, ends):
                    since, before = first or (now, committed)
                    return (committed - before) / max(now - since, 1e-9)
                ended = [process.returncode for process in processes if process.poll() is not None]
                if ended or now > deadline:
                    logs = "\n".join(path.read_text()[-3000:] for path in self.logs.glob(f"{self.group}-*.log"))
                    stop(f"workers of {self.group} are at {committed} of {ends} clicks, exit codes: {ended}\n{logs}")
                time.sleep(0.02)


def _fields(topics: Topics) -> list[tuple[str, str]]:
    return list(msgspec.structs.asdict(topics).items())


def disturbed(run: Run, publish: Callable[[], object], clicks: int) -> dict[str, Any]:
    """Two workers. One is killed with kill -9 when KILL_AT of all clicks have a decision, and restarted with its id."""
    first, second = run.start(0), run.start(1)
    try:
        publish()
        run.wait(lambda done, _: done >= KILL_AT * clicks, [first, second])
        first.send_signal(signal.SIGKILL)
        first.wait()
        with progress(run.broker, run.group, "clicks") as read_progress:
            killed_at = read_progress()[0]
        if killed_at >= clicks:
            stop("the workers had finished before one was killed; give more --clicks")
        first = run.start(0)
        run.wait(lambda done, _: done >= clicks, [first, second])
        return {"killed_at_click": killed_at}
    finally:
        _end(first, second)


def undisturbed(run: Run, clicks: int) -> dict[str, Any]:
    """One worker processes all clicks without a crash."""
    worker = run.start(0)
    try:
        return {"one_worker_clicks_per_s": round(run.wait(lambda done, _: done >= clicks, [worker]))}
    finally:
        _end(worker)


def _end(*processes: subprocess.Popen[bytes]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


# -- results ----------------------------------------------------------------------------------------------------------


def online_quality(clicks: list[Message], decisions: list[Message]) -> tuple[Quality, int, int, int]:
    """Recall and MRR of the lists on the topic, number of users, of clicks without a decision, of surplus decisions."""
    decode_click = msgspec.json.Decoder(Click).decode
    decode_decision = msgspec.json.Decoder(Recommendation).decode
    counted: Counter[str] = Counter()
    lists: dict[str, list[str]] = {}
    for message in decisions:
        decision = decode_decision(message.value())
        counted[decision.id] += 1
        lists[decision.id] = decision.items
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
    say = lambda line: print(line, file=sys.stderr)  # noqa: E731
    say("running eddy evaluate (offline)")
    flags = ["--exclude-recent", EXCLUDE_RECENT, "--device", "cpu", "--json"]
    done = eddy("evaluate", model, DATA, *cut, *flags, stdout=subprocess.PIPE)
    offline = json.loads(done.stdout.strip().splitlines()[-1])
    clicks = offline["clicks"]

    killed, whole = Run(broker, model, "killed", logs), Run(broker, model, "whole", logs)
    for run in (killed, whole):
        create_topics(broker, run.topics, PARTITIONS, 1)

    def publish() -> None:
        eddy("replay", DATA, *cut, "--broker", broker, "--topic", "clicks", "--speed", "max", stdout=sys.stderr)

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
    for line in wrong:
        print(f"FAILED: {line}")
    if given.json:
        print(json.dumps(report))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
