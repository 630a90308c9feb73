"""What the engine relies on in every detector."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from stream.detect.alert import AlertRule
from stream.detect.detector import Detector, Evidence, Verdicts
from stream.detect.surprise import SurpriseDetector
from stream.engine.engine import Engine
from stream.events import Click, Partition
from stream.manifest import Tensor
from stream.model.runtime import Model, load_model
from stream.settings import RECENT_ITEMS, Rules
from stream.state.arena import Arena
from stream.state.row import row_dtype, row_mark
from tests.conftest import EVENT_TYPES
from tests.decide import run


class NaiveDetector:
    """Uses the model's probability of the click as its p-value, and stores a number for each user."""

    row_fields = (Tensor("alerts", (), "int32"), Tensor("worst", (2,)))
    smallest_p_value = 1e-300

    def judge(self, seen: Evidence) -> Verdicts:
        p_value = np.maximum(np.exp(-np.maximum(seen.surprise, 0).astype(np.float64)), 1e-300)
        return Verdicts(p_value, np.zeros(len(p_value), np.int64), p_value <= 0.001)

    def alert_rules(self, pool: np.ndarray) -> list[AlertRule]:
        return [AlertRule("everything", 1, 0.001)] * len(pool)


@pytest.fixture(scope="module")
def model(model_dir: Path) -> Model:
    return load_model(model_dir, "cpu")


@pytest.fixture(params=["surprise", "naive"])
def detector(request: pytest.FixtureRequest, model: Model, model_dir: Path) -> Detector:
    if request.param == "surprise":
        return SurpriseDetector.load(model_dir, model.manifest, alpha=0.05)
    return NaiveDetector()


def evidence(count: int, seed: int = 0) -> Evidence:
    rng = np.random.default_rng(seed)
    return Evidence(
        rng.exponential(4.0, count).astype(np.float32),
        rng.integers(0, len(EVENT_TYPES) + 1, count),
        rng.integers(0, 12, count),
    )


def test_a_verdict_is_a_p_value_a_pool_and_an_alert_at_the_rules_threshold(detector: Detector) -> None:
    """The alert follows from the p-value by the rule that the alert names."""
    verdicts = detector.judge(evidence(500))
    assert (verdicts.p_value.dtype, verdicts.pool.dtype, verdicts.anomalous.dtype) == (np.float64, np.int64, np.bool_)
    assert verdicts.p_value.shape == verdicts.pool.shape == verdicts.anomalous.shape == (500,)
    assert ((verdicts.p_value > 0) & (verdicts.p_value <= 1)).all()
    rules = detector.alert_rules(verdicts.pool)
    assert (verdicts.anomalous == (verdicts.p_value <= [rule.threshold for rule in rules])).all()
    assert verdicts.anomalous.any()
    assert all(rule.pool and rule.pool_size > 0 for rule in rules)


def test_a_verdict_does_not_depend_on_the_batch(detector: Detector) -> None:
    """The verdicts on a batch equal those on its parts, and an empty batch has none."""
    seen = evidence(101)
    whole = detector.judge(seen)
    for start, end in itertools.pairwise([0, 0, 1, 4, 50, 101]):
        part = slice(start, end)
        some = detector.judge(Evidence(seen.surprise[part], seen.event_type[part], seen.clicks_before[part]))
        assert (some.p_value == whole.p_value[part]).all()
        assert (some.pool == whole.pool[part]).all()
        assert (some.anomalous == whole.anomalous[part]).all()
        assert len(some.p_value) == end - start


def test_a_more_surprising_click_is_never_less_unusual(detector: Detector) -> None:
    """Of two clicks of one kind, the more surprising one has no higher p-value; no p-value is below the smallest."""
    surprise = np.sort(np.append(evidence(200).surprise, [-50, 1e30])).astype(np.float32)
    found = []
    for event_type, clicks_before in itertools.product(range(len(EVENT_TYPES) + 1), (0, 2, 9)):
        kind = (np.full(len(surprise), event_type), np.full(len(surprise), clicks_before))
        p_value = detector.judge(Evidence(surprise, *kind)).p_value
        assert (np.diff(p_value) <= 0).all()
        found.append(p_value[-1])
    assert min(found) == detector.smallest_p_value


def test_its_fields_are_part_of_every_users_row(detector: Detector, model: Model) -> None:
    """A detector's fields are in the row: zero for a new user, and restored by a recovery."""
    dtype = row_dtype(model.manifest.state, RECENT_ITEMS, detector.row_fields)
    arena = Arena(dtype, row_mark(model.manifest.identity, dtype))
    run(Engine(model, detector, arena, 5, 1, Rules()), [Click("a", "i1", 1_700_000_000_000)])
    rows = arena.rows(Partition("clicks", 0))
    restored = Arena(dtype, arena.model)
    assert restored.load(Partition("clicks", 0), rows) == []
    row = np.frombuffer(restored.rows(Partition("clicks", 0))[b"a"], dtype)[0]
    for field in detector.row_fields:
        assert row[field.name].shape == field.shape
        assert (row[field.name] == 0).all()
    assert dtype.itemsize % 8 == 0
