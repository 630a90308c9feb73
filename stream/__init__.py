"""Python interface of Eddy. `load` returns a model that scores clicks without Kafka.

Importing this module is cheap: it imports no other module of Eddy.
"""

from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stream.settings import Rules
    from stream.worker.served import Scorer

DISTRIBUTION = "eddy-stream"
"""Name of Eddy's distribution on PyPI, where the name `eddy` belongs to another project."""


def load(
    directory: str | PathLike[str],
    *,
    k: int = 20,
    exclude_recent: int = 1,
    alpha: float = 0.0001,
    rules: "Rules | None" = None,
    device: str = "auto",
) -> "Scorer":
    """Load a model directory and return an object that scores clicks.

    It uses the same engine and the same defaults as the worker.

    directory       model directory that `eddy train` wrote, .../NAME/VERSION
    k               number of recommendations for each click
    exclude_recent  the items of a user's last N clicks are not recommended
    alpha           a click with a p-value of at most alpha is unusual: the nominal share of sessions with such a click
    rules           the shop's rules for the lists; None = no rules
    device          auto, cpu or cuda
    Raises ArtifactError if the model is incomplete or invalid, ConfigError if a setting is invalid.
    """
    from stream.worker.served import load_scorer

    return load_scorer(directory, k, exclude_recent, alpha, rules, device)
