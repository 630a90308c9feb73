"""What a training has come to after each epoch -> a file beside the model's place, from which `--resume` goes on.

A training goes on to the very result it would have had: the file holds the weights, the optimizers' moments, every
random generator and the best network so far. It is written under another name and then renamed, so that a crash while
writing leaves the one before. It is refused where clicks, settings or PyTorch are not those it was made with.
"""

import contextlib
import hashlib
import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from export.arrays import I64
from export.log.log import Log
from stream.errors import ConfigError

NAMES = ("held-out.pt", "whole.pt")
"""One file for each of the two passes over a log."""


def training_place(model: Path) -> Path:
    """Where the checkpoints of a training lie: OUT.training, beside the model that it will write at OUT."""
    return model.with_name(f"{model.name}.training")


def training_key(log: Log, category: I64, settings: dict[str, Any], older: int | None) -> str:
    """What must be equal for a training to go on: clicks, settings, PyTorch, and the model it started from.

    category  (V,) of each item
    older     its Manifest.identity, if it started from one
    """
    clicks = hashlib.sha256()
    for column in (log.user, log.item, log.event_type, log.session, log.time_ms, category):
        clicks.update(np.ascontiguousarray(column).data)
    clicks.update("\n".join(log.items).encode())
    return json.dumps([clicks.hexdigest(), settings, torch.__version__, older])


class Checkpoint:
    """One file of a training; `load` gives what the last `save` took, once the training is resumed."""

    def __init__(self, path: Path, key: str, resume: bool) -> None:
        self._path, self._key = path, key
        if not resume:
            path.unlink(missing_ok=True)

    def load(self) -> dict[str, Any] | None:
        """Tensors, numbers and texts by name, or None where nothing was saved. Raises ConfigError if not for us."""
        if not self._path.is_file():
            return None
        try:
            content: dict[str, Any] = torch.load(self._path, weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as exc:
            raise ConfigError(f"checkpoint {self._path}: cannot be read; train without --resume") from exc
        if content.pop("key", None) != self._key:
            raise ConfigError(
                f"checkpoint {self._path}: it is of other clicks, settings or another PyTorch; train without --resume"
            )
        return content

    def save(self, content: dict[str, Any]) -> None:
        """Replace the file by one of this content. Raises OSError, which leaves the one before."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self._path.with_suffix(".unfinished")
        with unfinished.open("wb") as file:
            torch.save({**content, "key": self._key}, file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(self._path)


def remove_checkpoints(place: Path) -> None:
    """The model is written: what it was made from is not needed any more."""
    for name in NAMES:
        (place / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # there is none, or someone keeps other files there
        place.rmdir()
