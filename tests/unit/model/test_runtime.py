"""An incomplete model directory is refused with one line that names the problem."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stream.detect.surprise import SurpriseDetector
from stream.errors import ArtifactError, ConfigError
from stream.manifest import read_manifest
from stream.model.runtime import load_model


def damage_json(name: str, change: Callable[[dict[str, object]], object]) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        content = json.loads((directory / name).read_text())
        change(content)
        (directory / name).write_text(json.dumps(content))

    return damage


def cut(name: str) -> Callable[[Path], None]:
    return lambda directory: (directory / name).write_bytes((directory / name).read_bytes()[:-10])


DAMAGES: list[tuple[str, Callable[[Path], object]]] = [
    ("no such directory", shutil.rmtree),
    ("no manifest.json", lambda directory: (directory / "manifest.json").unlink()),
    ("not Eddy's format", lambda directory: (directory / "manifest.json").write_bytes(b"\xff\xfe")),
    ("not Eddy's format", lambda directory: (directory / "manifest.json").write_text("{}")),
    ("format 99", damage_json("manifest.json", lambda content: content.update(format=99))),
    ("score.onnx is missing", lambda directory: (directory / "score.onnx").unlink()),
    ("step.onnx is not the file", cut("step.onnx")),
    ("calibration.npz is not the file", cut("calibration.npz")),
    (
        "extra.bin is missing",
        damage_json("manifest.json", lambda content: content["files"].update({"extra.bin": "0"})),
    ),
    ("items.json is not the file", lambda directory: (directory / "items.json").write_text("[]")),
]


@pytest.mark.parametrize(("fragment", "damage"), DAMAGES)
def test_a_damaged_directory_is_refused(
    model_dir: Path, tmp_path: Path, fragment: str, damage: Callable[[Path], object]
) -> None:
    """A missing, cut or foreign file is one line, before a graph runs."""
    directory = tmp_path / "model"
    shutil.copytree(model_dir, directory)
    damage(directory)
    with pytest.raises(ArtifactError, match=fragment) as caught:
        load_model(directory, "cpu")
    assert "\n" not in str(caught.value)


def test_an_onnx_file_that_is_no_graph_is_refused(model_dir: Path, tmp_path: Path) -> None:
    """It is refused even if its hash agrees with the manifest."""
    directory = tmp_path / "model"
    shutil.copytree(model_dir, directory)
    (directory / "step.onnx").write_bytes(b"not a graph")
    digest = hashlib.sha256(b"not a graph").hexdigest()
    damage_json("manifest.json", lambda content: content["files"].update({"step.onnx": digest}))(directory)
    with pytest.raises(ArtifactError, match=r"onnxruntime cannot run step\.onnx"):
        load_model(directory, "cpu")


def test_an_item_outside_the_catalogue_is_refused(model_dir: Path) -> None:
    """ONNX would silently read a wrong row for the index -1."""
    model = load_model(model_dir, "cpu")
    state = [np.zeros((1, *tensor.shape), tensor.dtype) for tensor in model.manifest.state]
    for item in (-1, len(model.items) + 1):
        with pytest.raises(ArtifactError, match="item index"):
            model.step(np.array([item]), np.zeros(1, np.int64), np.zeros(1, np.int64), state)


def test_a_missing_gpu_is_an_error_and_auto_uses_the_cpu(model_dir: Path) -> None:
    """onnxruntime alone would fall back silently."""
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has an NVIDIA device")
    with pytest.raises(ConfigError, match="cuda"):
        load_model(model_dir, "cuda")
    assert load_model(model_dir, "auto").provider == "CPUExecutionProvider"


def test_the_calibration_is_read_by_pool(model_dir: Path) -> None:
    """The pools are in the manifest's order, and the detector can use them."""
    manifest = read_manifest(model_dir)
    detector = SurpriseDetector.load(model_dir, manifest, alpha=0.05)
    assert detector.calibration.names == manifest.calibration
    assert detector.smallest_p_value < 0.05
