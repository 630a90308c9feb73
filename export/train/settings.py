"""Training settings: defaults derived from the log, and the device."""

from dataclasses import dataclass

import numpy as np
import torch

from stream.errors import ConfigError

UNITS = ((500_000, 256), (100_000, 192), (20_000, 128), (5_000, 64), (0, 32))
"""(minimum clicks of the log, units of state), largest log first."""


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
    cell       one of cells.names.CELLS, `--network`
    intent_event  event type whose later occurrence in a session is predicted, `--intent-event`
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
    intent_event: str = "purchase"
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
