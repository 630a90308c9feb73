"""The parameters of the injected episodes, as ranges for each kind and strength.

There are two sets, and their ranges do not overlap: `tuning` is for the choice of a detector's settings, and
`reporting` is for the published figures. `tuning` and `reporting` also have different seeds, because the name of the
set is a part of the seed.

clicks   number of clicks of the episode
gap_s    median time between two clicks, seconds
spread   standard deviation of the gaps, divided by the median gap
share    share of the episode's clicks that have the property of the kind
repeats  how often a click is sent in all
"""

import zlib
from collections.abc import Mapping

import numpy as np

SETS = ("tuning", "reporting")
STRENGTHS = ("weak", "medium", "strong")

SHARES = {"tuning": (0.001, 0.002), "reporting": (0.002, 0.004)}
"""Range of the share of the users who have an episode, for one kind and strength."""

Ranges = Mapping[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]]
"""Parameter -> the range of each strength."""

TUNING: dict[str, Ranges] = {
    "scraper": {"clicks": ((12, 20), (40, 60), (120, 180)), "gap_s": ((20, 30), (6, 9), (0.5, 1))},
    "category walk": {"clicks": ((10, 14), (20, 30), (60, 90)), "gap_s": ((20, 30), (20, 30), (20, 30))},
    "metronome": {
        "clicks": ((14, 18), (25, 40), (60, 90)),
        "gap_s": ((20, 40), (20, 40), (20, 40)),
        "spread": ((0.20, 0.25), (0.06, 0.08), (0.005, 0.01)),
    },
    "takeover, similar taste": {"clicks": ((4, 5), (8, 10), (14, 16)), "gap_s": ((20, 40), (20, 40), (20, 40))},
    "takeover, different taste": {"clicks": ((4, 5), (8, 10), (14, 16)), "gap_s": ((20, 40), (20, 40), (20, 40))},
    "cash-out": {"clicks": ((2, 3), (5, 6), (10, 12)), "gap_s": ((25, 40), (12, 18), (5, 8))},
    "credential stuffing": {"clicks": ((1, 1), (3, 3), (5, 6)), "gap_s": ((0.30, 0.35), (0.30, 0.35), (0.30, 0.35))},
    "cart hoarding": {"clicks": ((5, 6), (12, 16), (30, 40)), "gap_s": ((15, 25), (8, 12), (3, 5))},
    "carding": {"clicks": ((3, 4), (7, 9), (18, 25)), "gap_s": ((30, 45), (15, 25), (4, 8))},
    "click fraud": {
        "clicks": ((12, 16), (25, 35), (60, 80)),
        "gap_s": ((20, 40), (20, 40), (20, 40)),
        "share": ((0.40, 0.45), (0.65, 0.70), (0.90, 0.95)),
    },
    "event type lost": {"share": ((0.25, 0.35), (0.55, 0.65), (0.95, 1.0))},
    "clicks sent several times": {
        "share": ((0.25, 0.35), (0.55, 0.65), (0.95, 1.0)),
        "repeats": ((3, 3), (3, 3), (4, 4)),
    },
    "wrong ids": {"share": ((0.25, 0.35), (0.55, 0.65), (0.95, 1.0))},
}
REPORTING: dict[str, Ranges] = {
    "scraper": {"clicks": ((21, 30), (61, 90), (181, 250)), "gap_s": ((31, 45), (9.5, 12), (1.1, 2))},
    "category walk": {"clicks": ((15, 18), (31, 45), (91, 130)), "gap_s": ((31, 45), (31, 45), (31, 45))},
    "metronome": {
        "clicks": ((19, 23), (41, 55), (91, 120)),
        "gap_s": ((41, 70), (41, 70), (41, 70)),
        "spread": ((0.26, 0.32), (0.09, 0.12), (0.012, 0.02)),
    },
    "takeover, similar taste": {"clicks": ((6, 7), (11, 13), (17, 20)), "gap_s": ((41, 60), (41, 60), (41, 60))},
    "takeover, different taste": {"clicks": ((6, 7), (11, 13), (17, 20)), "gap_s": ((41, 60), (41, 60), (41, 60))},
    "cash-out": {"clicks": ((4, 4), (7, 8), (13, 16)), "gap_s": ((41, 60), (19, 25), (9, 12))},
    "credential stuffing": {"clicks": ((2, 2), (4, 4), (7, 8)), "gap_s": ((0.2, 0.28), (0.2, 0.28), (0.2, 0.28))},
    "cart hoarding": {"clicks": ((7, 8), (17, 22), (41, 60)), "gap_s": ((26, 40), (13, 18), (6, 8))},
    "carding": {"clicks": ((5, 5), (10, 13), (26, 40)), "gap_s": ((46, 60), (26, 35), (9, 14))},
    "click fraud": {
        "clicks": ((17, 20), (36, 45), (81, 120)),
        "gap_s": ((41, 60), (41, 60), (41, 60)),
        "share": ((0.30, 0.38), (0.55, 0.62), (0.80, 0.88)),
    },
    "event type lost": {"share": ((0.36, 0.45), (0.66, 0.75), (0.85, 0.94))},
    "clicks sent several times": {
        "share": ((0.36, 0.45), (0.66, 0.75), (0.85, 0.94)),
        "repeats": ((2, 2), (2, 2), (3, 3)),
    },
    "wrong ids": {"share": ((0.36, 0.45), (0.66, 0.75), (0.85, 0.94))},
}
PARAMETERS: dict[str, dict[str, Ranges]] = {"tuning": TUNING, "reporting": REPORTING}


def generator(which: str, *names: object) -> np.random.Generator:
    """A generator for a set and the given names, such as kind, strength and seed. Different arguments: another one."""
    return np.random.default_rng(zlib.crc32(repr((which, *names)).encode()))


def draw(rng: np.random.Generator, which: str, kind: str, strength: str) -> dict[str, float]:
    """Draw the parameters of one episode, each uniformly from its range."""
    column = STRENGTHS.index(strength)
    return {name: rng.uniform(*each[column]) for name, each in PARAMETERS[which][kind].items()}
