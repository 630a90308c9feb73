"""The comparison of a GPU with the CPU."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bench import gpu
from stream.model.runtime import load_model


def test_equal_sides_give_equal_results(model_dir: Path) -> None:
    """Two loads of one model differ in nothing but time."""
    model, rng = load_model(model_dir, "cpu"), np.random.default_rng(0)
    state = [np.zeros((100, *part.shape), part.dtype) for part in model.manifest.state]
    found = gpu.one_batch(model, load_model(model_dir, "cpu"), gpu.clicks(model, 100, rng), state)
    assert (found["surprise"], found["log_prob"], found["lists"], found["split"]) == (0, 0, 1, 0)
    assert found["gpu step"] > 0
    assert found["cpu score"] > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so(
    tmp_path: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It writes no figures of a CPU as those of a GPU."""
    (tmp_path / "items-50").mkdir()
    (tmp_path / "items-50" / "16").symlink_to(model_dir)
    options = ["--items", "50", "--hidden", "16", "--models", str(tmp_path), "--out", str(tmp_path / "gpu.json")]
    monkeypatch.setattr("sys.argv", ["bench.gpu", *options])
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert ended.value.code == 2
    assert "cuda" in capsys.readouterr().err
    assert not (tmp_path / "gpu.json").exists()
