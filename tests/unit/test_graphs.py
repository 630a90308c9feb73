"""A trace is kept for the next run of the tests only if the code that made it is the same."""

import os
from pathlib import Path

import onnx_ir
import pytest
import torch
from torch import nn

from tests.graphs import WEEK_S, KeptTraces, trace_directory


def test_changed_code_gets_new_traces_and_old_ones_are_removed(tmp_path: Path) -> None:
    """The same source gives the same directory; a source that is changed gives another one."""
    source, parent = tmp_path / "network.py", tmp_path / "traces"
    source.write_text("a = 1")
    first = trace_directory(parent, [source])
    assert trace_directory(parent, [source]) == first
    source.write_text("a = 2")
    second = trace_directory(parent, [source])
    assert second != first
    assert sorted(parent.iterdir()) == sorted([first, second])
    os.utime(first, (0, first.stat().st_mtime - WEEK_S - 1))
    assert trace_directory(parent, [source]) == second
    assert list(parent.iterdir()) == [second]


def test_a_trace_that_was_written_in_part_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies while it writes leaves no graph that the next run would read; a whole one is read."""
    made: list[object] = []
    kept = KeptTraces(tmp_path)

    def traces(*of: object) -> onnx_ir.Model:
        made.append(of)
        return onnx_ir.Model(onnx_ir.Graph([], [], nodes=[], opset_imports={"": 20}), ir_version=10)

    def dies(_: object, path: Path) -> None:
        path.write_bytes(b"a part")
        raise KeyboardInterrupt

    kept.trace = traces  # type: ignore[assignment]
    arguments = nn.Linear(1, 1), (torch.ones(2, 1),), ["given"], ["got"]
    with monkeypatch.context() as patch:
        patch.setattr(onnx_ir, "save", dies)
        with pytest.raises(KeyboardInterrupt):
            kept(*arguments)
    for count in (2, 2):
        assert kept(*arguments).graph.opset_imports == {"": 20}
        assert len(made) == count
