"""Makes the alerts on unusual ends of sessions."""

import math

import numpy as np
import numpy.typing as npt

from stream.detect.episodes import NO_ALERT, OPENS
from stream.detect.statistics import END
from stream.events import SESSION_END, WHOLE_SESSIONS, Anomaly, Origin, end_id
from stream.sessions.ends import NO_SLOTS, Ended
from stream.sessions.unusual import EndCalibration
from stream.state.row import Index


def end_alerts(
    ended: Ended, ends: EndCalibration | None, names: npt.NDArray[np.object_], label: str, alpha: float
) -> tuple[list[Anomaly], Index]:
    """The alerts on the sessions that end, in their order, and the position of the click with which each of them ends.

    names  (V,) item ids of the model
    label  "name/version" of the model
    alpha  an end is unusual if it has at most this p-value
    """
    if ends is None or ended.sessions.ending is None:
        return [], NO_SLOTS
    raised = np.flatnonzero(ended.sessions.ending.episode != NO_ALERT)
    return [_alert(ended, i, ends, names, label, alpha) for i in raised.tolist()], ended.click[raised]


def _alert(
    ended: Ended, at: int, ends: EndCalibration, names: npt.NDArray[np.object_], label: str, alpha: float
) -> Anomaly:
    """The alert on the session at the position `at`."""
    partition, user = ended.owners[at]
    (offset, _, last_ms, revision, _), ending = ended.sessions.columns(), ended.sessions.ending
    assert ending is not None
    first, item, episode = Origin(*partition, 0).at(int(offset[at])), int(ending.item[at]), int(ending.episode[at])
    name = str(names[item]) if item < len(names) else ""
    id_, nats = end_id(first, int(revision[at])), float(ending.nats[at])
    p_value = float(np.exp(-nats))
    return Anomaly(
        id=id_,
        user_id=user.decode(),
        item_id=name,
        event_type=SESSION_END,
        timestamp=int(last_ms[at]),
        episode=id_ if episode == OPENS else Origin(*partition, 0).at(episode - 1).id,
        reason=f"{ends.sentence(item, name, float(ending.peak[at]))} (p-value {p_value:.2g})",
        surprise=round(ends.surprise(item), 5),
        p_value=p_value,
        score=round(nats / math.log(10), 4),
        threshold=alpha,
        statistics={END: ends.p_value(ending, at)},
        pool=WHOLE_SESSIONS,
        pool_size=ends.combined.size,
        expected=[],
        model=label,
    )
