"""The intent: which sessions of people have a purchase, and what was said of them before it."""

import math
from collections import Counter

SAID = 0.5
"""A purchase was said if the intent was at least this."""

STEPS = 1_000
"""The intent is counted in steps of 1 / STEPS: the tenth with the highest intent is found without a list of all."""


class Intents:
    """Counts of sessions by the highest intent before the first purchase."""

    def __init__(self) -> None:
        self._sessions: Counter[int] = Counter()
        self._bought: Counter[int] = Counter()

    def over(self, highest: float, bought: bool) -> None:
        """Count a session of a person that is over."""
        step = math.floor(highest * STEPS)
        self._sessions[step] += 1
        self._bought[step] += bought

    def counts(self) -> dict[str, float]:
        """
        sessions, bought   sessions, and those with a purchase
        said               those with a purchase of which one was said
        said_not_bought    those without one, of which one was said
        top_from           the smallest intent of the tenth of the sessions with the highest
        top_bought         share of this tenth with a purchase
        top_lift           the same share, as a multiple of that of all sessions
        """
        sessions, bought = self._sessions.total(), self._bought.total()
        said = [step for step in self._sessions if step >= SAID * STEPS]
        said_bought = sum(self._bought[step] for step in said)
        top, top_bought, step = 0, 0, STEPS
        for step in sorted(self._sessions, reverse=True):
            top, top_bought = top + self._sessions[step], top_bought + self._bought[step]
            if top * 10 >= sessions:
                break
        share = top_bought / max(1, top)
        return {
            "sessions": sessions,
            "bought": bought,
            "said": said_bought,
            "said_not_bought": sum(self._sessions[step] for step in said) - said_bought,
            "top_from": step / STEPS,
            "top_bought": round(share, 4),
            "top_lift": round(share * sessions / bought, 2) if bought else 0.0,
        }
