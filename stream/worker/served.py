"""A model directory -> the engine that serves it."""

from pathlib import Path

from stream.detect.surprise import SurpriseDetector
from stream.engine.engine import Engine
from stream.model.runtime import Model
from stream.settings import RECENT_ITEMS, Rules
from stream.state.arena import Arena
from stream.state.row import row_dtype, row_mark

NO_RULES = Rules()


def open_engine(
    model: Model, directory: Path, k: int, exclude_recent: int, alpha: float, rules: Rules = NO_RULES
) -> Engine:
    """An engine for a loaded model, with its calibration and an empty arena.

    Raises ArtifactError on a calibration, ConfigError on a catalogue that cannot be used.
    """
    manifest = model.manifest
    detector = SurpriseDetector.load(directory, manifest, alpha)
    dtype = row_dtype(manifest.state, RECENT_ITEMS)
    return Engine(model, detector, Arena(dtype, row_mark(manifest.identity, dtype)), k, exclude_recent, rules)
