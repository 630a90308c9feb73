"""What a training runs with: the settings, which are derived from the log, and the device."""

from dataclasses import dataclass

import numpy as np
import torch

from stream.errors import ConfigError

UNITS = ((500_000, 256), (100_000, 192), (20_000, 128), (5_000, 64), (0, 32))
"""From how many clicks on how many units of state."""


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
