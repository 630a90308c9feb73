"""The sessions of the simulated people, from begin to end: what they put into the cart and bought, and what was said.

A session is what the simulator says it is. The worker does not see that: it ends a session after half an hour without a
click. Sessions of bots and thieves are left out.
"""

from dataclasses import dataclass, field

from stream.demo.judged.carts import Carts
from stream.demo.judged.intent import Intents
from stream.demo.judged.waiting import Waiting
from stream.demo.simulate import HOUR_MS, Simulated
from stream.events import Recommendation, click_of

LIMIT_MS = HOUR_MS
"""After so long without a click a session is over. One pause in a million is longer."""


@dataclass
class Session:
    """What a user has done in a session.

    ids      of its clicks
    highest  intent before the first purchase; None = not predicted
    """

    name: str | None
    ids: list[str] = field(default_factory=list)
    highest: float | None = None
    cart: bool = False
    bought: bool = False


class Sessions:
    """Passes each session on that is over: to the counts of the intent, and to those of the carts."""

    def __init__(self, intents: Intents, carts: Carts) -> None:
        self._intents, self._carts = intents, carts
        self._open: Waiting[Session] = Waiting(LIMIT_MS)

    def decided(self, partition: int, simulated: Simulated, decision: Recommendation) -> None:
        """Add a click and its decision."""
        for over in self._open.over(partition, simulated.timestamp):
            self._end(over)
        click = simulated.click
        session = self._open.pop(partition, click.user_id)
        if session is not None and session.name != click.session_id:
            self._end(session)
            session = None
        if simulated.truth:
            return
        session = session or Session(click.session_id)
        session.ids.append(click_of(decision.id))
        session.cart |= click.event_type == "cart"
        session.bought |= click.event_type == "purchase"
        if decision.intent is not None and not session.bought:
            session.highest = max(session.highest or 0.0, decision.intent)
        self._open.put(partition, click.user_id, simulated.timestamp, session)

    def _end(self, session: Session) -> None:
        self._carts.over(session.ids, session.cart and not session.bought)
        if session.highest is not None:
            self._intents.over(session.highest, session.bought)
