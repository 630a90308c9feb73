"""The benchmarks of the Makefile, without running one."""

import importlib
from pathlib import Path

import pytest

import bench.report

MODULES = sorted(path.stem for path in Path(bench.report.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("name", MODULES)
def test_a_benchmark_can_be_imported(name: str) -> None:
    """A name that another module no longer has would end `make bench` after hours."""
    importlib.import_module(f"bench.{name}")
