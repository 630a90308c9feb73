"""What a user does next, from a plain loop that shares no code with the worker. Only the file ahead.onnx is shared."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from tests.oracle_sessions import Session

ROWS = 16
"""Rows of a call: with other numbers the last bits would differ."""


@dataclass
class Counts:
    """What a user's row counts: earlier sessions, and clicks by event type, the last one of unknown types.

    last  gap in seconds and type of the newest click
    """

    types: list[int]
    sessions: int = 0
    told: list[float] = field(default_factory=lambda: [0.0] * 4)
    last: tuple[float, int] = (0.0, 0)


class Ahead:
    """The predictions of one model."""

    def __init__(self, model: Path, manifest: dict[str, Any]) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._graph = ort.InferenceSession(str(model / "ahead.onnx"), options, providers=["CPUExecutionProvider"])
        self._types, self._served = manifest["event_types"], manifest["ahead"]

    def new(self) -> Counts:
        return Counts([0] * (len(self._types) + 1))

    def click(
        self,
        user: Counts,
        session: Session,
        recent: list[int],
        event_type: int,
        gap_ms: int,
        time_ms: int,
        starts: bool,
        first: bool,
    ) -> dict[str, Any]:
        """Add a click, and return the fields of its decision.

        session  with the click; recent: the user's last items, newest first, the click's included
        starts   the click starts a session; first: it is the user's first one
        """
        user.sessions += starts and not first
        user.types[event_type] += 1
        clicks = sum(session.types)
        earlier = recent[1 : min(10, clicks - 1) + 1]
        counters = [
            clicks,
            (session.last_ms - session.start_ms) / 1000,
            max(0, gap_ms) / 1000,
            sum(user.types),
            user.sessions,
            int(recent[0] in earlier),
            time_ms % 86_400_000 / 3_600_000,
            *session.types,
            *user.types,
            user.last[0] if clicks > 2 else 0,
            1 + user.last[1] if clicks > 1 else 0,
        ]
        user.last = max(0, gap_ms) / 1000, event_type
        feeds = {"counters": np.array([counters] * ROWS, np.float32), "event_type": np.full(ROWS, event_type)}
        *following, intent, leaves, returns = self._graph.run(None, feeds)[0][0]
        before = user.told
        user.told = [intent if starts else before[0], intent if starts else max(before[1], intent), intent, returns]
        told = {"next": {name: _digits(p) for name, p in zip(self._types, following, strict=True)}}
        return told | {"leaves": _digits(leaves)} | self._optional({"intent": intent}, returns)

    def ended(self, user: Counts) -> dict[str, Any]:
        """The fields of the end of the user's session."""
        first, highest, last, returns = user.told
        return self._optional({"intent_first": first, "intent_highest": highest, "intent_last": last}, returns)

    def _optional(self, intent: dict[str, float], returns: float) -> dict[str, Any]:
        found = {name: _digits(p) for name, p in intent.items()} if self._served.get("intent") else {}
        return found | ({"returns_7d": _digits(returns)} if self._served["returns"] else {})


def _digits(probability: float) -> float:
    return float(np.float64(probability).round(6))
