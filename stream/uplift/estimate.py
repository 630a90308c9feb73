"""What a rule has caused: the share of users with the outcome, treated against control, with 95 % intervals.

Sources: the interval of a share, Wilson 1927; of a difference of shares, Newcombe 1998 (Statistics in Medicine 17,
method 10); CUPED, Deng, Xu, Kohavi and Walker 2013 (WSDM): what was known before the trigger explains a part of the
outcome's variance, so the difference is known better.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from stream.population.precision import Z, wilson

FEWEST = 30
"""With fewer users in a group no difference is reported."""

Bools = npt.NDArray[np.bool_]
F64 = npt.NDArray[np.float64]


class Difference(NamedTuple):
    """Treated minus control, and its 95 % interval."""

    value: float
    low: float
    high: float


class Estimate(NamedTuple):
    """The effect of a rule.

    treated, control              users of each group whose window is over
    treated_share, control_share  shares of them with the outcome; None without a user
    difference                    of the shares; None with fewer than FEWEST users in a group
    cuped                         the same by CUPED; None if also the history is the same for all users
    variance                      variance of the outcome that the history leaves, as a share; None without `cuped`
    """

    treated: int
    control: int
    treated_share: float | None
    control_share: float | None
    difference: Difference | None
    cuped: Difference | None
    variance: float | None


def estimate(treated: Bools, outcome: Bools, history: F64) -> Estimate:
    """The effect of a rule on n users.

    treated  (n,) the user is treated; else control
    outcome  (n,) the outcome came within the window
    history  (n,) outcomes of the user before the trigger
    """
    groups = outcome[treated], outcome[~treated]
    users, with_outcome = [len(group) for group in groups], [int(group.sum()) for group in groups]
    shares = [count / n if n else None for count, n in zip(with_outcome, users, strict=True)]
    found = Estimate(users[0], users[1], shares[0], shares[1], None, None, None)
    if min(users) < FEWEST:
        return found
    found = found._replace(difference=newcombe(with_outcome[0], users[0], with_outcome[1], users[1]))
    spread = float(history.var())
    if not spread:
        return found
    value = outcome.astype(np.float64)
    slope = float(np.cov(value, history, ddof=0)[0, 1]) / spread
    adjusted = value - slope * (history - history.mean())
    left = float(adjusted.var() / value.var()) if value.var() else 1.0
    return found._replace(cuped=_of_means(adjusted[treated], adjusted[~treated]), variance=left)


def newcombe(one: int, of_one: int, other: int, of_other: int) -> Difference:
    """The difference of two shares, one / of_one minus other / of_other, and its interval."""
    first, second = one / of_one, other / of_other
    (low, high), (other_low, other_high) = wilson(one, of_one), wilson(other, of_other)
    value = first - second
    return Difference(
        value,
        value - math.hypot(first - low, other_high - second),
        value + math.hypot(high - first, second - other_low),
    )


def _of_means(one: F64, other: F64) -> Difference:
    """The difference of two means and its interval, by the normal distribution."""
    value = float(one.mean() - other.mean())
    half = Z * math.sqrt(one.var(ddof=1) / len(one) + other.var(ddof=1) / len(other))
    return Difference(value, value - half, value + half)
