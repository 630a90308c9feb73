"""How long `eddy sink --once` waits for Kafka and for its place: what cron starts must end.

Without --once the same code waits as long as it takes.
"""

import time
from collections.abc import Callable

from stream.access.listener import why_silent
from stream.errors import ConfigError

ONCE_S = 60.0
"""How long Kafka or the place may be silent with --once: a broker or a server that restarts is back by then."""


class Patience:
    """Since when something does not answer.

    most_s  for how long it may be silent, s; math.inf = as long as it takes
    """

    def __init__(self, most_s: float, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._most_s, self._clock_s = most_s, clock_s
        self._since_s: float | None = None

    def answered(self) -> None:
        self._since_s = None

    def silent(self) -> None:
        if self._since_s is None:
            self._since_s = self._clock_s()

    @property
    def over(self) -> bool:
        """Whether it is silent for too long."""
        return self._since_s is not None and self._clock_s() - self._since_s >= self._most_s


def no_answer(who: str, why: str) -> ConfigError:
    """The error of --once, which waits no longer."""
    return ConfigError(
        f"{who} has not answered for {ONCE_S:.0f} s ({why.rstrip('.')}), and --once waits no longer: is it up, and is "
        "the address right? What was written stays, and the next run goes on after it"
    )


def at_start(broker: str, patience: Patience) -> None:
    """Kafka has not answered a question before the start. Raises ConfigError if the patience is over."""
    patience.silent()
    if patience.over:
        raise no_answer(f"Kafka at {broker}", why_silent(broker))
