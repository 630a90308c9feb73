"""Options that are numbers."""

import pytest
from click.testing import CliRunner

from stream.ops.cli import eddy


@pytest.mark.parametrize(
    "command", ["demo --rate nan", "demo --seconds nan", "sink parquet --directory files --every-s nan"]
)
def test_nan_is_no_number_of_an_option(command: str) -> None:
    """It is neither too small nor too large; the feed of the demo died of it, and the demo ended with 0."""
    done = CliRunner().invoke(eddy, command.split(), catch_exceptions=False)
    assert done.exit_code == 2
    assert "'nan' is not a number" in done.stderr
