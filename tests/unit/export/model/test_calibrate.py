"""The pools of surprise that a model is calibrated with."""

import numpy as np

from export.dataset.windows import Clicks
from export.log.log import GAP_EDGES_MS, Vocabulary
from export.model.calibrate import pools
from stream.detect.pvalue import Calibration


def test_event_types_called_like_a_pool_are_judged_by_their_own_clicks() -> None:
    """With the event types `all` and `view/first` each click is still judged against clicks of its kind."""
    event_types = ("view", "all", "view/first")
    rows = 3000
    event_type = np.arange(rows, dtype=np.int32) // 10 % 3
    user = np.arange(rows, dtype=np.int32) // 10
    none = np.zeros(rows, np.int32)
    clicks = Clicks(none, event_type, none.astype(np.uint8), none - 1, none > 0, user, none.astype(np.int64))
    surprise = event_type.astype(np.float32) * 10 + np.arange(rows, dtype=np.float32) / rows
    vocabulary = Vocabulary(["i"], event_types, GAP_EDGES_MS)
    found = pools(surprise, clicks, np.ones(rows, np.bool_), vocabulary)
    assert len(found["all"]) == rows
    calibration = Calibration(tuple(found), list(found.values()))
    table = calibration.table(event_types, alpha=0.1)
    for index in range(3):
        for history in range(3):
            scores = calibration.scores[table[index, history]]
            assert (np.floor(scores / 10) == index).all()
            assert len(scores) == [100, 400, 500][history]
    assert (table[3] == list(found).index("all")).all()
