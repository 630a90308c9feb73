"""The figures of `eddy evaluate` as a person reads them."""

from export.evaluate.baselines import NAMES
from export.report.table import table

METHOD = {"recall20": 0.5, "mrr20": 0.25, "ndcg20": 0.3, "coverage20": 0.1, "cold20": 0.0}
LEAD = {"over": "vsknn", "mean": 0.1, "95": [0.05, 0.15]}


def test_the_share_of_sessions_with_small_p_values_stands_beside_the_nominal_one() -> None:
    """A share alone does not say whether it is too large."""
    figures = dict.fromkeys(("eddy", *NAMES), METHOD) | {
        "model": "m/1",
        "clicks": 1000,
        "judged": 400,
        "lead": {"recall20": LEAD, "mrr20": LEAD},
        "calibration": {"p<=0.05": 0.0625, "p<=0.001": 0.0},
        "remarks": ["a remark"],
    }
    assert table(figures).splitlines()[-3:] == [
        "sessions with p<=0.05: 6.2500%, nominal 5.0%",
        "sessions with p<=0.001: 0.0000%, nominal 0.1%",
        "a remark",
    ]
