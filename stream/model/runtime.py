"""The two ONNX graphs of a model directory, each in one ONNX Runtime session: step and score.

The graphs index tables by item: an index out of range would silently read another row, so indices are checked here.
onnxruntime falls back to the CPU without a word when CUDA cannot be had; here a GPU that was asked for and is not
there refuses to load.
"""

import io
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from stream.errors import ArtifactError, ConfigError
from stream.manifest import Manifest, read_manifest

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]
StateArray = npt.NDArray[Any]
"""A state tensor of B users, of the dtype in the manifest."""

WARNING, FATAL = 2, 4  # onnxruntime's log severities
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


@dataclass(frozen=True)
class Model:
    """A loaded model directory.

    items     index -> item id; index len(items) means an unknown item
    index     item id -> index
    provider  the execution provider that runs both graphs
    """

    manifest: Manifest
    items: list[str]
    index: dict[str, int]
    provider: str
    score_inputs: tuple[str, ...]
    _step: ort.InferenceSession
    _score: ort.InferenceSession

    def step(self, item: I64, event_type: I64, gap: I64, state: list[StateArray]) -> tuple[F32, list[StateArray]]:
        """One click for each of B users.

        item        (B,) in [0, V], V = unknown
        event_type  (B,) in [0, T], T = unknown
        gap         (B,) bucket of Manifest.gap_edges_ms, 0 = the user's first click
        state       the manifest's tensors, each (B, *shape) of its dtype
        returns     surprise (B,) float32, nats, of each click under the state before it; the states after it
        Any of the results may be NaN or infinite: the caller must look. Raises ArtifactError on an index out of range.
        """
        count = len(item)
        pad = -count % self.manifest.batch_multiple
        if count and not (item.min() >= 0 and item.max() <= len(self.items)):
            raise ArtifactError(f"model {self.manifest.label}: an item index lies outside 0..{len(self.items)}")
        feeds = {"item": _padded(item, pad), "event_type": _padded(event_type, pad), "gap": _padded(gap, pad)}
        for tensor, value in zip(self.manifest.state, state, strict=True):
            feeds[tensor.name] = _padded(value, pad)
        surprise, *after = self._step.run(None, feeds)
        return surprise[:count], [value[:count] for value in after]

    def score(self, state: list[StateArray], k: int) -> tuple[I64, F32, F32]:
        """The k likeliest next items of each of B users.

        state    the tensors named in score_inputs, each (B, *shape)
        returns  items (B, k) int64 best first, log_probs (B, k) float32, event_probs (B, T + 1) float32
        """
        count = len(state[0])
        pad = -count % self.manifest.batch_multiple
        feeds = {name: _padded(value, pad) for name, value in zip(self.score_inputs, state, strict=True)}
        feeds["k"] = np.array([k], np.int64)
        items, log_probs, event_probs = self._score.run(None, feeds)
        return items[:count], log_probs[:count], event_probs[:count]


def load_model(directory: Path, device: str) -> Model:
    """Load and check a model directory for a device of settings.DEVICES.

    Raises ArtifactError if the directory is not a whole model, ConfigError if CUDA was asked for and cannot be had.
    """
    manifest = read_manifest(directory)
    try:
        items = msgspec.json.decode((directory / "items.json").read_bytes(), type=list[str])
    except msgspec.DecodeError as exc:
        raise ArtifactError(f"model {directory}: items.json is not a list of item ids ({exc}); train it again") from exc
    if len(items) != manifest.items:
        raise ArtifactError(f"model {directory}: items.json has {len(items)} items, the manifest {manifest.items}")
    provider = _provider(device)
    step = _session(directory / "step.onnx", provider, device)
    score = _session(directory / "score.onnx", provider, device)
    provider = step.get_providers()[0]
    state = [tensor.name for tensor in manifest.state]
    if [value.name for value in step.get_inputs()] != ["item", "event_type", "gap", *state]:
        raise ArtifactError(f"model {directory}: step.onnx does not take what the manifest says; train it again")
    if [value.name for value in step.get_outputs()] != ["surprise", *(f"{name}_out" for name in state)]:
        raise ArtifactError(f"model {directory}: step.onnx does not give what the manifest says; train it again")
    inputs = tuple(value.name for value in score.get_inputs() if value.name != "k")
    if not set(inputs) <= set(state):
        raise ArtifactError(
            f"model {directory}: score.onnx takes {', '.join(inputs)}, which is no state; train it again"
        )
    index = {item: i for i, item in enumerate(items)}
    return Model(manifest, items, index, provider, inputs, step, score)


def _provider(device: str) -> str:
    """The provider to ask for. `auto` asks for CUDA only where an NVIDIA device shows, to keep a CPU start quiet."""
    available = ort.get_available_providers()
    if device == "cpu" or (device == "auto" and not (CUDA in available and Path("/dev/nvidiactl").exists())):
        return CPU
    if CUDA not in available:
        raise ConfigError(
            "device cuda: this onnxruntime has no CUDA; pip install '.[cuda]' in Eddy's directory on Linux x86-64, or "
            "--device cpu"
        )
    return CUDA


def _session(path: Path, provider: str, device: str) -> ort.InferenceSession:
    """One thread, no spinning: the worker calls it from one executor thread beside the event loop.

    CUDA computes in full float32 (no TF32), so that a state does not depend on the card.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = FATAL  # its errors are raised as well, and told in our own one line
    providers: list[str | tuple[str, dict[str, str]]] = [CPU]
    if provider == CUDA:
        with redirect_stdout(io.StringIO()):  # it prints what it misses
            ort.preload_dlls()
        ort.set_default_logger_severity(FATAL)  # a CUDA that is missing is told below, in one line
        providers.insert(0, (CUDA, {"use_tf32": "0"}))
    try:
        session = ort.InferenceSession(str(path), options, providers=providers)
    except Exception as exc:  # onnxruntime's exceptions share no other base
        raise ArtifactError(f"model {path.parent}: {path.name} is not a graph onnxruntime can run ({exc})") from exc
    finally:
        ort.set_default_logger_severity(WARNING)
    if device == "cuda" and session.get_providers()[0] != CUDA:
        raise ConfigError(
            "device cuda cannot be had here (no driver, card or CUDA libraries); pip install '.[cuda]' in Eddy's "
            "directory brings the libraries; or --device cpu"
        )
    return session


def _padded(values: npt.NDArray[Any], pad: int) -> npt.NDArray[Any]:
    return values if not pad else np.concatenate([values, np.zeros((pad, *values.shape[1:]), values.dtype)])
