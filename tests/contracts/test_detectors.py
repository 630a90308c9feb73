"""What the engine relies on in every detector."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from stream.detect.alert import AlertRule, Why
from stream.detect.behaviour import BehaviourDetector
from stream.detect.detector import Detector, Evidence, Fields, Judged
from stream.detect.windows import NO_GAP
from stream.engine.engine import Engine
from stream.events import Click, Partition
from stream.manifest import Tensor
from stream.model.runtime import Model, load_model
from stream.past.clicks import PAST
from stream.population.judge import Judge
from stream.population.watch import Population
from stream.sessions.track import session_fields
from stream.settings import RECENT_ITEMS, Rules
from stream.state.arena import Arena
from stream.state.row import Rows, row_dtype, row_mark
from stream.triggers.memory import MEMORY
from tests.conftest import EVENT_TYPES
from tests.decide import run

USERS = 12


class NaiveDetector:
    """Uses the model's probability of the click as its p-value, and counts each user's rare clicks."""

    row_fields = (Tensor("rare", (), "int32"),)
    held_out = 1_000

    def judge(self, seen: Evidence, before: Fields, rows: Rows) -> Judged:
        nats = np.clip(seen.surprise.astype(np.float64), 0, 700)
        np.add.at(rows["rare"], seen.owner[nats >= 4.6], 1)
        return Judged(nats, np.zeros(len(nats), np.intp), lambda _: Why("everything", 1_000, {}, "the item is rare"))


@pytest.fixture(scope="module")
def model(model_dir: Path) -> Model:
    return load_model(model_dir, "cpu")


@pytest.fixture(params=["behaviour", "naive"])
def detector(request: pytest.FixtureRequest, model: Model, model_dir: Path) -> Detector:
    if request.param == "behaviour":
        return BehaviourDetector.load(model_dir, model.manifest)
    return NaiveDetector()


def evidence(count: int, seed: int = 0) -> Evidence:
    """Random clicks of USERS users, from their first ones on."""
    rng = np.random.default_rng(seed)
    owner, earlier, recent = rng.integers(0, USERS, count), [], []
    items: list[list[int]] = [[] for _ in range(USERS)]
    for user in owner.tolist():
        earlier.append(len(items[user]))
        items[user].insert(0, int(rng.integers(0, 9)))
        recent.append((items[user] + [-1] * RECENT_ITEMS)[:RECENT_ITEMS])
    before, last = np.array(earlier, np.int64), np.array(recent, np.int32)
    gap_ms = np.where(before == 0, NO_GAP, rng.exponential(30_000, count).astype(np.int64))
    return Evidence(
        owner.astype(np.intp),
        rng.exponential(4.0, count).astype(np.float32),
        rng.exponential(1.0, count).astype(np.float32),
        rng.integers(0, len(EVENT_TYPES) + 1, count),
        before,
        gap_ms,
        1_700_000_000_000 + np.arange(count) * 1_000,
        np.arange(count) + 5,
        last,
        last[:, 0] == last[:, 1],
        last[:, 0].astype(np.uint64),
        rng.random(count) < 0.1,
    )


def judged(
    detector: Detector, seen: Evidence, cuts: list[int]
) -> tuple[list[float], list[tuple[int, AlertRule]], bytes]:
    """p-values, (offset, rule) of each alert, and the rows, for batches that end at the cuts."""
    judge = Judge(detector, Population(1_000, len(EVENT_TYPES)), 0.05)
    rows, kept = np.zeros(USERS, row_dtype((), 0, judge.row_fields)), [b""]
    p_values: list[float] = []
    alerts: list[tuple[int, AlertRule]] = []
    for start, end in itertools.pairwise([0, *cuts, len(seen.owner)]):
        part = Evidence(*(column[start:end] for column in seen))
        before = {field.name: rows[field.name].copy() for field in judge.row_fields}
        np.add.at(rows["clicks"], part.owner, 1)
        verdicts, _, kept, _ = judge(part, np.zeros(end - start, np.intp), kept, before, rows)
        p_values += verdicts.p_value.tolist()
        alerts += zip(part.offset[verdicts.alerted].tolist(), verdicts.rules, strict=True)
    return p_values, alerts, rows.tobytes()


def test_a_verdict_is_a_p_value_and_alerts_at_the_rules_threshold(detector: Detector) -> None:
    """An alert is on a click whose p-value is at most the threshold that the alert names, and says what spoke."""
    seen = evidence(500)
    p_values, alerts, _ = judged(detector, seen, [])
    assert len(p_values) == 500
    assert all(0 < p_value <= 1 for p_value in p_values)
    assert alerts
    for offset, rule in alerts:
        assert p_values[offset - 5] <= rule.threshold
        assert rule.pool
        assert rule.pool_size > 0
        assert rule.sentence
        assert rule.episode <= offset
    assert [offset for offset, _ in alerts] == sorted({offset for offset, _ in alerts})


def test_a_verdict_does_not_depend_on_the_batch(detector: Detector) -> None:
    """Verdicts and rows after one batch equal those after its parts, and an empty batch has none."""
    seen = evidence(101)
    assert judged(detector, seen, [0, 1, 4, 50]) == judged(detector, seen, []) == judged(detector, seen, [*range(101)])


def test_a_more_surprising_click_is_never_less_unusual(detector: Detector) -> None:
    """Of two first clicks of one kind, the more surprising one has no higher p-value."""
    surprise = np.sort(np.append(evidence(200).surprise, [-50, 1e30])).astype(np.float32)
    n = len(surprise)
    for event_type in range(len(EVENT_TYPES) + 1):
        recent = np.full((n, RECENT_ITEMS), -1, np.int32)
        recent[:, 0] = 3
        zeros = np.zeros(n, np.int64)
        seen = Evidence(
            np.arange(n), surprise, np.zeros(n, np.float32), zeros + event_type, zeros, zeros + NO_GAP, zeros + 1,
            np.arange(n), recent, np.zeros(n, np.bool_), np.zeros(n, np.uint64),
            np.zeros(n, np.bool_),
        )  # fmt: skip
        rows = np.zeros(n, row_dtype((), 0, detector.row_fields))
        before = {field.name: rows[field.name].copy() for field in detector.row_fields}
        rows["clicks"] = 1
        assert (np.diff(detector.judge(seen, before, rows).nats) >= 0).all()


def test_its_fields_are_part_of_every_users_row(detector: Detector, model: Model) -> None:
    """A detector's fields are in the row, and restored by a recovery."""
    judge = Judge(detector, Population(model.manifest.items, len(model.manifest.event_types)), 0.05)
    kept = (*judge.row_fields, *session_fields(len(model.manifest.event_types), None), PAST, *MEMORY)
    dtype = row_dtype(model.manifest.state, RECENT_ITEMS, kept)
    arena = Arena(dtype, row_mark(model.manifest.identity, dtype))
    run(Engine(model, judge, arena, 5, 1, Rules()), [Click("a", "i1", 1_700_000_000_000)])
    rows = arena.rows(Partition("clicks", 0))
    restored = Arena(dtype, arena.model)
    assert restored.load(Partition("clicks", 0), rows) == []
    row = np.frombuffer(restored.rows(Partition("clicks", 0))[b"a"], dtype)[0]
    for field in detector.row_fields:
        assert row[field.name].shape == field.shape
    assert dtype.itemsize % 8 == 0
