"""Builds a worker from its settings: model, engine, producer, changelog and a Faust app.

The app has one agent, which passes the clicks to the cycles. `eddy worker` calls `run_worker`.
`faust -A stream.worker.app worker` reads the attribute `app` of this module, and only then `app` is built from the
EDDY_* variables: importing the module reads, opens and registers nothing. Everything that can be checked is checked
before Faust starts, and an error is one line.
"""

import asyncio
import faulthandler
import logging
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import faust
import msgspec
from mode.supervisors import CrashingSupervisor

from stream.access.begin import begin
from stream.access.credentials import faust_options
from stream.access.place import INSTANCE, WorkerLock, client_id, hold_id, make_directory, wait_for_place
from stream.access.refusal import Admin
from stream.answers.desk import Desk
from stream.answers.workers import advertised
from stream.environment import FAUST_PREFIX, check_unknown, from_environment
from stream.errors import EddyError
from stream.kafka.changelog import Changelog
from stream.kafka.consumer.fetch import OFFSET_RESET
from stream.kafka.consumer.held import report_held
from stream.kafka.consumer.transport import BatchTopic, BatchTransport
from stream.kafka.delivery import Delivery
from stream.kafka.leaders import Targets
from stream.kafka.waiting import watch_kafka
from stream.kafka.watchdog import (
    EXIT_OPERATOR,
    EXIT_WORKER,
    Brief,
    NoCoordinatorYet,
    Repeats,
    asked_to_end,
    end_app,
)
from stream.kafka_config import KafkaConfig, read_kafka_config
from stream.log_lines import log_to_stderr
from stream.mapping.decoding import open_decoding
from stream.meter import Meter
from stream.model.runtime import load_model
from stream.process import limit_arenas, tune_interpreter, use_uvloop
from stream.rekey.open import open_rekeying
from stream.rekey.topic import rekeyed
from stream.settings import Settings
from stream.state.event_ids import LONGEST_BYTES
from stream.web.display import Display
from stream.web.health import Health
from stream.wire.dead_letter import LONGEST_KEY
from stream.worker.checks import check_cluster, check_rows
from stream.worker.cycles.cycle import Cycles
from stream.worker.cycles.size import CycleSize
from stream.worker.hooks import (
    WithoutWeb,
    answer_requests,
    connect,
    end_when_drained,
    rekey,
    report_health,
    report_status,
    serve_http,
    watch_topics,
)
from stream.worker.observe import Observed
from stream.worker.served import engine_of
from stream.worker.start_warnings import warn_at_start
from stream.worker.status import Status
from stream.worker.topic_watch import TopicWatch

CHUNK_RECORDS = 2_000

HEARTBEAT_S = 0.15
"""How long a worker may take to notice a rebalance. Everybody waits for the last one; Kafka's default is 3 s."""

REBALANCE_S = 60.0
"""How long the group waits at a rebalance for the running cycle of a worker that sends heartbeats. A cycle takes a
fraction of it, unless the machine is very slow, or a rule looks at the states of very many users."""

log = logging.getLogger(__name__)


def create_app(settings: Settings) -> faust.App:
    """Build a Faust app that is ready to start. It loads the model and checks the broker and the topics.

    Raises ArtifactError or ConfigError, each with one line that names the remedy.
    """
    meter, health, desk = Meter(), Health(), Desk()
    display = Display(meter, health, settings.http_answers, bool(settings.topics.behaviour))
    if settings.http_port:  # first, so that it answers while the rest waits for Kafka
        serve_http(settings, display, desk)
    config = read_kafka_config(settings.kafka_config, os.environ)
    model = load_model(Path(settings.model), settings.device)
    display.model(model.manifest, Path(settings.model))
    decoding = open_decoding(settings, model.manifest, config, meter)
    source = settings.topics.clicks  # what the producers write; the worker reads it, or its re-keyed copy
    if decoding.rekey is not None:
        settings = msgspec.structs.replace(settings, topics=rekeyed(settings.topics))
    settings = msgspec.structs.replace(settings, topics=settings.topics.used(settings.triggers))
    engine = engine_of(settings, model, decoding.users_mark)
    warn_at_start(engine, settings)
    longest_row = engine.arena.dtype.itemsize + LONGEST_BYTES + LONGEST_KEY
    health.kafka = watch = watch_kafka(settings.broker, settings.topics.clicks, config)
    carries = decoding.anonymous is not None
    watch.wait()
    make_directory(Path(settings.data_dir))
    lock = None if settings.worker_id else WorkerLock(Path(settings.data_dir))
    worker_id = lock.worker_id if lock else settings.worker_id
    other = hold_id(Path(settings.data_dir), settings.group, worker_id)
    admin, instance_id = Admin(settings.broker, config), f"{INSTANCE}{worker_id}"
    wait_for_place(admin, settings.group, instance_id, settings.session_timeout_s, other)
    partitions, limits = check_cluster(settings, source, worker_id, config, watch, longest_row, carries)
    rekeyed_from = "" if decoding.rekey is None else source
    topic_watch = TopicWatch(settings.broker, settings.topics, config, rekeyed_from)
    alpha, users = settings.nominal_rate(), decoding.users
    observed = Observed(
        meter, model, engine.arena, partitions, users, alpha=alpha, alerts=display.alerts, hours=display.hours
    )
    observed.about(settings.group, worker_id)
    observed.unused = decoding.unused
    observed.rules(engine.triggers.rules)
    observed.trace(settings, worker_id)
    changelog = Changelog(settings.broker, settings.group, settings.topics.changelog, config, watch)
    transactional_id, timeout_s = f"{settings.group}:{worker_id}", settings.session_timeout_s
    targets = Targets(limits, lambda: admin)
    delivery = Delivery(settings.broker, transactional_id, timeout_s, settings.hang_s, limits, config, watch, targets)
    cycles = Cycles(
        engine,
        decoding.codec,
        delivery,
        changelog,
        settings.topics,
        limits,
        CycleSize(settings.max_cycle_clicks, timeout_s),
        observe=observed.committed,
        watch=watch,
        begin_at=begin(settings.broker, config, settings.topics.recommendations, settings.start_at),
        meter=meter,
        carries=carries,
    )
    app = _faust_app(settings, worker_id, config, health)
    app.eddy_lock = lock  # it must live as long as the app
    report_health(app, cycles, health)
    logging.getLogger("aiokafka.consumer.group_coordinator").addFilter(NoCoordinatorYet())
    app.transport = BatchTransport(app.conf.broker_consumer, app, cycles.release, cycles.positions, watch)
    connect(app, cycles, settings, worker_id, config, partitions)
    watch_topics(app, topic_watch)
    if settings.http_answers:
        answer_requests(app, desk, cycles, engine, decoding.codec, observed.key_sample, settings, source, config, watch)
    if settings.drain:
        end_when_drained(app, cycles, changelog)
    key_sample, examples, event_types = observed.key_sample, observed.examples, model.manifest.event_types
    rekeying = None
    if decoding.rekey is not None and not settings.drain:
        of_source = source, worker_id, limits[settings.topics.clicks], decoding.rekey
        rekeying = open_rekeying(settings, *of_source, config, watch, meter, decoding.anonymous)
        rekey(app, rekeying)
    status = Status(meter, key_sample, examples, settings.topics, event_types, time.monotonic())
    report_status(app, cycles, status, observed, display, rekeying)
    report_held(app, lambda: watch.answered_s)
    watch.start(partial(end_app, app))
    check_rows(changelog, engine.arena, settings.topics.clicks, partitions, watch)
    topics = settings.topics
    log.info(
        "worker ready to join: model=%s mapping=%s provider=%s items=%d broker=%s group=%s worker_id=%s clicks=%s "
        "partitions=%d recommendations=%s anomalies=%s system_alerts=%s dead_letters=%s changelog=%s triggers=%s "
        "behaviour=%s",
        *(model.manifest.label, decoding.mapping, model.provider, len(model.items)),
        *(settings.broker, settings.group, worker_id, topics.clicks, partitions, topics.recommendations),
        *(topics.anomalies, topics.system_alerts, topics.dead_letters, topics.changelog, topics.triggers or "-"),
        topics.behaviour or "-",
    )
    return app


def _faust_app(settings: Settings, worker_id: str, config: KafkaConfig, health: Health) -> faust.App:
    session_s, address = settings.session_timeout_s, ""
    if settings.http_answers:
        address = advertised(settings.http_advertise, settings.http_host, settings.http_port)
    app = faust.App(
        settings.group,
        broker=[f"aiokafka://{address.strip()}" for address in settings.broker.split(",")],
        broker_client_id=client_id(worker_id, address),
        consumer_group_instance_id=f"{INSTANCE}{worker_id}",  # a restart causes no rebalance
        broker_session_timeout=session_s,
        broker_rebalance_timeout=max(REBALANCE_S, session_s),
        broker_heartbeat_interval=HEARTBEAT_S,
        broker_request_timeout=max(20.0, session_s * 1.5),
        broker_max_poll_records=min(CHUNK_RECORDS, settings.max_cycle_clicks),
        producer_request_timeout=30.0,  # with the default, a stop could take 20 minutes
        consumer_auto_offset_reset=OFFSET_RESET,
        stream_wait_empty=True,
        stream_buffer_maxsize=16_384,
        stream_recovery_delay=0.0,
        agent_supervisor=CrashingSupervisor,  # a restart of the agent alone would skip the clicks that it had taken
        topic_disable_leader=True,
        topic_allow_declare=False,
        Worker=WithoutWeb,
        datadir=settings.data_dir,
        env_prefix=FAUST_PREFIX,  # else Faust reads variables such as BROKER_URL
        Topic=BatchTopic,
        **faust_options(config),
    )
    app.eddy_health, app.eddy_log_format = health, settings.log_format  # for WithoutWeb
    app.boot_strategy.enable_kafka_producer = False  # delivery.py writes; Faust's would end the worker in an outage
    return app


def run_worker(settings: Settings) -> int:
    """Run a worker until SIGTERM or SIGINT and return its exit code: 0 after a clean end, 70 after a crash.

    Raises ArtifactError or ConfigError before Faust starts.
    """
    log_to_stderr(settings.log_format)
    faulthandler.enable()  # a crash in a native library then shows where each thread was
    for handler in logging.getLogger().handlers:
        handler.addFilter(Repeats("aiokafka"))
        handler.addFilter(Repeats("stream.worker.cycles.batch"))  # it could log 20 times a second, once per cycle
        handler.addFilter(Repeats("stream.worker.cycles.size"))  # cycles go up and down where Kafka has a quota
    logging.getLogger("stream").setLevel(logging.INFO)
    for name in ("stream.kafka.consumer.transport", "stream.kafka.consumer.fetch"):
        logging.getLogger(name).setLevel(logging.WARNING)  # Faust's services log there that they start and stop
    use_uvloop()
    limit_arenas()
    tune_interpreter()
    app = create_app(settings)
    for handler in logging.getLogger().handlers:
        handler.addFilter(Brief(app.transport.watch))
    worker = WithoutWeb(app, loglevel=logging.WARNING, quiet=True, redirect_stdouts=False, override_logging=False)
    worker.spinner = None  # the spinner would write control characters to a log file
    try:
        worker.execute_from_commandline()
    except SystemExit as exc:
        return EXIT_WORKER if exc.code and not asked_to_end(app) else 0  # Faust's code for a crash is 1: here a bug
    except KeyboardInterrupt:  # a second Ctrl-C, after the event loop was closed
        return 0
    except (Exception, asyncio.CancelledError) as exc:
        if asked_to_end(app):  # what Faust cancels in a rebalance or an outage is left to the next worker
            log.warning("the worker was asked to end and could not stop in order: %s: %s", type(exc).__name__, exc)
            return 0
        log.exception("worker crashed")
        return EXIT_WORKER
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)  # the process ends: another one would only print a traceback
    return 0


def __getattr__(name: str) -> Any:
    """Build `app` when Faust's command line reads it."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        for line in check_unknown(os.environ):
            print(f"eddy: WARNING: {line}", file=sys.stderr)
        app = create_app(from_environment(os.environ))
    except EddyError as exc:
        print(f"eddy: {exc}", file=sys.stderr)
        raise SystemExit(EXIT_OPERATOR) from exc
    globals()["app"] = app
    return app
