"""Eddy from Python: `load` gives a model that scores clicks without Kafka. Importing this module imports no other."""

from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stream.settings import Rules
    from stream.worker.served import Scorer

DISTRIBUTION = "eddy-stream"
"""Eddy's name on PyPI, where `eddy` is another project; `importlib.metadata.version` of it is Eddy's version."""


def load(
    directory: str | PathLike[str],
    *,
    k: int = 20,
    exclude_recent: int = 1,
    alpha: float = 0.001,
    rules: "Rules | None" = None,
    device: str = "auto",
) -> "Scorer":
    """A model directory as an object that scores clicks: the worker's own engine, with its settings and defaults.

    directory       written by `eddy train`, .../NAME/VERSION
    k               recommendations for each click
    exclude_recent  the items of a user's last so many clicks are not recommended
    alpha           a click with a p-value at or below is an anomaly
    rules           a `stream.settings.Rules`
    device          auto, cpu or cuda
    Raises ArtifactError if the directory is not a whole model, ConfigError for a setting that cannot work.
    """
    from stream.worker.served import load_scorer

    return load_scorer(directory, k, exclude_recent, alpha, rules, device)
