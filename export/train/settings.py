"""Training settings: defaults derived from the log, overrides from a settings file, and the device.

    {"settings": {"hidden": 96, "rate": 0.004, ...}, ...}

`eddy tune` or a person writes the settings file, and `eddy train --settings` reads it. It may contain fields of
TrainSettings only; a field that is absent is derived from the log. Seed and device are not allowed in the file: a
settings file must work with every seed and on every device.
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import numpy as np
import torch

from export.network.cells import CELLS
from stream.errors import ConfigError

UNITS = ((500_000, 256), (100_000, 192), (20_000, 128), (5_000, 64), (0, 32))
"""(minimum clicks of the log, units of state), largest log first."""

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


@dataclass(frozen=True)
class TrainSettings:
    """The settings of one training; `for_log` derives defaults from the size of the log.

    hidden     units of state, H
    epochs     maximum; the best epoch on the held-out slice is kept
    seed       of all random generators
    tokens     clicks per training step
    negatives  negative items per training step, shared by all clicks of the step
    alpha      negatives are drawn with p ~ count^alpha
    dropout    dropout probability of the cell's input and output
    rate       Adam learning rate of the cell; it falls linearly to a twentieth
    row_rate   Adagrad learning rate of the item rows; it falls linearly to a twentieth
    cell       one of cells.CELLS
    device     "cpu" or "cuda", where the epochs are run; the result of choose_device
    """

    hidden: int
    epochs: int
    seed: int = 0
    tokens: int = 512
    negatives: int = 2048
    alpha: float = 0.5
    dropout: float = 0.4
    rate: float = 3e-3
    row_rate: float = 0.1
    cell: str = "lstm"
    device: str = "cpu"

    @classmethod
    def for_log(cls, clicks: int, hidden: int | None, epochs: int | None, seed: int) -> "TrainSettings":
        """Settings for a log of so many clicks: a larger log gets more units and fewer epochs.

        hidden, epochs  None = derived from the size of the log
        """
        units = next(units for least, units in UNITS if clicks >= least)
        rounds = int(np.clip(5_000_000 // max(1, clicks), 6, 12))
        tokens = int(np.clip(clicks // 250, 64, 512))
        return cls(hidden=hidden or units, epochs=epochs or rounds, seed=seed, tokens=tokens)


def read_settings(path: Path) -> dict[str, Any]:
    """The settings of a file, by their names in TrainSettings.

    Raises ConfigError with the reason and the allowed values if the file or a value is invalid.
    """
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
        raise ConfigError(f"settings {path}: {name!r} is not a training setting; the settings are {', '.join(known)}")
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


def choose_device(asked: str) -> str:
    """One of the worker's DEVICES -> "cpu" or "cuda".

    Only the training epochs and their evaluation run on the device (epochs.py); fitting the heads, writing the graphs
    and checking them run on the CPU. On a GPU this function enables TF32 for matrix products: the factors have 10 bits
    of mantissa, sums and weights 23. Outputs have length 16, so the 7 bits of bfloat16 would change logits by a tenth
    of a nat.

    Raises ConfigError for "cuda" if torch sees no GPU.
    """
    seen = torch.cuda.is_available()
    if asked == "cuda" and not seen:
        raise ConfigError(f"--device cuda: torch {torch.__version__} sees no GPU; leave it out to train on the CPU")
    if asked == "cpu" or not seen:
        return "cpu"
    torch.backends.cuda.matmul.allow_tf32 = True
    return "cuda"
