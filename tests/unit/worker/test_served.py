"""Eddy without Kafka: a loaded model scores clicks exactly as the worker does."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stream import load
from stream.errors import ArtifactError, BadClick, ConfigError
from stream.events import Click
from stream.model.runtime import load_model
from stream.settings import Rules
from stream.worker import served
from stream.worker.served import open_engine
from tests.decide import run
from tests.unit.engine.test_not_finite import spoil

START_MS = 1_700_000_000_000


def clicks_of(count: int) -> list[Click]:
    return [Click(f"u{n % 3}", f"i{n % 7}", START_MS + 1000 * n) for n in range(count)]


def as_given(click: Click) -> dict[str, object]:
    return {"user_id": click.user_id, "item_id": click.item_id, "timestamp": click.timestamp}


def test_it_decides_as_the_worker_in_one_call_or_in_several(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists, surprise and p-values are those of the recommendations topic; users keep their state between calls."""
    monkeypatch.setattr(served, "CLICKS_PER_CYCLE", 4)
    clicks = clicks_of(20)
    want = run(open_engine(load_model(model_dir, "cpu"), model_dir, 5, 1, 0.001), clicks).recommendations
    model = load(model_dir, k=5)
    got = [d for a, b in ((0, 9), (9, 9), (9, 20)) for d in model.score(map(as_given, clicks[a:b]))]
    for mine, theirs in zip(got, want, strict=True):
        assert (mine.user_id, mine.items, mine.log_probs) == (theirs.user_id, theirs.items, theirs.log_probs)
        assert (mine.surprise, mine.p_value) == (theirs.surprise, theirs.p_value)
    assert len({decision.id for decision in got}) == 20


def test_clicks_are_read_as_messages_are(model_dir: Path) -> None:
    """Ids may be numbers, times seconds, and both NumPy's; an invalid click is refused before any click is scored."""
    model, plain = load(model_dir), load(model_dir)
    number = {"user_id": np.int64(7), "item_id": 3, "timestamp": np.int64(START_MS // 1000)}
    assert model.score([number])[0].items == plain.score([{**number, "user_id": "7", "timestamp": START_MS}])[0].items
    with pytest.raises(BadClick, match="item_id"):
        model.score([number, {"user_id": "7", "timestamp": START_MS}])
    assert [model.score([number])[0].surprise] == [plain.score([number])[0].surprise]


def test_invalid_settings_and_models_are_refused(model_dir: Path, tmp_path: Path) -> None:
    """As at the start of a worker, each with one line."""
    with pytest.raises(ConfigError, match="setting k is 0"):
        load(model_dir, k=0)
    with pytest.raises(ConfigError, match="catalogue"):
        load(model_dir, rules=Rules(catalogue=str(tmp_path / "none.csv"), only_available=True))
    with pytest.raises(ArtifactError, match="no such directory"):
        load(tmp_path / "nowhere")


def test_a_model_that_fails_is_an_error_and_leaves_the_states(model_dir: Path, tmp_path: Path) -> None:
    """A click without a decision raises an error and is not left out silently."""
    model = load(spoil(model_dir, tmp_path / "spoiled" / "1", "state"))
    with pytest.raises(ArtifactError, match="i7 is not finite"):
        model.score([as_given(Click("u", "i1", START_MS)), as_given(Click("u", "i7", START_MS))])
    assert len(model.engine.arena) == 0


def test_importing_stream_is_light() -> None:
    """`import stream` loads no other package."""
    heavy = "{'numpy', 'onnxruntime', 'faust', 'confluent_kafka', 'msgspec'}"
    code = f"import sys, stream; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
