"""A short share of `make fuzz`: bad input gives a result or the documented error class, and nothing else."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import Fuzz

EXAMPLES = {"decode": 400, "log": 40, "mapping": 100, "manifest": 50, "model": 15, "catalogue": 100, "changelog": 100}


@pytest.fixture(scope="module")
def fuzz(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> Fuzz:
    return Fuzz(tmp_path_factory.mktemp("fuzz"), model_dir)


@pytest.mark.parametrize("target", EXAMPLES)
def test_an_input_gives_a_result_or_the_documented_error(fuzz: Fuzz, target: str) -> None:
    """A failing seed can be run again: python -m bench.fuzz --target TARGET --seed SEED."""

    @settings(max_examples=EXAMPLES[target], suppress_health_check=list(HealthCheck), database=None)
    @given(seed=st.integers(0, 2**63))
    def check(seed: int) -> None:
        fuzz.run(target, seed)

    check()
