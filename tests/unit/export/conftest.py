"""What tests of the training share: a trained model, which nothing may change, and trainings without slow extras."""

from pathlib import Path

import pytest

from export.evaluate.vsknn import VsKnnSetting
from export.pipeline import train_model
from tests.once import once, shared_directory
from tests.unit.export.train.test_trainer import SETTINGS, Silent, shop


@pytest.fixture(scope="session")
def rule_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model rule/1 that has learned the rule of `shop()`."""
    directory = shared_directory(tmp_path_factory) / "trained" / "rule" / "1"
    return once(directory, lambda path: train_model(path, shop(), SETTINGS, Silent()))


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the charts of the report, the search for VS-KNN's setting, and more than one epoch of the head of what a
    user does next: a third of a small training's time.

    `rule_model` was trained with all of them.
    """
    monkeypatch.setattr("export.ahead.fit.EPOCHS", 1)
    monkeypatch.setattr("export.report.page.page", lambda *_: "")
    monkeypatch.setattr("export.evaluate.held_out.choose_vsknn", lambda _: VsKnnSetting())
