"""What an operator should know of a model and the settings before the first click: lines of the log at the start."""

import logging
from collections.abc import Sequence

from stream.engine.engine import Engine
from stream.model.probe import batch_invariant
from stream.settings import Rules, Settings, words

log = logging.getLogger(__name__)


def warn_at_start(engine: Engine, settings: Settings) -> None:
    """Log what is unusual in an engine's model, and in the settings with this model."""
    if not batch_invariant(engine.model, settings.k):
        log.warning(
            "the last bits of a state may depend on the other clicks of its batch: provider=%s", engine.model.provider
        )
    smallest_rate, alpha = 1 / (1 + engine.judge.detector.held_out), settings.nominal_rate()
    if smallest_rate > alpha:
        log.warning(
            "the threshold of the alerts is extrapolated, because the model's calibration is small: smallest_rate=%.2g "
            "alpha=%.2g; train on more clicks or start with a larger --alpha",
            smallest_rate,
            alpha,
        )
    for setting, unknown in unknown_event_types(settings.rules, engine.model.manifest.event_types):
        log.warning(
            "a rule has event types that the model does not know: %s=%s known=%s; is one mistyped? The rule still "
            "applies to clicks of just these types",
            setting,
            ",".join(unknown),
            ",".join(engine.model.manifest.event_types),
        )


def unknown_event_types(rules: Rules, known: Sequence[str]) -> list[tuple[str, list[str]]]:
    """The settings of the rules that name event types, each with those that the model does not know, if any."""
    named = [(name, words(getattr(rules, name))) for name in ("exclude_events", "readmit_events")]
    found = [(name, [one for one in types if one not in known]) for name, types in named]
    return [(name, unknown) for name, unknown in found if unknown]
