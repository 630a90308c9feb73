"""`eddy demo`: simulate a shop, run the real worker on an embedded broker, and count its results.

1. Start the broker.
2. Start the worker as its own process, with `eddy worker`.
3. Start the feed, and read the worker's output topics.
4. Stop the feed.
5. Read until every click has its decision, every broken message has its dead letter, and no trigger is left. If one is
   missing, the demo fails.
6. Stop the worker.
7. Print the counts.
"""

import os
import signal
import sys
import tempfile
import threading
import time
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click
import msgspec
from confluent_kafka import Consumer, KafkaException, TopicPartition

from stream.demo.broker import EmbeddedBroker
from stream.demo.feed import Feed
from stream.demo.judged.carts import rules_for
from stream.demo.shop import build_shop
from stream.demo.simulate import DAY_MS, simulate
from stream.demo.tally import Tally
from stream.demo.view import Scene, View, as_lines, choose_view
from stream.demo.worker_process import HOURS, WorkerProcess
from stream.errors import ConfigError, EddyError
from stream.events import Anomaly, DeadLetter, Recommendation, SystemAlert
from stream.manifest import read_manifest
from stream.number_range import NumberRange
from stream.settings import Topics
from stream.trigger import Trigger

PARTITIONS = 2
TOPICS = Topics(behaviour=HOURS)
K = 20
START_S = 120.0
DRAIN_S = 60.0
REFRESH_S = 0.25
ENDINGS = (signal.SIGTERM, signal.SIGHUP)
"""These signals end the demo as Ctrl-C does. Without them a closed terminal would leave the worker running."""

YEARS_BACK = 3
"""The simulation starts this many years ago: simulated time is about a thousand times as fast as the wall clock, and
the worker refuses timestamps in the future."""


class Reader:
    """Reads the committed messages of the worker's output topics and counts them in a tally."""

    def __init__(self, broker: str, tally: Tally) -> None:
        self._tally = tally
        self._consumer = Consumer(
            {
                "bootstrap.servers": broker,
                "group.id": "demo-reader",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 20,
                "log_level": 0,
            }
        )
        topics = (TOPICS.recommendations, TOPICS.anomalies, TOPICS.system_alerts, TOPICS.triggers, TOPICS.dead_letters)
        self._consumer.assign([TopicPartition(topic, number, 0) for topic in topics for number in range(PARTITIONS)])
        self._triggers = [TopicPartition(TOPICS.triggers, number) for number in range(PARTITIONS)]
        self._decision = msgspec.json.Decoder(Recommendation).decode
        self._anomaly = msgspec.json.Decoder(Anomaly).decode
        self._system_alert = msgspec.json.Decoder(SystemAlert).decode
        self._trigger = msgspec.json.Decoder(Trigger).decode
        self._letter = msgspec.json.Decoder(DeadLetter).decode

    def read(self) -> None:
        """Wait up to 20 ms for messages and count those that arrive. Raises EddyError if the broker is unavailable."""
        for message in self._consumer.consume(1000, 0.02):
            if message.error() is not None:
                raise EddyError(f"the decisions could not be read: {message.error().str()}")
            topic, value = message.topic(), message.value()
            if topic == TOPICS.recommendations:
                self._tally.decided(self._decision(value), time.monotonic())
            elif topic == TOPICS.anomalies:
                self._tally.alerted(self._anomaly(value))
            elif topic == TOPICS.system_alerts:
                self._tally.alerted_on_many(self._system_alert(value))
            elif topic == TOPICS.triggers:
                self._tally.carts.fired(self._trigger(value))
            else:
                self._tally.rejected(self._letter(value))

    @property
    def behind(self) -> bool:
        """Whether there are triggers that were not read. Raises EddyError if the broker does not answer."""
        try:
            ends = [self._consumer.get_watermark_offsets(at, timeout=DRAIN_S)[1] for at in self._triggers]
            found = self._consumer.position(self._triggers)  # below 0 where none was read
            return any(max(0, at.offset) < end for at, end in zip(found, ends, strict=True))
        except KafkaException as exc:
            raise EddyError(f"the triggers could not be read: {exc.args[0].str()}") from exc

    def close(self) -> None:
        self._consumer.close()


def default_model() -> Path:
    """Return the directory of the shop's model.

    An installed wheel has the model in the directory of this file, a checkout has it under models/.
    Raises ConfigError if neither exists.
    """
    here = Path(__file__).resolve()
    directories = (here.parent / "models" / "shop", here.parents[2] / "models" / "shop")
    found = [model for directory in directories for model in sorted(directory.glob("*/manifest.json"))]
    if not found:
        raise ConfigError("the demo's model is not installed; train it with `make shop-model`, or give --model")
    return found[-1].parent


@click.command()
@click.option("--seconds", type=NumberRange(min=0.5), help="How long to send clicks. Default: until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print the counts as one JSON object on the last line.")
@click.option("--rate", type=NumberRange(1, 20_000), default=400.0, show_default=True, help="Clicks per second.")
@click.option("--users", type=click.IntRange(10, 20_000), default=600, show_default=True, help="Number of users.")
@click.option("--seed", type=int, default=2, show_default=True, help="Seed of the users. The shop is always the same.")
@click.option(
    "--model", type=click.Path(path_type=Path), help="Model directory. Default: the model that is part of Eddy."
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--no-browser", is_flag=True, help="Do not open the worker's page in a browser.")
def demo(
    seconds: float | None,
    as_json: bool,
    rate: float,
    users: int,
    seed: int,
    model: Path | None,
    device: str,
    no_browser: bool,
) -> None:
    """Show Eddy on a simulated shop, live in the terminal. Needs no Kafka.

    The demo starts an embedded broker and the real worker. Simulated users click, fill carts and buy, and their
    preferences change over time. A few users are bots or have a stolen account, and some messages are broken. The
    worker writes recommendations, alerts, what it expects of each user, and triggers. The demo knows the truth, so it
    shows how many were right. Ctrl-C ends the demo and prints the counts.

    The worker serves a page at the address that is shown. It is opened in a browser if stdout is a terminal and there
    is a display.

    \b
    Examples:
      eddy demo
      eddy demo --seconds 30 --json
      eddy demo --rate 2000 --users 3000 --seed 7
    """
    path = model or default_model()
    scene = Scene(model=read_manifest(path).label, k=K, rate=rate)
    for ending in ENDINGS:
        signal.signal(ending, _interrupt)
    browse = no_page if no_browser or as_json or not _has_display() else open_page
    counts = run(path, device, seconds, rate, users, seed, choose_view(scene, as_json), browse)
    click.echo(msgspec.json.encode(counts).decode() if as_json else as_lines(counts))


def run(
    model: Path,
    device: str,
    seconds: float | None,
    rate: float,
    users: int,
    seed: int,
    view: View,
    browse: Callable[[str], None],
) -> dict[str, object]:
    """Run steps 1 to 7 and return Tally.counts.

    browse  called with the address of the worker's page after the first decision

    Raises EddyError if the worker ends early. Raises EddyError if no decision arrives for DRAIN_S seconds while a click
    has none.
    """
    tally = Tally(K)
    now_ms = int(time.time() * 1000)
    shop_stream = simulate(build_shop(), users, seed, now_ms - YEARS_BACK * 365 * DAY_MS)
    rules = rules_for(read_manifest(model).event_types)
    partitions = dict.fromkeys(TOPICS.names(), PARTITIONS)
    with (
        tempfile.TemporaryDirectory(prefix="eddy-demo-") as directory,
        EmbeddedBroker(partitions) as broker,
        WorkerProcess(broker.address, model, device, Path(directory), K, rules) as worker,
    ):
        reader = Reader(broker.address, tally)
        feed = Feed(broker.address, TOPICS.clicks, shop_stream, rate, seed, tally)
        with _stop_on_signal() as stopping:
            try:
                with view:
                    feed.start()
                    _watch(worker, reader, feed, tally, seconds, view, browse, stopping)
            finally:
                feed.stop()
            _drain(worker, reader, feed, tally)
        counts = tally.counts(feed.seconds, worker.provider)
        reader.close()
    return counts


@contextmanager
def _stop_on_signal() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C and the signals of ENDINGS set.

    They raise no KeyboardInterrupt meanwhile: it could interrupt a read whose messages would then not be counted.
    """
    stopping = threading.Event()
    before = {number: signal.signal(number, lambda *_: stopping.set()) for number in (signal.SIGINT, *ENDINGS)}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch(
    worker: WorkerProcess,
    reader: Reader,
    feed: Feed,
    tally: Tally,
    seconds: float | None,
    view: View,
    browse: Callable[[str], None],
    stopping: threading.Event,
) -> None:
    """Step 3: read and show until the time is over, the feed has ended or `stopping` is set."""
    began_s = shown_s = time.monotonic()
    browsed = False
    while feed.is_alive() and not stopping.is_set() and (seconds is None or feed.seconds < seconds):
        reader.read()
        now_s = time.monotonic()
        if now_s - shown_s < REFRESH_S:
            continue
        shown_s = now_s
        worker.check()
        if feed.started_s is None and now_s - began_s > START_S:
            raise EddyError(f"no decision within {START_S:.0f} s of the worker's start: {worker.last_line}")
        if feed.started_s is not None and not browsed:
            browsed = True
            browse(worker.page)
        view.show(tally, feed.seconds, worker)
    if feed.failed:
        raise EddyError(feed.failed)


def _drain(worker: WorkerProcess, reader: Reader, feed: Feed, tally: Tally) -> None:
    """Step 5: read until nothing is missing. DRAIN_S is counted from the last message that was read."""
    last_s, left = time.monotonic(), -1
    while feed.is_alive() or tally.undecided or tally.unreported > 0 or reader.behind:
        reader.read()
        worker.check()
        if left != (left := tally.undecided + tally.unreported):
            last_s = time.monotonic()
        if time.monotonic() - last_s > DRAIN_S:
            raise EddyError(
                f"the demo waited {DRAIN_S:.0f} s for messages that are missing: decisions on {tally.undecided} of "
                f"{tally.clicks} clicks, dead letters of {tally.unreported} of {tally.broken} broken messages; "
                f"the worker's last line: {worker.last_line}"
            )
    if feed.failed:
        raise EddyError(feed.failed)


def open_page(address: str) -> None:
    """Open a page in the user's browser."""
    webbrowser.open(address)


def no_page(address: str) -> None:
    """Open nothing."""


def _has_display() -> bool:
    """Whether a person sees stdout and can see a browser. Without a display a browser would be one in the terminal."""
    graphical = sys.platform != "linux" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    return sys.stdout.isatty() and graphical


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
