"""Formats the figures of `eddy evaluate` as text for people."""

from typing import Any

from export.evaluate.baselines import NAMES


def table(figures: dict[str, Any]) -> str:
    """Return one line per method, then Eddy's lead over the best baseline, the alarm rates and the remarks."""
    rows = [f"{figures['model']} on {figures['clicks']:,} clicks, {figures['judged']:,} judged"]
    rows.append(f"{'':20}{'recall@20':>10}{'MRR@20':>9}{'NDCG@20':>9}{'coverage':>10}{'cold':>8}")
    for name in ("eddy", *NAMES):
        one = figures[name]
        quality = f"{one['recall20']:>10.4f}{one['mrr20']:>9.4f}{one['ndcg20']:>9.4f}"
        rows.append(f"{name:20}{quality}{one['coverage20']:>10.1%}{one['cold20']:>8.1%}")
    for measure, title in (("recall20", "recall@20"), ("mrr20", "MRR@20")):
        lead = figures["lead"][measure]
        low, high = lead["95"]
        rows.append(f"eddy - {lead['over']}, {title}: {lead['mean']:+.4f} (95%: {low:+.4f} to {high:+.4f})")
    for rule, share in figures["calibration"].items():
        rows.append(f"sessions with {rule}: {share:.4%}, nominal {float(rule.removeprefix('p<=')):.1%}")
    rows += figures["remarks"]
    return "\n".join(rows)
