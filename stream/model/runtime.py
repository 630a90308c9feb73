"""Loads the ONNX graphs of a model directory, and runs three of them: step, surprise and score.

The graphs index tables by item. An index out of range would read a wrong row without an error, so this module checks
the indices. If CUDA is not available, onnxruntime falls back to the CPU without an error; this module raises an error
instead when the device is `cuda`.
"""

import io
import logging
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnxruntime import InferenceSession  # an ImportError where the package is there, but its files are not

from stream.errors import ArtifactError, ConfigError
from stream.manifest import AHEAD, GRAPHS, SHORTLIST, Manifest, read_manifest
from stream.model.ahead import AheadGraph
from stream.model.calls import run_in_calls
from stream.model.external import check_external
from stream.wire.fields import LONGEST_ID

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]
StateArray = npt.NDArray[Any]
"""A state tensor of B users, with the dtype of the manifest."""

CLICK = ("item", "event_type", "gap")
"""Names of the inputs of step.onnx and surprise.onnx that describe the clicks."""

LONGEST_ITEM_BYTES = 12 * LONGEST_ID + 3
"""Of one id in items.json: JSON may write a character as twelve bytes, an escaped surrogate pair."""

WARNING, FATAL = 2, 4  # onnxruntime's log severities
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
NVIDIA = Path("/dev/nvidiactl")
NO_CUDA = (
    "the installed onnxruntime has no CUDA; pip uninstall onnxruntime onnxruntime-gpu, then pip install '.[cuda]' in "
    "Eddy's directory"
)
"""Each of the two packages overwrites the other's files, so both must go before the right one is installed."""

log = logging.getLogger(__name__)

SCORE_ROWS = {CPU: 64, CUDA: 4_096}
"""Most users per call of score.onnx. 64 users' logits over the catalogue fit into a CPU's cache (design part 3); only
many users keep a GPU busy."""

DEEPEST = 1_200
"""Items of the longest list of shortlist.onnx. Rules ask for deeper rankings, which score.onnx makes: a large catalogue
ranks only a part of its items in a shortlist."""

SURPRISE_ROWS = 128
"""Most clicks per call of surprise.onnx on a CPU. What it gathers for so many fits into the cache: 7 us per click, and
8.7 us with 2,000 clicks, at 20,000 items."""

GPU_STEP_ROWS = 1_024
"""Users per call of step.onnx, and clicks per call of surprise.onnx, on a GPU, filled up with zeros. cuBLAS chooses its
kernel by the number of rows: with other numbers the last bits of a state would depend on how the clicks were split into
batches."""

GPU_STEP_CLICKS = 16
"""Most clicks of each user per call of step.onnx on a GPU: a bot's thousand clicks would fill a gigabyte with zeros."""

LOGIT_BYTES = 1 << 30
"""Most bytes of the logits of one call of score.onnx; the graph needs about three times as much memory."""


@dataclass(frozen=True)
class Model:
    """A loaded model directory.

    items            index -> item id; the index len(items) is the unknown item
    index            item id -> index
    provider         the execution provider that runs the graphs
    surprise_inputs  the state tensors that surprise.onnx reads
    score_inputs     the state tensors that score.onnx reads
    ahead            ahead.onnx; None = the model does not predict what a user does next
    """

    manifest: Manifest
    items: list[str]
    index: dict[str, int]
    provider: str
    surprise_inputs: tuple[str, ...]
    score_inputs: tuple[str, ...]
    ahead: AheadGraph | None
    _step: InferenceSession
    _surprise: InferenceSession
    _score: InferenceSession
    _exact: Path

    @cached_property
    def names(self) -> npt.NDArray[np.object_]:
        """The items (V,) as an array of Python strings: to select many ids takes a fifth of the time of a list."""
        return np.array(self.items, np.object_)

    @cached_property
    def state_names(self) -> tuple[str, ...]:
        """Names of the state tensors."""
        return tuple(tensor.name for tensor in self.manifest.state)

    @cached_property
    def _states_after(self) -> list[str]:
        return [f"{name}_out" for name in self.state_names]

    @cached_property
    def gap_edges_ms(self) -> I64:
        """The edges of the gap buckets, for `gap_bucket`."""
        return np.array(self.manifest.gap_edges_ms, np.int64)

    @cached_property
    def _deep(self) -> InferenceSession:
        """score.onnx. It is loaded at the first deep ranking, because most workers never need one."""
        if self.provider == CPU and SHORTLIST in self.manifest.graphs:
            return _runtime(self._exact, CPU, "cpu")
        return self._score

    def step(self, item: I64, event_type: I64, gap: I64, state: list[StateArray]) -> list[StateArray]:
        """Run step.onnx on N clicks of each of B users, one after the other.

        item        (B, N) in [0, V], V = unknown
        event_type  (B, N) in [0, T], T = unknown
        gap         (B, N) bucket of Manifest.gap_edges_ms, 0 = the user's first click
        state       the state tensors of the manifest before the first clicks, each (B, *shape) with its dtype
        returns     the state tensors after each click, each (B, N, *shape)
        The results may be NaN or infinite, so the caller must check them. Raises ArtifactError if an index is out of
        range.
        """
        self._check(item)
        most, multiple, clicks = max(1, len(item)), self.manifest.batch_multiple, max(1, item.shape[1])
        if self.provider == CUDA:
            most, multiple, clicks = GPU_STEP_ROWS, GPU_STEP_ROWS, GPU_STEP_CLICKS
        parts: list[list[StateArray]] = []
        for start in range(0, item.shape[1], clicks):
            some = slice(start, start + clicks)
            feeds = {"item": item[:, some], "event_type": event_type[:, some], "gap": gap[:, some]}
            feeds |= zip(self.state_names, state, strict=True)
            parts.append(run_in_calls(self._step, self._states_after, feeds, {}, most, multiple))
            state = [value[:, -1] for value in parts[-1]]
        return parts[0] if len(parts) == 1 else [np.concatenate(part, axis=1) for part in zip(*parts, strict=True)]

    def surprise(self, item: I64, event_type: I64, gap: I64, state: list[StateArray]) -> tuple[F32, F32]:
        """Run surprise.onnx: the surprises of item and event type, each (n,) float32, nats, of n clicks.

        item, event_type, gap  (n,) as in `step`
        state                  before the clicks: the tensors named in surprise_inputs, each (n, *shape)
        The results may be NaN or infinite. Raises ArtifactError if an index is out of range.
        """
        self._check(item)
        feeds = {"item": item, "event_type": event_type, "gap": gap}
        feeds |= zip(self.surprise_inputs, state, strict=True)
        rows, multiple = SURPRISE_ROWS, self.manifest.batch_multiple
        if self.provider == CUDA:
            rows, multiple = GPU_STEP_ROWS, GPU_STEP_ROWS
        of_item, of_type = run_in_calls(self._surprise, ["surprise", "event_surprise"], feeds, {}, rows, multiple)
        return of_item, of_type

    def _check(self, item: I64) -> None:
        if item.size and item.view(np.uint64).max() > len(self.items):  # a negative index is a large one
            raise ArtifactError(f"model {self.manifest.label}: an item index lies outside 0..{len(self.items)}")

    def score(self, state: list[StateArray], k: int) -> tuple[I64, F32]:
        """Run score.onnx, or shortlist.onnx where it serves (DEEPEST): the k most likely next items of each of B users.

        state    the tensors named in score_inputs, each (B, *shape)
        returns  items (B, k) int64 best first, log_probs (B, k) float32
        """
        feeds = dict(zip(self.score_inputs, state, strict=True))
        rows = min(SCORE_ROWS[self.provider], LOGIT_BYTES // (4 * len(self.items)))  # MOST_ITEMS leaves 26
        depth = {"k": np.array([k], np.int64)}
        lists = ["items", "log_probs"]
        graph = self._score if k <= DEEPEST else self._deep
        items, log_probs = run_in_calls(graph, lists, feeds, depth, rows, self.manifest.batch_multiple)
        return items, log_probs


def load_model(directory: Path, device: str) -> Model:
    """Load and check a model directory for a device of settings.DEVICES.

    Raises ArtifactError if the directory is not a complete model, ConfigError if `device` is cuda and CUDA is not
    available.
    """
    manifest = read_manifest(directory)
    items = read_items(directory, manifest)
    for graph in manifest.graphs:
        check_external(directory, graph, manifest)
    provider = _provider(device)
    step, surprise = (_runtime(directory / graph, provider, device) for graph in GRAPHS[:2])
    provider = step.get_providers()[0]
    lists = SHORTLIST if provider == CPU and SHORTLIST in manifest.graphs else "score.onnx"  # a GPU has no such product
    score = _runtime(directory / lists, provider, device)
    state = [tensor.name for tensor in manifest.state]
    if [value.name for value in step.get_inputs()] != [*CLICK, *state]:
        raise ArtifactError(f"model {directory}: the inputs of step.onnx do not match the manifest; train it again")
    if [value.name for value in step.get_outputs()] != [f"{name}_out" for name in state]:
        raise ArtifactError(f"model {directory}: the outputs of step.onnx do not match the manifest; train it again")
    known = _state_inputs(directory, surprise, "surprise.onnx", CLICK, state)
    ranked = _state_inputs(directory, score, lists, ("k",), state)
    index = {item: i for i, item in enumerate(items)}
    ahead = None
    if AHEAD in manifest.graphs:  # so small that a GPU would take longer
        ahead = AheadGraph(_runtime(directory / AHEAD, CPU, "cpu"), len(manifest.event_types), directory)
    return Model(
        manifest, items, index, provider, known, ranked, ahead, step, surprise, score, directory / "score.onnx"
    )


def _state_inputs(
    directory: Path, runtime: ort.InferenceSession, graph: str, others: tuple[str, ...], state: list[str]
) -> tuple[str, ...]:
    """The state tensors that a graph reads beside its inputs `others`."""
    names = tuple(value.name for value in runtime.get_inputs() if value.name not in others)
    if not set(names) <= set(state):
        raise ArtifactError(
            f"model {directory}: {graph} reads {', '.join(names)}, which are not all in the state; train it again"
        )
    return names


def read_items(directory: Path, manifest: Manifest) -> list[str]:
    """The item ids of items.json. Raises ArtifactError if they are not `manifest.items` different ids."""
    path = directory / "items.json"
    if path.stat().st_size > manifest.items * LONGEST_ITEM_BYTES + 1024:
        raise ArtifactError(f"model {directory}: items.json is too large for {manifest.items} items; train it again")
    try:
        items = msgspec.json.decode(path.read_bytes(), type=list[str])
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise ArtifactError(f"model {directory}: items.json is not a list of item ids ({exc}); train it again") from exc
    if len(items) != manifest.items:
        raise ArtifactError(f"model {directory}: items.json has {len(items)} items, the manifest has {manifest.items}")
    if not all(0 < len(item) <= LONGEST_ID for item in items):
        raise ArtifactError(f"model {directory}: items.json has an id without 1 to {LONGEST_ID} characters")
    if len(set(items)) < len(items):
        raise ArtifactError(f"model {directory}: items.json has an id twice; train it again")
    return items


def _provider(device: str) -> str:
    """The execution provider to request.

    `auto` requests CUDA only if an NVIDIA device exists, so that onnxruntime logs no error on a machine without one.
    """
    if device == "cpu" or (device == "auto" and not NVIDIA.exists()):
        return CPU
    if CUDA in ort.get_available_providers():
        return CUDA
    if device == "cuda":
        raise ConfigError(f"device cuda: {NO_CUDA}, or use --device cpu")
    log.warning("the NVIDIA GPU is not used: %s", NO_CUDA)
    return CPU


def _runtime(path: Path, provider: str, device: str) -> InferenceSession:
    """Open a graph. It runs in one thread without spinning: the worker calls it from one thread beside the event loop.

    CUDA computes in full float32 (no TF32), so that a state does not depend on the GPU model.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = FATAL  # it also raises its errors, and Eddy prints those
    providers: list[str | tuple[str, dict[str, str]]] = [CPU]
    if provider == CUDA:
        with redirect_stdout(io.StringIO()):  # it prints the missing libraries to stdout
            ort.preload_dlls()
        ort.set_default_logger_severity(FATAL)  # ConfigError below reports missing CUDA
        providers.insert(0, (CUDA, {"use_tf32": "0"}))
    try:
        runtime = InferenceSession(str(path), options, providers=providers)
    except Exception as exc:  # onnxruntime's exceptions have no other common base class
        raise ArtifactError(f"model {path.parent}: onnxruntime cannot run {path.name} ({exc})") from exc
    finally:
        ort.set_default_logger_severity(WARNING)
    if device == "cuda" and runtime.get_providers()[0] != CUDA:
        raise ConfigError(
            "device cuda is not available: the driver, the GPU or the CUDA libraries are missing; install the "
            "libraries with pip install '.[cuda]' in Eddy's directory, or use --device cpu"
        )
    return runtime
