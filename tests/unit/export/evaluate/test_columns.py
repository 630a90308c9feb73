"""The columns of a log are those of a worker that reads the same clicks."""

from pathlib import Path

import numpy as np
import pytest

from export.evaluate.columns import LOG, log_columns
from export.log.log import read_log
from stream.engine.columns import Encoder
from stream.events import Click, Origin
from stream.model.runtime import load_model
from stream.settings import Rules

CLICKS = [
    Click("u2", "i7", 1_700_000_000_000, "view"),
    Click("u1", "i50", 1_700_000_001_000, "cart"),
    Click("u2", "not an id", 1_700_000_002_000, "wish"),
    Click("u1", "i0", 1_700_000_003_000, "view"),
]


@pytest.mark.parametrize("count", [2, 4])
def test_columns_of_a_log_are_those_of_a_worker(model_dir: Path, tmp_path: Path, count: int) -> None:
    """Also where an item id has a form that no item of the model has, and where none has."""
    path = tmp_path / "log.csv"
    lines = [f"{click.timestamp},{click.user_id},{click.item_id},{click.event_type}\n" for click in CLICKS[:count]]
    path.write_text("timestamp,user_id,item_id,event_type\n" + "".join(lines))
    encoder = Encoder(load_model(model_dir, "cpu"), Rules(exclude_events="cart"), None)
    found = log_columns(read_log(path), encoder)
    want = encoder.columns(CLICKS[:count], [Origin(*LOG, offset) for offset in range(count)])
    assert [found.owners[user] for user in found.owner] == [want.owners[user] for user in want.owner]
    for name in ("offset", "time_ms", "item", "event_type", "hold", "category"):
        assert getattr(found, name).tolist() == getattr(want, name).tolist(), name
    assert [one.tolist() for one in found.names] == [one.tolist() for one in want.names]
    assert np.any(found.new_form) == np.any(want.new_form) == (count > 2)
    assert found.new_form is None or found.new_form.tolist() == [False, False, True, False]
