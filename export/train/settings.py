"""What a training runs with: derived from the log, chosen in settings.json, and the device.

    {"settings": {"hidden": 96, "rate": 0.004, ...}, ...}

The file holds training settings that someone chose, `eddy tune` or a person; `eddy train --settings` takes it. Only
fields of TrainSettings may stand there; one that is left out is derived from the log as always. Seed and device are no
settings: the same ones must do with any.
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
"""From how many clicks on how many units of state."""

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
    """What a training runs with; `for_log` derives what the caller leaves open.

    hidden     units of state
    epochs     at most; the best one on the validation slice counts
    tokens     clicks per step
    negatives  items each step is contrasted with
    alpha      negatives are drawn with p ~ count^alpha
    dropout    of the cell's input and output
    rate       Adam's, of the cell, falling linearly to a twentieth
    row_rate   Adagrad's, of the item rows, falling likewise
    cell       one of cells.CELLS
    device     "cpu" or "cuda", where the rounds are run; chosen by choose_device
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
        """More clicks carry more units and need fewer rounds."""
        units = next(units for least, units in UNITS if clicks >= least)
        rounds = int(np.clip(5_000_000 // max(1, clicks), 6, 12))
        tokens = int(np.clip(clicks // 250, 64, 512))
        return cls(hidden=hidden or units, epochs=epochs or rounds, seed=seed, tokens=tokens)


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


def choose_device(asked: str) -> str:
    """One of the worker's DEVICES -> "cpu" or "cuda". Raises ConfigError if a GPU is asked for and torch sees none.

    Only the rounds over the log and their judging run there (epochs.py); heads, graphs and their checks stay on the
    CPU. On a GPU products are computed in TF32, its mixed precision for float32 tensors: factors of 10 bits, sums and
    weights of 23. An output is 16 long: in the 7 bits of bfloat16 its logits would be off by a tenth of a nat.
    """
    seen = torch.cuda.is_available()
    if asked == "cuda" and not seen:
        raise ConfigError(f"--device cuda: torch {torch.__version__} sees no GPU; leave it out to train on the CPU")
    if asked == "cpu" or not seen:
        return "cpu"
    torch.backends.cuda.matmul.allow_tf32 = True
    return "cuda"
