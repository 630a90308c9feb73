"""Connects a worker's cycles to Faust's hooks: rebalances, the agent of the clicks, the tasks, and the end.

It also has the class of Faust's worker, which starts the app and ends the process.
"""

import asyncio
import gc
import logging
import signal
import time
from pathlib import Path
from typing import Any

import faust
from faust.types.tuples import TP

from stream.access.refusal import Admin
from stream.access.rights import lost_right
from stream.answers.admin import read_token, request_to_forget
from stream.answers.desk import Desk, Open, Partitioner
from stream.answers.routes import answer_routes, no_routes
from stream.answers.similar import Similar
from stream.answers.users import Users
from stream.answers.workers import Workers, warn_of_readers
from stream.engine.engine import Engine
from stream.errors import ConfigError
from stream.events import Partition
from stream.kafka.changelog import Changelog
from stream.kafka.consumer.offsets import high_watermarks
from stream.kafka.consumer.transport import assigned, leave_group, membership, seek
from stream.kafka.delivery import group_metadata
from stream.kafka.partitioners import KeySample
from stream.kafka.waiting import KafkaWatch
from stream.kafka.watchdog import CHECK_S, Rebalances, asked_to_end, end_app, set_asked_to_end, watch_group
from stream.kafka_config import KafkaConfig
from stream.log_lines import as_json
from stream.rekey.rekeying import Rekeying
from stream.settings import Settings
from stream.web.display import Display
from stream.web.files import page_routes
from stream.web.health import Doing, Health
from stream.web.routes import worker_routes
from stream.web.server import Server, listen
from stream.wire.codec import Codec
from stream.worker.cycles.cycle import Cycles
from stream.worker.cycles.recovery import Assignment
from stream.worker.observe import Observed
from stream.worker.status import Status, report
from stream.worker.topic_watch import EVERY_S, TopicWatch

LEARN_S = 2.0

log = logging.getLogger(__name__)


class WithoutWeb(faust.Worker):
    """Faust's worker without its web server, which `faust -A` would open on all interfaces.

    It tells the app whether it was asked to end: Faust calls `stop` first after a signal, and after
    `on_worker_shutdown` if the app could not start or has crashed. And it has hooks that an app has not: that the
    event loop runs, and, for `faust -A`, that the log is set up.
    """

    def __init__(self, app: faust.App, *arguments: Any, **options: Any) -> None:
        app.conf.web_enabled = False
        self._ends_by_itself = False
        super().__init__(app, *arguments, **options)

    async def on_start(self) -> None:
        self.app.eddy_health.beat(asyncio.get_running_loop())
        await super().on_start()

    def on_setup_root_logger(self, logger: logging.Logger, level: int) -> None:
        super().on_setup_root_logger(logger, level)
        if self.app.eddy_log_format == "json":
            as_json(logger)

    def on_worker_shutdown(self) -> None:
        self._ends_by_itself = True
        super().on_worker_shutdown()

    async def stop(self) -> None:
        if not self._ends_by_itself and not self.app.crashed:
            if not asked_to_end(self.app):
                log.info("asked to end: the running cycle is finished first")
            set_asked_to_end(self.app)
        await super().stop()

    async def _sentinel_task(self) -> None:
        """Let the tasks that Faust has cancelled at its end run out. Faust itself would always wait for a second."""
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=1.0)


def connect(
    app: faust.App, cycles: Cycles, settings: Settings, worker_id: str, config: KafkaConfig, partitions_held: int
) -> None:
    """Connect the cycles to Faust's hooks. An error in a hook or task ends the process.

    partitions_held  number of partitions of the changelog. Clicks in partitions that were added later are not read
    Faust awaits every hook and task in the event loop, also those of a rebalance, which the consumer thread starts.
    """
    rebalances = Rebalances()

    @app.agent(app.topic(settings.topics.clicks), name="clicks")
    async def clicks(stream: Any) -> None:
        async for event in stream.noack().events():
            cycles.offer(event)

    @app.on_partitions_revoked.connect
    async def revoked(app: faust.App, tps: set[TP], **_: Any) -> None:
        if tps:
            log.info("partitions revoked: partitions=[%s]", ", ".join(str(Partition(*tp)) for tp in sorted(tps)))

    @app.on_rebalance_complete.connect  # awaited before Faust seeks and fetches; on_partitions_assigned is too late
    async def recover(app: faust.App, **_: Any) -> None:
        if rebalances.note(time.monotonic()):
            rebalances.warn(worker_id)
        generation, member_id = membership(app)
        partitions = [partition for partition in assigned(app) if partition.number < partitions_held]
        if generation < 0 or not partitions:
            cycles.stand_by()
            log.info("no partitions for this worker: generation=%d", generation)
            return
        metadata = group_metadata(settings.group, generation, member_id, app.conf.consumer_group_instance_id)
        try:
            assignment = await cycles.recover(partitions, generation, metadata)
        except Exception as exc:
            failed(exc)
            return
        app.add_future(read(assignment, partitions))

    async def read(assignment: Assignment, partitions: list[Partition]) -> None:
        try:
            await seek(app, await cycles.read(assignment, partitions))
            gc.freeze()  # Python's collector looked at the program and the states again and again: 12 us a click
        except Exception as exc:
            failed(exc)

    def failed(exc: Exception) -> None:
        if not cycles.closed:  # else a rebalance came while this worker ends: the next owner reads the partitions
            end_app(app, exc)

    @app.task
    async def run() -> None:
        try:
            await cycles.run()
        except RuntimeError as exc:  # too many roll-backs: librdkafka often reports a refused topic as _STATE
            end_app(app, lost_right(settings.broker, settings.topics, config) or exc)
        except Exception as exc:
            end_app(app, exc)

    @app.task
    async def watch() -> None:
        async def check() -> None:
            cycles.check_rejoined(3 * settings.session_timeout_s)
            cycles.thread.check()

        await watch_group(app, check)

    @app.on_before_shutdown.connect
    async def stop(app: faust.App, **_: Any) -> None:
        await cycles.close()
        if not settings.stay_in_group:
            await leave_group(app)


def watch_topics(app: faust.App, watch: TopicWatch) -> None:
    """End the process if a topic is deleted, created again or gets more partitions.

    It leaves the group before. Else Kafka would give the next process under this id the assignment of this one, which
    may be none for a topic that is there again.
    """

    @app.task
    async def watch_topics() -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await asyncio.to_thread(watch.check)
            except ConfigError as exc:
                await leave_group(app)
                end_app(app, exc)


def end_when_drained(app: faust.App, cycles: Cycles, changelog: Changelog) -> None:
    """End as after SIGTERM when this worker has decided the clicks that were there when it got its partitions."""
    ends: dict[Partition, int] = {}

    @app.task
    async def end_when_drained() -> None:
        while True:
            await asyncio.sleep(CHECK_S)
            positions = dict(cycles.positions())
            new = [partition for partition in positions if partition not in ends]
            if new:
                found = await asyncio.to_thread(changelog.ends, new)
                ends.update({partition: high for partition, (_, high) in found.items()})
            if cycles.settled and all(next_ >= ends[partition] for partition, next_ in positions.items()):
                log.info("drained: partitions=[%s]", ", ".join(map(str, sorted(positions))))
                signal.raise_signal(signal.SIGTERM)
                return


def rekey(app: faust.App, rekeying: Rekeying) -> None:
    """Copy the clicks to the topic that is keyed by the user while the app runs. An error ends the process."""

    @app.task
    async def rekey() -> None:
        try:
            await rekeying.run()
        except Exception as exc:
            end_app(app, exc)

    @app.on_before_shutdown.connect
    async def stop_rekeying(app: faust.App, **_: Any) -> None:
        await rekeying.close()


def serve_http(settings: Settings, display: Display, desk: Desk) -> None:
    """Open the HTTP port until the process ends. Raises ConfigError if it is taken, or if the token cannot be read."""
    token = read_token(settings.http_token_file)
    answers = answer_routes(desk, token, display) if settings.http_answers else no_routes()
    ours = [*worker_routes(display.meter, display.health), *page_routes(display)]
    Server(listen(settings.http_host, settings.http_port), [*ours, *answers])
    warn_of_readers(settings)


def answer_requests(
    app: faust.App,
    desk: Desk,
    cycles: Cycles,
    engine: Engine,
    codec: Codec,
    keys: KeySample,
    settings: Settings,
    source: str,
    config: KafkaConfig,
    watch: KafkaWatch,
) -> None:
    """Let `desk` answer for this worker from now on.

    keys    a sample of the clicks' keys, which shows the producers' partitioner
    source  the topic that the producers write, where a request to forget comes after all earlier clicks of a user
    """
    partitioner = Partitioner(keys.partitions)
    admin, clicks = Admin(settings.broker, config), settings.topics.clicks

    def forget(key: bytes) -> int:
        return request_to_forget(settings.broker, source, config, [key])

    desk.open = Open(
        Users(engine, cycles.positions),
        codec,
        partitioner,
        Workers(admin, settings.group, clicks, app.conf.broker_client_id, app.conf.consumer_group_instance_id),
        Similar(engine.model, Path(settings.model)),
        lambda: watch.out,
        settings.k,
        forget,
    )

    @app.task
    async def learn_partitioner() -> None:
        while True:
            partitioner.note(keys.verdict())
            await asyncio.sleep(LEARN_S)


def report_health(app: faust.App, cycles: Cycles, health: Health) -> None:
    """Let `health` answer for this worker from now on."""

    def doing() -> Doing:
        now = cycles.doing()
        return now._replace(phase="stopping") if asked_to_end(app) else now

    health.doing = doing


def report_status(
    app: faust.App,
    cycles: Cycles,
    status: Status,
    observed: Observed,
    display: Display,
    rekeying: Rekeying | None,
) -> None:
    """Log the status, and note the figures for `display`, while the app runs."""

    def lag() -> int:
        waiting = observed.standing(cycles.positions(), high_watermarks(app))
        waiting += 0 if rekeying is None else rekeying.lag()
        display.note()  # the levels are set
        return waiting

    @app.task
    async def log_status() -> None:
        await report(status, lag)
