"""An incomplete model directory is refused with one line that names the problem."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from stream.detect.behaviour import BehaviourDetector
from stream.errors import ArtifactError, ConfigError
from stream.manifest import read_manifest
from stream.model.runtime import CUDA, GPU_STEP_CLICKS, load_model

ROOT = Path(__file__).parents[3]


def damage_json(name: str, change: Callable[[dict[str, object]], object]) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        content = json.loads((directory / name).read_text())
        change(content)
        (directory / name).write_text(json.dumps(content))

    return damage


def cut(name: str) -> Callable[[Path], None]:
    return lambda directory: (directory / name).write_bytes((directory / name).read_bytes()[:-10])


H = {"name": "h", "shape": [4], "dtype": "float32"}
WRONG_FIELDS: list[tuple[str, dict[str, object]]] = [
    ("batch_multiple must be between 1 and 1024", {"batch_multiple": 0}),
    ("batch_multiple must be between 1 and 1024", {"batch_multiple": -4}),
    ("batch_multiple must be between 1 and 1024", {"batch_multiple": 1 << 40}),
    ("items must be between 1 and 10,000,000", {"items": 0}),
    ("items must be between 1 and 10,000,000", {"items": 1 << 40}),
    ("state must be 1 to 64 tensors", {"state": []}),
    ("state must be 1 to 64 tensors with different names", {"state": [H, H]}),
    ("state must be tensors of float16", {"state": [{**H, "dtype": "O"}]}),
    ("state must be tensors of positive sizes", {"state": [{**H, "shape": [0]}]}),
    ("state must be tensors of positive sizes", {"state": [{**H, "shape": [-1, -8]}]}),
    ("state must be tensors of at most 1,000,000", {"state": [{**H, "shape": [1 << 30]}]}),
    ("event_types must be at most 10,000 different", {"event_types": ["view", "view"]}),
    ("event_types must be names of 1 to 256", {"event_types": [""]}),
    ("gap_edges_ms must be ascending", {"gap_edges_ms": [10, 5]}),
    ("gap_edges_ms must be times of at least 0", {"gap_edges_ms": [-1, 5]}),
    ("calibration must be 1 to 100,000", {"calibration": []}),
    ("name and version must be words", {"name": "a\nb"}),
    ("files must be names of files in this directory", {"files": {"../secret": "0"}}),
    ("files must be names of files in this directory", {"files": {"/etc/passwd": "0"}}),
]
"""What a manifest's field must be -> a value that it may not have."""

DAMAGES: list[tuple[str, Callable[[Path], object]]] = [
    ("no such directory; make it with `eddy train LOG --out /.*/model`", shutil.rmtree),
    ("a file, and no directory", lambda directory: (shutil.rmtree(directory), directory.write_text("a model"))),
    (
        "no manifest.json; is this a directory of `eddy train`, and has it ended",
        lambda directory: (directory / "manifest.json").unlink(),
    ),
    ("not Eddy's format", lambda directory: (directory / "manifest.json").write_bytes(b"\xff\xfe")),
    ("not Eddy's format", lambda directory: (directory / "manifest.json").write_text("{}")),
    ("not Eddy's format .*; copy the whole directory again", cut("manifest.json")),
    ("format 99", damage_json("manifest.json", lambda content: content.update(format=99))),
    ("format 1, .* train it again", damage_json("manifest.json", lambda content: content.update(format=1))),
    ("surprise.onnx is missing", lambda directory: (directory / "surprise.onnx").unlink()),
    ("score.onnx is missing", lambda directory: (directory / "score.onnx").unlink()),
    ("step.onnx is not the file", cut("step.onnx")),
    ("calibration.npz is not the file", cut("calibration.npz")),
    (
        "extra.bin is missing",
        damage_json("manifest.json", lambda content: content["files"].update({"extra.bin": "0"})),
    ),
    *[
        (says, damage_json("manifest.json", lambda content, change=change: content.update(change)))  # type: ignore[misc]
        for says, change in WRONG_FIELDS
    ],
    ("larger than 16,777,216 bytes", lambda directory: (directory / "manifest.json").write_bytes(b" " * (17 << 20))),
    ("not Eddy's format", lambda directory: (directory / "manifest.json").write_text('{"training":' + "[" * 100_000)),
    ("items.json is not the file", lambda directory: (directory / "items.json").write_text("[]")),
]


def test_the_directory_above_the_versions_names_them(model_dir: Path, tmp_path: Path) -> None:
    """`--model models/mine` is a usual slip: the line has what to give instead."""
    shutil.copytree(model_dir, tmp_path / "mine" / "1")
    with pytest.raises(ArtifactError, match=f"no manifest.json; give one of {tmp_path}/mine/1"):
        load_model(tmp_path / "mine", "cpu")


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
            model.step(np.array([[item]]), np.zeros((1, 1), np.int64), np.zeros((1, 1), np.int64), state)
        read = [value for value, t in zip(state, model.manifest.state, strict=True) if t.name in model.surprise_inputs]
        with pytest.raises(ArtifactError, match="item index"):
            model.surprise(np.array([item]), np.zeros(1, np.int64), np.zeros(1, np.int64), read)


def test_a_missing_gpu_is_an_error_and_auto_uses_the_cpu(model_dir: Path) -> None:
    """onnxruntime alone would fall back silently."""
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has an NVIDIA device")
    with pytest.raises(ConfigError, match="cuda"):
        load_model(model_dir, "cuda")
    assert load_model(model_dir, "auto").provider == "CPUExecutionProvider"


def test_a_runtime_without_cuda_on_a_machine_with_a_gpu_is_reported(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """onnxruntime was installed over onnxruntime-gpu, or alone: the line names what repairs both."""
    (tmp_path / "nvidiactl").touch()
    monkeypatch.setattr("stream.model.runtime.NVIDIA", tmp_path / "nvidiactl")
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    assert load_model(model_dir, "auto").provider == "CPUExecutionProvider"
    remedy = r"pip uninstall onnxruntime onnxruntime-gpu, then pip install '\.\[cuda\]'"
    assert re.search(remedy, caplog.text)
    with pytest.raises(ConfigError, match=remedy):
        load_model(model_dir, "cuda")


def test_the_calibration_is_read_by_pool(model_dir: Path) -> None:
    """The pools are in the manifest's order, and the detector can use them."""
    manifest = read_manifest(model_dir)
    detector = BehaviourDetector.load(model_dir, manifest)
    assert len(detector.pools.tails) == len(manifest.calibration)
    assert detector.held_out > 20


def rewrite(directory: Path, name: str, content: bytes) -> None:
    """Replace a file and its hash in the manifest: only what the file says is wrong then."""
    (directory / name).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    damage_json("manifest.json", lambda found: found["files"].update({name: digest}))(directory)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        (lambda ids: ["", *ids[1:]], "an id without 1 to 256 characters"),
        (lambda ids: ["x" * 257, *ids[1:]], "an id without 1 to 256 characters"),
        (lambda ids: [ids[1], *ids[1:]], "an id twice"),
        (lambda ids: ids[1:], "items, the manifest has"),
        (lambda ids: ["x" * 4_000_000, *ids[1:]], "too large for"),
    ],
)
def test_ids_that_no_click_could_have_are_refused(
    model_dir: Path, tmp_path: Path, ids: Callable[[list[str]], list[str]], says: str
) -> None:
    """The line says what is wrong with items.json, although its hash is right."""
    directory = tmp_path / "model"
    shutil.copytree(model_dir, directory)
    found = json.loads((directory / "items.json").read_text())
    rewrite(directory, "items.json", json.dumps(ids(found)).encode())
    with pytest.raises(ArtifactError, match=says):
        load_model(directory, "cpu")


@pytest.mark.parametrize("graph", ["step.onnx", "surprise.onnx", "score.onnx"])
def test_weights_outside_the_graph_need_a_hash_too(model_dir: Path, tmp_path: Path, graph: str) -> None:
    """onnxruntime would load weights.bin without a word: whoever can write it decides what is recommended."""
    directory = tmp_path / "model"
    shutil.copytree(model_dir, directory)
    loaded = onnx.load(directory / graph)
    onnx.save(
        loaded,
        directory / graph,
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=1024,
        all_tensors_to_one_file=True,
    )
    rewrite(directory, graph, (directory / graph).read_bytes())
    with pytest.raises(ArtifactError, match=rf"{graph} loads 'weights.bin', which is not among the manifest's files"):
        load_model(directory, "cpu")
    rewrite(directory, "weights.bin", (directory / "weights.bin").read_bytes())
    load_model(directory, "cpu")
    (directory / "weights.bin").write_bytes(b"0" * (directory / "weights.bin").stat().st_size)
    with pytest.raises(ArtifactError, match=r"weights\.bin is not the file that was written"):
        load_model(directory, "cpu")


def test_onnxruntime_keeps_no_record_and_calls_nobody(model_dir: Path, tmp_path: Path) -> None:
    """From 1.29 on it opens a database of device and model when it is imported, unless a variable forbids it."""
    code = "import sys; from stream import load; load(sys.argv[1], device='cpu')"
    quiet = ("CI", "GITHUB_", "TF_BUILD", "ORT_")  # with these onnxruntime is silent by itself
    environ = {name: value for name, value in os.environ.items() if not name.startswith(quiet)}
    environ |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code, str(model_dir)], env=environ, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [path for path in tmp_path.rglob("*") if "onnxruntime" in path.name] == []


def test_many_clicks_of_a_user_are_the_same_in_the_short_calls_of_a_gpu(model_dir: Path) -> None:
    """A GPU takes 16 clicks of each user at once, filled up with zeros; here the CPU does so."""
    rng, model = np.random.default_rng(0), load_model(model_dir, "cpu")
    clicks = [rng.integers(0, bound, (3, 2 * GPU_STEP_CLICKS + 1)) for bound in (51, 4, 12)]
    new = [np.zeros((3, *part.shape), part.dtype) for part in model.manifest.state]
    for one, other in zip(model.step(*clicks, new), replace(model, provider=CUDA).step(*clicks, new), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
def test_on_a_gpu_no_state_depends_on_the_batch_and_the_results_are_those_of_the_cpu(model_dir: Path) -> None:
    """A worker that is killed may process its clicks again in other batches: its states are the same, bit by bit."""
    rng = np.random.default_rng(0)
    on_gpu, on_cpu = load_model(model_dir, "cuda"), load_model(model_dir, "cpu")
    clicks = [rng.integers(0, bound, (3_000, 4)) for bound in (51, 4, 12)]
    new = [np.zeros((3_000, *part.shape), part.dtype) for part in on_gpu.manifest.state]
    whole, expected = on_gpu.step(*clicks, new), on_cpu.step(*clicks, new)
    for one, other in zip(whole, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    for few in (slice(0, 1), slice(7, 200), slice(1_500, 3_000)):
        state = [value[few] for value in new]
        for n in range(4):
            single = on_gpu.step(*(column[few, n : n + 1] for column in clicks), state)
            state = [value[:, 0] for value in single]
            for one, other in zip(whole, state, strict=True):
                np.testing.assert_array_equal(one[few, n], other)
    item, gap = clicks[0][:, -1], clicks[2][:, -1]
    state = [value[:, -2] for value in whole]
    read = [value for value, t in zip(state, on_gpu.manifest.state, strict=True) if t.name in on_gpu.score_inputs]
    surprise = on_gpu.surprise(item, gap, read)
    np.testing.assert_allclose(surprise, on_cpu.surprise(item, gap, read), atol=1e-5)
    np.testing.assert_array_equal(
        on_gpu.surprise(item[7:200], gap[7:200], [value[7:200] for value in read]), surprise[7:200]
    )
    np.testing.assert_allclose(on_gpu.score(read, 20)[1], on_cpu.score(read, 20)[1], atol=1e-5)
