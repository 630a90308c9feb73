"""Steps -> decisions: the top k of every user's new state, and an alert for each click that was too unlikely."""

from collections.abc import Sequence

import numpy as np

from stream.detect.surprise import SurpriseDetector, Verdicts
from stream.engine.step import Steps
from stream.events import Anomaly, Click, Origin, Recommendation
from stream.lists.top import Lists, top_items
from stream.model.runtime import Model
from stream.wire import output

EXPECTED_ITEMS = 3


def recommendations(
    model: Model,
    clicks: Sequence[Click],
    origins: Sequence[Origin],
    steps: Steps,
    verdicts: Verdicts,
    lists: Lists,
) -> list[Recommendation]:
    """One decision per click, in the clicks' order."""
    return output.recommendations(
        model.items,
        model.manifest.label,
        clicks,
        origins,
        lists.items,
        lists.log_probs,
        lists.counts,
        lists.propensities,
        lists.explored,
        steps.surprise,
        verdicts.p_value,
    )


def anomalies(
    model: Model,
    detector: SurpriseDetector,
    clicks: Sequence[Click],
    origins: Sequence[Origin],
    steps: Steps,
    verdicts: Verdicts,
) -> list[Anomaly]:
    """An alert for each anomalous click, with what was expected of the state before it."""
    which = np.flatnonzero(verdicts.anomalous).tolist()
    none_left_out = np.empty((len(which), 0), np.int32)
    likely = top_items(model, [value[which] for value in steps.before], none_left_out, EXPECTED_ITEMS)
    calibration = detector.calibration
    return output.anomalies(
        model.items,
        model.manifest.label,
        [clicks[i] for i in which],
        [origins[i] for i in which],
        steps.surprise[which],
        verdicts.p_value[which],
        [(calibration.names[pool], len(calibration.scores[pool])) for pool in verdicts.pool[which].tolist()],
        detector.alpha,
        likely.items,
        likely.log_probs,
    )
