"""The probability of a count, for the expected alerts on a partition, in plain Python."""

import math


def negative_binomial(count: float, shape: float, ratio: float) -> float:
    """The probability that a negative binomial number with the mean shape * ratio is at least `count`.

    A `count` between two numbers is between their probabilities: the incomplete beta function, here as a sum from
    `count` on, whose terms are those of the distribution if `count` is a whole number.
    """
    x = ratio / (1 + ratio)
    log_first = math.lgamma(shape + count) - math.lgamma(shape) - math.lgamma(count + 1)
    term = math.exp(log_first + count * math.log(x) + shape * math.log(1 - x))
    total, k = 0.0, count
    while term > 1e-18 * total and k < count + 1_000_000:
        total += term
        term *= (shape + k) / (k + 1) * x
        k += 1
    return total
