"""settings.json as a person may have written it."""

import json
from pathlib import Path

import pytest

from export.train.settings import read_settings
from stream.errors import ConfigError


def test_settings_are_read_by_name(tmp_path: Path) -> None:
    """What stands in the file is taken, whole numbers for fractions too; what does not is left to the log."""
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"settings": {"hidden": 96, "dropout": 0, "cell": "gru"}, "mrr20": 0.3}))
    assert read_settings(path) == {"hidden": 96, "dropout": 0.0, "cell": "gru"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read (No such file"),
        ("{", "not JSON"),
        ("[1]", 'no object "settings"'),
        ('{"hidden": 96}', 'no object "settings"'),
        ('{"settings": {"hiden": 96}}', "'hiden' is not a training setting; the settings are hidden, epochs"),
        ('{"settings": {"seed": 1}}', "'seed' is not a training setting"),
        ('{"settings": {"device": "cuda"}}', "'device' is not a training setting"),
        ('{"settings": {"hidden": "96"}}', "hidden is '96'"),
        ('{"settings": {"hidden": 96.5}}', "hidden is 96.5"),
        ('{"settings": {"hidden": 0}}', "hidden is 0; it must be between 4 and 1024"),
        ('{"settings": {"rate": NaN}}', "rate is nan; it must be between"),
        ('{"settings": {"cell": "elman"}}', "cell is 'elman'; it must be one of lstm, gru, rnn"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path: Path, content: str | None, says: str) -> None:
    """A file that cannot be meant names what came and what may be."""
    path = tmp_path / "settings.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        read_settings(path)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
