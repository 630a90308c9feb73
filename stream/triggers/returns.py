"""The probability that the user returns within a week after a session, for rules with `returns_below`."""

import numpy as np
import numpy.typing as npt
from msgspec import UNSET

from stream.manifest import Manifest
from stream.sessions.track import Sessions


def predicts_returns(manifest: Manifest) -> bool:
    """Whether a model predicts it."""
    return manifest.ahead is not UNSET and manifest.ahead.returns


def returns(sessions: Sessions) -> npt.NDArray[np.float32] | None:
    """The probabilities (n,) that the users return after these sessions; None if the model does not predict it."""
    return None if sessions.forecast is None else sessions.forecast[:, 3]
