"""The trained model that several files of tests read. Nothing may change it."""

from pathlib import Path

import pytest

from export.pipeline import train_model
from tests.once import once, shared_directory
from tests.unit.export.train.test_trainer import SETTINGS, Silent, shop


@pytest.fixture(scope="session")
def rule_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model rule/1 that has learned the rule of `shop()`."""
    directory = shared_directory(tmp_path_factory) / "trained" / "rule" / "1"
    return once(directory, lambda path: train_model(path, shop(), SETTINGS, Silent()))
