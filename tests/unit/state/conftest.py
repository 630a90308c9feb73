"""The two kinds of memory of the arena's blocks. What holds for one holds for the other."""

from pathlib import Path

import pytest

from stream.state.blocks import NewBlock, StateFile, in_ram


@pytest.fixture(params=["RAM", "file"])
def new_block(request: pytest.FixtureRequest, tmp_path: Path) -> NewBlock:
    return in_ram if request.param == "RAM" else StateFile(tmp_path).new_block
