"""The next action: what was said of it at a click, and what the user did.

An action is the event type of the session's next click, or that no click follows within half an hour. Said is the
action with the largest probability. Bots and thieves are left out: a bot that only views is easily foreseen.
"""

import math
from collections import Counter

from stream.demo.judged.waiting import Waiting
from stream.demo.simulate import MINUTE_MS, Simulated
from stream.events import Recommendation

LEAVES = "leaves"
LIMIT_MS = 30 * MINUTE_MS
"""As in the field `leaves` of a recommendation."""

LEAST = 1e-5
"""A probability is written with so many digits; a smaller one would be 0, and its logarithm infinite."""


class Following:
    """Counts of the next actions.

    actions  what was done -> how often
    right    how often it was what was said
    """

    def __init__(self) -> None:
        self.actions: Counter[str] = Counter()
        self.right = 0
        self._nats = 0.0
        self._waiting: Waiting[dict[str, float]] = Waiting(LIMIT_MS)

    def decided(self, partition: int, simulated: Simulated, decision: Recommendation) -> None:
        """Judge what the click shows, and note what its decision says."""
        for said in self._waiting.over(partition, simulated.timestamp):
            self._judge(said, LEAVES)
        user = decision.user_id
        before = self._waiting.pop(partition, user)
        if before is not None:
            self._judge(before, simulated.click.event_type)
        if decision.next is not None and decision.leaves is not None and not simulated.truth:
            said = {**decision.next, LEAVES: decision.leaves}
            self._waiting.put(partition, user, simulated.timestamp, said)

    @property
    def judged(self) -> int:
        """Number of judged clicks."""
        return self.actions.total()

    @property
    def most_common(self) -> int:
        """How often the action that was done most often was done: saying it always would be right so often."""
        return max(self.actions.values(), default=0)

    @property
    def log_loss(self) -> float:
        """Mean of -log(probability that was said of the action), nats; smaller is better."""
        return self._nats / max(1, self.judged)

    def counts(self) -> dict[str, float]:
        judged = max(1, self.judged)
        return {
            "judged": self.judged,
            "right": round(self.right / judged, 4),
            "most_common": round(self.most_common / judged, 4),
            "log_loss": round(self.log_loss, 4),
        }

    def _judge(self, said: dict[str, float], action: str) -> None:
        self.actions[action] += 1
        self.right += max(said, key=said.__getitem__) == action
        self._nats -= math.log(max(LEAST, said.get(action, 0.0)))
