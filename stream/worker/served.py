"""A model directory -> the engine that serves it, and its decisions -> the events that Eddy writes."""

from collections.abc import Sequence
from pathlib import Path

from stream.detect.surprise import SurpriseDetector
from stream.engine.engine import Cycle, Engine
from stream.events import Anomaly, Click, Origin, Recommendation
from stream.model.runtime import Model
from stream.settings import FORGET_AFTER_DAYS, RECENT_ITEMS, Rules
from stream.state.arena import Arena
from stream.state.evict import DAY_MS, Forgetting
from stream.state.row import row_dtype, row_mark
from stream.wire import output

NO_RULES = Rules()


def open_engine(
    model: Model,
    directory: Path,
    k: int,
    exclude_recent: int,
    alpha: float,
    rules: Rules = NO_RULES,
    forget_after_days: float = FORGET_AFTER_DAYS,
) -> Engine:
    """An engine for a loaded model, with its calibration and an empty arena. The settings are those of Settings.

    Raises ArtifactError on a calibration, ConfigError on a catalogue that cannot be used.
    """
    manifest = model.manifest
    detector = SurpriseDetector.load(directory, manifest, alpha)
    dtype = row_dtype(manifest.state, RECENT_ITEMS, detector.row_fields)
    arena = Arena(dtype, row_mark(manifest.identity, dtype))
    return Engine(model, detector, arena, k, exclude_recent, rules, Forgetting(int(forget_after_days * DAY_MS)))


def recommendations(
    engine: Engine, clicks: Sequence[Click], origins: Sequence[Origin], cycle: Cycle
) -> list[Recommendation]:
    """One per decided click of the batch that the cycle was made of, in order."""
    decisions, lists, decided = cycle.decisions, cycle.decisions.lists, cycle.decided.tolist()
    return output.recommendations(
        engine.model.items,
        engine.model.manifest.label,
        [clicks[i] for i in decided],
        [origins[i] for i in decided],
        lists.items,
        lists.log_probs,
        lists.counts,
        lists.propensities,
        lists.explored,
        decisions.surprise,
        decisions.p_value,
    )


def anomalies(engine: Engine, clicks: Sequence[Click], origins: Sequence[Origin], cycle: Cycle) -> list[Anomaly]:
    """The alerts among the decided clicks of the batch that the cycle was made of, in order."""
    decisions, alerts = cycle.decisions, cycle.decisions.alerts
    decided = cycle.decided[alerts.click].tolist()
    return output.anomalies(
        engine.model.items,
        engine.model.manifest.label,
        [clicks[i] for i in decided],
        [origins[i] for i in decided],
        decisions.surprise[alerts.click],
        decisions.p_value[alerts.click],
        alerts.rules,
        alerts.items,
        alerts.log_probs,
    )
