"""How sessions flow from each of their first steps to the next, for a picture."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from export.sequences.tree import I16

COLUMNS = 5
"""Maximum steps that are shown."""

KEPT = 8
"""Maximum steps that are shown one by one in a column; the rarer ones are one."""

END, RARE = "(end)", "(rarer)"


def flow(step: I16, names: Sequence[str]) -> dict[str, Any]:
    """The sessions at each of their first steps, and from step to step.

    step     (S, depth) as Prefixes.step
    returns  columns: for each position, {step, sessions} by descending sessions; END after the last step of a session
             links: {column, from, to, sessions}, from a column to the next one
    """
    end = len(names)
    labels = np.array([*names, END, RARE], object)
    columns, links = [], []
    before = None
    for position in range(min(COLUMNS, step.shape[1])):
        code = step[:, position].astype(np.int64)
        counts = np.bincount(code[code >= 0], minlength=end + 1)
        rank = np.argsort(-counts[:end], kind="stable")
        rarer = rank[KEPT:][counts[rank[KEPT:]] > 0]
        if len(rarer) > 1:
            code[np.isin(code, rarer)] = end + 1
        if not (code >= 0).any():
            break
        counts = np.bincount(code[code >= 0], minlength=end + 2)
        order = np.argsort(-counts, kind="stable")
        columns.append([{"step": labels[kind], "sessions": int(counts[kind])} for kind in order if counts[kind]])
        if before is not None:
            there = code >= 0
            pair, sessions = np.unique(before[there] * (end + 2) + code[there], return_counts=True)
            links += [
                {"column": position - 1, "from": labels[a], "to": labels[b], "sessions": count}
                for (a, b), count in zip(zip(*np.divmod(pair, end + 2), strict=True), sessions.tolist(), strict=True)
            ]
        before = code
    return {"columns": columns, "links": links}
