"""settings.json: training settings that someone chose, `eddy tune` or a person -> what `eddy train --settings` takes.

    {"settings": {"hidden": 96, "rate": 0.004, ...}, ...}

Only fields of TrainSettings may stand there; one that is left out is derived from the log as always. Seed and
device are no settings: the same ones must do with any.
"""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

from export.network.cells import CELLS
from export.train.trainer import TrainSettings
from stream.errors import ConfigError

RANGES: dict[str, tuple[float, float]] = {
    "hidden": (4, 1024),
    "epochs": (1, 1000),
    "tokens": (16, 1_000_000),
    "negatives": (1, 1_000_000),
    "alpha": (0.0, 1.0),
    "dropout": (0.0, 0.95),
    "rate": (1e-6, 1.0),
    "row_rate": (1e-6, 10.0),
}


def read_settings(path: Path) -> dict[str, Any]:
    """The settings of a file by their names in TrainSettings. Raises ConfigError with what is wrong and what may be."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as exc:
        raise ConfigError(f"settings {path}: cannot be read ({exc.strerror}); write it with `eddy tune`") from exc
    except ValueError as exc:
        raise ConfigError(f"settings {path}: not JSON ({exc}); write it with `eddy tune`") from exc
    given = content.get("settings") if isinstance(content, dict) else None
    if not isinstance(given, dict):
        raise ConfigError(f'settings {path}: no object "settings" in it; write it with `eddy tune`')
    types = get_type_hints(TrainSettings)
    known = [field.name for field in fields(TrainSettings) if field.name not in ("seed", "device")]
    return {name: _checked(path, name, value, types, known) for name, value in given.items()}


def _checked(path: Path, name: str, value: object, types: dict[str, Any], known: list[str]) -> object:
    if name not in known:
        raise ConfigError(f"settings {path}: {name!r} is no setting of the training; there are {', '.join(known)}")
    try:
        right = msgspec.convert(value, types[name])
    except msgspec.ValidationError as exc:
        raise ConfigError(f"settings {path}: {name} is {value!r} ({exc})") from exc
    low, high = RANGES.get(name, (-float("inf"), float("inf")))
    if name in RANGES and not low <= right <= high:
        raise ConfigError(f"settings {path}: {name} is {value!r}; it must be between {low:g} and {high:g}")
    if name == "cell" and right not in CELLS:
        raise ConfigError(f"settings {path}: cell is {value!r}; it must be one of {', '.join(CELLS)}")
    return right
