"""Makes one sentence that states whether Eddy is better than the best baseline on the held-out slice."""

from collections.abc import Mapping
from typing import Any, NamedTuple

METHODS = {
    "eddy": "Eddy",
    "popularity": "popularity",
    "session_popularity": "session popularity",
    "markov": "Markov",
    "cooccurrence": "co-occurrence",
    "vsknn": "VS-KNN",
}
"""Key of a method -> its name in sentences and tables."""

MEASURES = {"recall20": "recall@20", "mrr20": "MRR@20"}
WORDS = {"better": "better", "tie": "not clearly better", "worse": "worse"}
"""The words for a 95% interval of the difference: above zero (better), around zero (tie), or below zero (worse)."""


class Verdict(NamedTuple):
    """The result of the comparison.

    kind      better, worse or tie if all measures agree; mixed if they do not; unknown if nothing was measured
    sentence  the result in words
    """

    kind: str
    sentence: str


def verdict(lead: Mapping[str, Any]) -> Verdict:
    """Compare Eddy with the best baseline.

    lead  measure -> `over` (the best baseline), `mean` (Eddy's lead) and `95` (interval of the lead),
          as in the output of `eddy evaluate --json`; empty if nothing was measured
    """
    if not lead:
        return Verdict("unknown", "There is no verdict: the held-out slice has no session of two clicks.")
    kinds = {measure: _kind(*lead[measure]["95"]) for measure in MEASURES}
    figures = " and ".join(_figures(title, lead[measure]) for measure, title in MEASURES.items())
    if len(set(kinds.values())) == 1:
        kind = kinds["recall20"]
        return Verdict(kind, f"Eddy is {WORDS[kind]} than the best baseline on the held-out slice: {figures}.")
    parts = " and ".join(f"{WORDS[kinds[measure]]} in {title}" for measure, title in MEASURES.items())
    return Verdict("mixed", f"Compared with the best baseline on the held-out slice, Eddy is {parts}: {figures}.")


def _kind(low: float, high: float) -> str:
    if low > 0:
        return "better"
    return "worse" if high < 0 else "tie"


def _figures(title: str, one: Mapping[str, Any]) -> str:
    low, high = one["95"]
    rival = METHODS.get(one["over"], one["over"])
    return f"{title} {one['mean']:+z.4f} against {rival} (95% interval {low:+z.4f} to {high:+z.4f})"
