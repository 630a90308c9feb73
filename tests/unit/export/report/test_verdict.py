"""The headline of the report: better, worse or neither, in one sentence with the figures."""

import pytest

from export.report.verdict import verdict

ABOVE, AROUND, BELOW = (0.012, [0.004, 0.02]), (0.001, [-0.003, 0.005]), (-0.03, [-0.05, -0.01])


@pytest.mark.parametrize(
    ("recall", "mrr", "kind", "fragment"),
    [
        (ABOVE, ABOVE, "better", "Eddy is better than the best baseline on the held-out slice: recall@20 +0.0120"),
        (BELOW, BELOW, "worse", "Eddy is worse than the best baseline on the held-out slice: recall@20 -0.0300"),
        (AROUND, AROUND, "tie", "Eddy is not clearly better than the best baseline on the held-out slice: recall@20"),
        (ABOVE, AROUND, "mixed", "Eddy is better in recall@20 and not clearly better in MRR@20: recall@20 +0.0120"),
        (BELOW, ABOVE, "mixed", "Eddy is worse in recall@20 and better in MRR@20: recall@20 -0.0300"),
        ((0.0, [0.0, 0.0]), (0.0, [0.0, 0.0]), "tie", "not clearly better than the best baseline"),
    ],
)
def test_the_verdict_follows_the_intervals(
    recall: tuple[float, list[float]], mrr: tuple[float, list[float]], kind: str, fragment: str
) -> None:
    """Better or worse only where the whole 95% interval of the difference lies on one side of zero."""
    lead = {
        "recall20": {"over": "vsknn", "mean": recall[0], "95": recall[1]},
        "mrr20": {"over": "session_popularity", "mean": mrr[0], "95": mrr[1]},
    }
    found = verdict(lead)
    assert found.kind == kind
    assert fragment in found.sentence
    low, high = mrr[1]
    assert f"against VS-KNN (95% interval {recall[1][0]:+.4f} to {recall[1][1]:+.4f})" in found.sentence
    assert found.sentence.endswith(f"against session popularity (95% interval {low:+.4f} to {high:+.4f}).")


def test_nothing_judged_gives_no_verdict() -> None:
    """A held-out slice of single clicks has no verdict, and the page has a sentence about this."""
    assert verdict({}).kind == "unknown"
    assert "no session of two clicks" in verdict({}).sentence
