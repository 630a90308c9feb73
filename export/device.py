"""Where the network is trained: what `--device` says -> the name of a device that torch sees.

Only the rounds over the log and their judging run there (epochs.py); heads, graphs and their checks stay on the CPU. On
a GPU products are computed in TF32, its mixed precision for float32 tensors: factors of 10 bits, sums and weights of
23. An output is 16 long: in the 7 bits of bfloat16 its logits would be off by a tenth of a nat.
"""

import torch

from stream.errors import ConfigError

DEVICES = ("auto", "cpu", "cuda")


def choose_device(asked: str) -> str:
    """One of DEVICES -> "cpu" or "cuda". Raises ConfigError if a GPU is asked for and torch sees none."""
    seen = torch.cuda.is_available()
    if asked == "cuda" and not seen:
        raise ConfigError(f"--device cuda: torch {torch.__version__} sees no GPU; leave it out to train on the CPU")
    if asked == "cpu" or not seen:
        return "cpu"
    torch.backends.cuda.matmul.allow_tf32 = True
    return "cuda"
