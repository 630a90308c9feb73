"""Training checkpoints: the state of a training after each epoch -> a file from which `eddy train --resume` continues.

A resumed training gives the same bits as an uninterrupted one. A checkpoint therefore contains the weights, the
optimizer moments, the state of every random generator and the best network so far. `save` writes a temporary file and
renames it: after a crash during the write, the previous checkpoint is intact. `load` rejects a checkpoint that was made
with other clicks, other settings or another PyTorch version.
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
"""File names of the two training passes: before the held-out slice, and over the whole log."""


def checkpoint_directory(model: Path) -> Path:
    """The directory of the checkpoints of a training that writes its model to OUT: OUT.training."""
    return model.with_name(f"{model.name}.training")


def training_key(log: Log, category: I64, settings: dict[str, Any], older: int | None) -> str:
    """JSON text that identifies a training: two trainings with the same key give the same model.

    It covers the clicks, the settings, the PyTorch version and the model that the training starts from.

    category  (V,) int64, category of each item
    older     Manifest.identity of the model that the training starts from; None = random initial weights
    """
    clicks = hashlib.sha256()
    for column in (log.user, log.item, log.event_type, log.session, log.time_ms, category):
        clicks.update(np.ascontiguousarray(column).data)
    clicks.update("\n".join(log.items).encode())
    return json.dumps([clicks.hexdigest(), settings, torch.__version__, older])


class Checkpoint:
    """One checkpoint file of a training. Without `resume`, an existing file is deleted, so `load` returns None."""

    def __init__(self, path: Path, key: str, resume: bool) -> None:
        self._path, self._key = path, key
        if not resume:
            path.unlink(missing_ok=True)

    def load(self) -> dict[str, Any] | None:
        """The content of the last `save` (tensors, numbers and texts by name); None if there is no file.

        Raises ConfigError if the file cannot be read or its key differs.
        """
        if not self._path.is_file():
            return None
        try:
            content: dict[str, Any] = torch.load(self._path, weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as exc:
            raise ConfigError(f"checkpoint {self._path}: cannot be read; train without --resume") from exc
        if content.pop("key", None) != self._key:
            raise ConfigError(
                f"checkpoint {self._path}: it was made with other clicks, other settings or another PyTorch version; "
                "train without --resume"
            )
        return content

    def save(self, content: dict[str, Any]) -> None:
        """Replace the file. Raises OSError if it cannot be written; the previous file is then intact."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self._path.with_suffix(".unfinished")
        with unfinished.open("wb") as file:
            torch.save({**content, "key": self._key}, file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(self._path)


def remove_checkpoints(directory: Path) -> None:
    """Delete the checkpoints of a training whose model is written, and their directory if it is then empty."""
    for name in NAMES:
        (directory / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # the directory does not exist, or it contains files of the user
        directory.rmdir()
