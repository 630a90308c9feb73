"""Python runs this file when it starts, in each program that a test starts: `eddy train` there takes kept traces.

The tests put this directory on PYTHONPATH and the traces' directory into KEPT_TRACES; see tests/graphs.py.
"""

import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

TRACER = "export.model.trace"


class KeepTraces(MetaPathFinder):
    """Finds the module that traces, once, and replaces its function as soon as it is loaded."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != TRACER:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            load(module)
            from tests.graphs import KeptTraces

            module.trace = KeptTraces(os.environ["KEPT_TRACES"])  # type: ignore[attr-defined]

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if "KEPT_TRACES" in os.environ:
    sys.meta_path.insert(0, KeepTraces())
