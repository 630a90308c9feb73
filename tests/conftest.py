"""What every lane shares: a complete model directory with random weights."""

from pathlib import Path

import pytest

from export.model.untrained import write_untrained

ITEMS = [f"i{n}" for n in range(50)]
EVENT_TYPES = ["view", "cart", "purchase"]


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 50 items i0..i49 and three event types, untrained but whole."""
    directory = tmp_path_factory.mktemp("models") / "tiny" / "1"
    write_untrained(directory, ITEMS, EVENT_TYPES, hidden=16, seed=0)
    return directory
