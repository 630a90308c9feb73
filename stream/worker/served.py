"""Opens the engine for a model directory, and converts decisions to the events that Eddy writes.

Scorer is the interface for Python programs: it uses an engine without Kafka.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import UNSET

from stream.ahead.forecast import foreseen, served_columns
from stream.ahead.forecast import row_fields as ahead_fields
from stream.detect.behaviour import BehaviourDetector
from stream.engine.engine import Cycle, Engine
from stream.errors import ArtifactError, ConfigError
from stream.events import Anomaly, Click, Origin, Recommendation, Session, SystemAlert
from stream.manifest import Manifest
from stream.model.runtime import Model, load_model
from stream.past.clicks import PAST
from stream.population.judge import Judge
from stream.population.watch import Population
from stream.sessions.alerts import end_alerts
from stream.sessions.track import session_fields
from stream.sessions.unusual import EndCalibration
from stream.settings import FORGET_AFTER_DAYS, RECENT_ITEMS, Rules, Settings
from stream.state.arena import Arena
from stream.state.blocks import NewBlock, in_ram, on_disk
from stream.state.evict import DAY_MS, Forgetting
from stream.state.row import row_dtype, row_mark
from stream.trigger import Trigger
from stream.triggers.memory import MEMORY
from stream.triggers.messages import messages
from stream.triggers.parse import open_triggers
from stream.triggers.rules import Rule
from stream.wire import output
from stream.wire.json import JsonCodec
from stream.wire.output import Foreseen

NO_RULES = Rules()

CLICKS_PER_CYCLE = 1_000
"""Clicks in one engine cycle of a Scorer. It limits memory: a cycle has the states and lists of all its clicks."""


def open_engine(
    model: Model,
    directory: Path,
    k: int,
    exclude_recent: int,
    alpha: float,
    rules: Rules = NO_RULES,
    forget_after_days: float = FORGET_AFTER_DAYS,
    users_mark: int = 0,
    lists: str = "every",
    new_block: NewBlock = in_ram,
    triggers: Sequence[Rule] = (),
    hours: bool = False,
) -> Engine:
    """Open an engine for a loaded model, with the model's calibration and an empty arena.

    The arguments after `directory` are described in Settings, but for these:
    users_mark  tells apart how users are named (Pseudonyms.mark); state rows with another mark are refused
    new_block   makes the memory of the states
    triggers    the shop's rules for marketing
    hours       count what the users do by the hour
    Raises ArtifactError if the calibration is not usable, ConfigError if the catalogue is not usable.
    """
    judge, ends = open_judge(directory, model.manifest, alpha)
    arena = Arena(*row_layout(model.manifest, judge, ends, users_mark), new_block)
    forgetting = Forgetting(int(forget_after_days * DAY_MS))
    return Engine(model, judge, arena, k, exclude_recent, rules, forgetting, lists, ends, triggers, hours)


def engine_of(settings: Settings, model: Model, users_mark: int) -> Engine:
    """Open the engine of a worker. model: as loaded. users_mark: as in `open_engine`, which says what it raises."""
    return open_engine(
        model,
        Path(settings.model),
        settings.k,
        settings.exclude_recent,
        settings.nominal_rate(),
        settings.rules,
        settings.forget_after_days,
        users_mark,
        settings.lists,
        on_disk(Path(settings.data_dir)) if settings.state_on_disk else in_ram,
        open_triggers(settings.triggers, model.manifest, settings.lists),
        bool(settings.topics.behaviour),
    )


def open_judge(directory: Path, manifest: Manifest, alpha: float) -> tuple[Judge, EndCalibration | None]:
    """Open what judges clicks, and ends of sessions, with a model directory.

    Raises ArtifactError if the calibration is not usable.
    """
    population = Population(manifest.items, len(manifest.event_types))
    detector = BehaviourDetector.load(directory, manifest)
    ends = EndCalibration.load(directory, manifest.items, detector.behaviour.combined)
    return Judge(detector, population, alpha), ends


def row_layout(
    manifest: Manifest, judge: Judge, ends: EndCalibration | None, users_mark: int = 0
) -> tuple[np.dtype[np.void], int]:
    """The dtype of the state rows of a model, and the mark that they have. users_mark: as in `open_engine`."""
    of_session = session_fields(len(manifest.event_types), ends, manifest.ahead is not UNSET)
    fields = (*judge.row_fields, *of_session, *ahead_fields(manifest), PAST, *MEMORY)
    dtype = row_dtype(manifest.state, RECENT_ITEMS, fields)
    return dtype, row_mark(manifest.identity ^ users_mark, dtype)


def recommendations(
    engine: Engine, clicks: Sequence[Click], origins: Sequence[Origin], cycle: Cycle
) -> list[Recommendation]:
    """Make the recommendations for the decided clicks of a cycle, in order. `clicks` and `origins` are its input."""
    decisions, lists, decided = cycle.decisions, cycle.decisions.lists, cycle.decided.tolist()
    return output.recommendations(
        engine.model.names,
        engine.model.manifest.label,
        [clicks[i] for i in decided],
        [origins[i] for i in decided],
        lists.items,
        lists.log_probs,
        lists.counts,
        lists.propensities,
        lists.explored,
        decisions.superseded_by,
        decisions.surprise,
        decisions.p_value,
        _foreseen(engine, cycle),
    )


def _foreseen(engine: Engine, cycle: Cycle) -> Iterable[Foreseen] | None:
    manifest = engine.model.manifest
    if cycle.forecast is None or manifest.ahead is UNSET:
        return None
    return foreseen(cycle.forecast, manifest.event_types, manifest.ahead)


def anomalies(engine: Engine, clicks: Sequence[Click], origins: Sequence[Origin], cycle: Cycle) -> list[Anomaly]:
    """Make the alerts of a cycle, on clicks and on ends of sessions, in the order in which they come.

    clicks, origins  the input of the cycle
    """
    alerts = cycle.decisions.alerts
    label, names = engine.model.manifest.label, engine.model.names
    of_ends, at = end_alerts(cycle.ended, engine.ends, names, label, engine.judge.alpha)
    if not alerts.rules and not of_ends:  # most batches of a live shop
        return []
    of_clicks = _of_clicks(engine, clicks, origins, cycle)
    order = np.argsort(np.append(at, cycle.decided[alerts.click]), kind="stable")  # of one click the ends come first
    events = of_ends + of_clicks
    return [events[i] for i in order.tolist()]


def _of_clicks(engine: Engine, clicks: Sequence[Click], origins: Sequence[Origin], cycle: Cycle) -> list[Anomaly]:
    decisions, alerts = cycle.decisions, cycle.decisions.alerts
    decided = cycle.decided[alerts.click].tolist()
    return output.anomalies(
        engine.model.names,
        engine.model.manifest.label,
        [clicks[i] for i in decided],
        [origins[i] for i in decided],
        decisions.surprise[alerts.click],
        decisions.p_value[alerts.click],
        alerts.rules,
        alerts.items,
        alerts.log_probs,
    )


def system_alerts(
    engine: Engine, clicks: Sequence[Click], origins: Sequence[Origin], cycle: Cycle
) -> list[SystemAlert]:
    """Make the alerts of a cycle on whole partitions. `clicks` and `origins` are the input of the cycle."""
    label, decided = engine.model.manifest.label, cycle.decided
    at = [int(decided[rule.click]) for rule in cycle.system]
    return [output.system_alert(label, clicks[i], origins[i], rule) for i, rule in zip(at, cycle.system, strict=True)]


def sessions(engine: Engine, clicks: Sequence[Click], origins: Sequence[Origin], cycle: Cycle) -> list[Session]:
    """Make the begins and ends of sessions of a cycle, in their order. `clicks` and `origins` are its input."""
    manifest, ended = engine.model.manifest, cycle.ended
    users, partitions = [user.decode() for _, user in ended.owners], [partition for partition, _ in ended.owners]
    summary = ended.sessions.summary
    closed = output.closed_sessions(
        manifest.label,
        manifest.event_types,
        users,
        partitions,
        ended.sessions.columns(),
        None if ended.sessions.ending is None else np.exp(-ended.sessions.ending.nats.astype(np.float64)),
        served_columns(ended.sessions.forecast, manifest.ahead),
        [] if summary is None else summary.told(manifest.event_types, ended.sessions.types),
    )
    opened = [
        output.opened_session(manifest.label, clicks[i], origins[i], clicks[i].event_type in manifest.event_types)
        for i in cycle.opened.tolist()
    ]
    order = np.argsort(np.append(ended.click, cycle.opened), kind="stable")  # of one click the ends come first
    events = closed + opened
    return [events[i] for i in order.tolist()]


def triggers(engine: Engine, clicks: Sequence[Click], cycle: Cycle) -> list[Trigger]:
    """Make the triggers of a cycle, in their order. clicks: the input of the cycle"""
    return messages(cycle.firings, engine.model.names, clicks, engine.model.manifest.label)


class Scorer:
    """Scores clicks. The score of a click depends on the user's earlier clicks. Not thread-safe.

    engine  stores the states of the users between the calls
    """

    def __init__(self, engine: Engine, codec: JsonCodec) -> None:
        self.engine = engine
        self._codec = codec
        self._encode = msgspec.json.Encoder(enc_hook=_plain).encode
        self._scored = 0

    def score(self, clicks: Iterable[Mapping[str, Any]]) -> list[Recommendation]:
        """Score clicks. Return one recommendation per click, in the order of the clicks; none for a repeated event_id.

        clicks   have the fields of a message on the clicks topic (user_id, item_id, timestamp, ...). The same rules
                 apply. The clicks of a user must be in the order of their times
        returns  the events that the worker would write to the recommendations topic. `id` has the number of the click,
                 counted over all calls
        Raises BadClick if a click is not valid; then no click of this call is scored. Raises ArtifactError if the
        model's result for a click is not finite.
        """
        now_ms = time.time_ns() // 1_000_000
        read = [self._read(click, now_ms) for click in clicks]
        parts = (read[start : start + CLICKS_PER_CYCLE] for start in range(0, len(read), CLICKS_PER_CYCLE))
        return [decision for part in parts for decision in self._decide(part, now_ms)]

    def _read(self, click: Mapping[str, Any], now_ms: int) -> Click:
        return self._codec.decode(str(click.get("user_id", "")).encode(), self._encode(click), now_ms)

    def _decide(self, clicks: list[Click], now_ms: int) -> list[Recommendation]:
        origins = [Origin("scored", 0, self._scored + i) for i in range(len(clicks))]
        cycle = self.engine.process(self.engine.encoder.columns(clicks, origins), now_ms)
        if len(cycle.failed):
            failed = clicks[cycle.failed[0]]
            raise ArtifactError(
                f"model {self.engine.model.manifest.label}: the result for a click on {failed.item_id} is not finite; "
                "train it again"
            )
        self.engine.commit(cycle)
        self._scored += len(clicks)
        return recommendations(self.engine, clicks, origins, cycle)


def load_scorer(
    directory: str | PathLike[str], k: int, exclude_recent: int, alpha: float, rules: Rules | None, device: str
) -> Scorer:
    """Implement `stream.load`, which documents the arguments. Raises ArtifactError or ConfigError."""
    path = Path(directory)
    if not alpha:  # a worker's setting of 0 means another setting
        raise ConfigError("alpha is 0; it must be between 1e-09 and 0.5")
    settings = Settings(
        model=str(path), k=k, exclude_recent=exclude_recent, alpha=alpha, rules=rules or NO_RULES, device=device
    )
    engine = open_engine(load_model(path, device), path, k, exclude_recent, alpha, settings.rules)
    return Scorer(engine, JsonCodec(settings.max_message_bytes, int(settings.max_future_s * 1000)))


def _plain(value: object) -> object:
    """Convert a NumPy number to a Python number, because msgspec does not encode NumPy numbers."""
    if isinstance(value, np.generic):
        return value.item()
    raise NotImplementedError
