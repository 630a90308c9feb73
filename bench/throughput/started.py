"""How each contender is started, on new topics, and ended."""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
from confluent_kafka.admin import AdminClient

from bench.apache_kafka import FAST_START, ApacheKafka, KafkaUnavailable
from bench.command import eddy_command, environment, say, stop
from bench.throughput.clicks import HIDDEN, ITEMS, USERS, write_shop_model
from bench.throughput.contenders.model import K
from bench.throughput.machine import PROC
from stream.kafka.topics import create_topics
from stream.settings import Topics

PARTITIONS = 8
END_S = 20.0
HERE = Path(__file__).parent / "contenders"
SHOP = {"users": USERS, "items": ITEMS, "hidden": HIDDEN, "k": K, "partitions": PARTITIONS}
"""The sizes of all benchmarks that use a site, for their result files."""

SERVED_SHOP = SHOP | {"broker": "with the options of Kafka's start script"}
"""The same for those with `shop_site(java=AS_SERVED)`: clicks at a fixed rate, for minutes. In the others a run takes
seconds, and Java would compile the broker meanwhile, on the same cores."""


class Site(NamedTuple):
    """Where contenders run.

    broker   "host:port"
    model    model directory
    python   Python of the environment of Quix Streams and Bytewax
    scratch  directory for the logs and files of the contenders
    """

    broker: str
    model: Path
    python: Path
    scratch: Path


@contextmanager
def shop_site(python: Path | None = None, java: tuple[str, ...] = FAST_START) -> Iterator[tuple[ApacheKafka, Site]]:
    """Start a real Kafka and write the model of the benchmarks. Exit code 2 if there is no Kafka or no /proc.

    python  of the environment of Quix Streams and Bytewax; None: they are not started
    java    options of Java for the broker
    """
    if not (PROC / "stat").is_file():
        stop("CPU times and memory are read from Linux's /proc, which is not there")
    try:
        with tempfile.TemporaryDirectory() as name, ApacheKafka(java=java) as kafka:
            site = Site(kafka.address, Path(name) / "shop" / "1", python or Path(sys.executable), Path(name))
            say("writing the model")
            write_shop_model(site.model)
            yield kafka, site
    except KafkaUnavailable as exc:
        stop(str(exc))


Command = Callable[[Topics, Site], list[str]]


class Contender(NamedTuple):
    """How one contender is started, and what it keeps.

    by_event  it processes one click at a time, and gets fewer clicks
    keeps     where the users' states are, and what is guaranteed
    """

    command: Command
    by_event: bool
    keeps: str


def script(path: Path, eddys_python: bool) -> Command:
    """A contender that is a Python file with the arguments BROKER CLICKS_TOPIC RESULTS_TOPIC MODEL."""

    def command(topics: Topics, site: Site) -> list[str]:
        python = sys.executable if eddys_python else str(site.python)
        return [python, str(path), site.broker, topics.clicks, topics.recommendations, str(site.model)]

    return command


def _bytewax(name: str) -> Command:
    def command(topics: Topics, site: Site) -> list[str]:
        words = (site.broker, topics.clicks, topics.recommendations, str(site.model))
        return [str(site.python), "-m", "bytewax.run", f"{HERE / name}:flow{words!r}"]

    return command


def _eddy(lists: str, worker_id: int = 0) -> Command:
    """Eddy with this value of `--lists`, under this id. All workers of the same topics are one group.

    The lists of the contenders may have the item of the click, so those of Eddy may have it, too.
    """

    def command(topics: Topics, site: Site) -> list[str]:
        named = [(f"--{name.replace('_', '-')}-topic", topic) for name, topic in msgspec.structs.asdict(topics).items()]
        return eddy_command(
            *("worker", "--model", site.model, "--broker", site.broker, "--group", topics.recommendations),
            *("--device", "cpu", "--worker-id", worker_id, "--k", K, "--exclude-recent", 0, "--lists", lists),
            *(word for pair in named for word in pair),
        )

    return command


EDDY_KEEPS = "arrays in memory and changelog topic; exactly once; p-values and alerts"
CONTENDERS = {
    "limit": Contender(script(HERE / "bare.py", True), False, "arrays in memory; no guarantee"),
    "bytewax_batched": Contender(_bytewax("bytewax_batched.py"), False, "arrays in memory; no guarantee"),
    "quix_batched": Contender(script(HERE / "quix_batched.py", False), False, "arrays in memory; no guarantee"),
    "eddy": Contender(_eddy("every"), False, EDDY_KEEPS),
    "eddy_last": Contender(_eddy("last"), False, f"{EDDY_KEEPS}; a list only for a user's last click of a transaction"),
    "bytewax_events": Contender(_bytewax("bytewax_events.py"), True, "stateful_map in memory; no guarantee"),
    "quix_events": Contender(
        script(HERE / "quix_events.py", False), True, "RocksDB and changelog topic; at least once"
    ),
    "faust_events": Contender(
        script(HERE / "faust_events.py", True), True, "table with changelog topic; at least once"
    ),
}

SECOND = Contender(_eddy("every", 1), False, EDDY_KEEPS)
"""A second worker beside that of CONTENDERS["eddy"]."""


class Running(NamedTuple):
    """A contender that runs. `directory` has its log."""

    topics: Topics
    process: "subprocess.Popen[bytes]"
    directory: Path

    def check(self, so_far: str, too_slow: bool) -> None:
        """End the benchmark with exit code 2 if the process has ended or is too slow."""
        if too_slow or self.process.poll() is not None:
            tail = (self.directory / "log").read_text(errors="replace")[-3000:]
            stop(f"{self.directory.name}: {so_far}, exit code {self.process.returncode}\n{tail}")


@contextmanager
def running(site: Site, contender: Contender, name: str) -> Iterator[Running]:
    """Start a contender on new topics. At the end, its process is ended and all topics are deleted.

    name  unique for each run
    """
    topics = Topics(
        *(f"{name}-{word}" for word in ("clicks", "results", "anomalies", "dead", "states", "system", "sessions"))
    )
    create_topics(site.broker, topics, PARTITIONS, 1)
    with process(site, contender, name, topics) as found:
        yield found
    admin = AdminClient({"bootstrap.servers": site.broker, "log_level": 0})
    left = [topic for topic in admin.list_topics(timeout=10).topics if not topic.startswith("__")]
    for future in admin.delete_topics(left).values():  # so that the disk does not fill up
        future.result(30)


@contextmanager
def process(site: Site, contender: Contender, name: str, topics: Topics) -> Iterator[Running]:
    """Start a contender on topics that are there, and end it."""
    directory = site.scratch / name
    directory.mkdir()
    with (directory / "log").open("wb") as log:
        its = subprocess.Popen(
            contender.command(topics, site), cwd=directory, env=environment(), stdout=log, stderr=log
        )
    try:
        yield Running(topics, its, directory)
    finally:
        its.terminate()
        try:
            its.wait(END_S)
        except subprocess.TimeoutExpired:
            its.kill()
            its.wait()
