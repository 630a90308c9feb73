"""The model part of the contenders: one click or a batch of clicks becomes results, and the users' states change.

It runs in the environment of each contender, so it imports nothing of Eddy but `waves`, which needs only NumPy.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from stream.engine.waves import waves

K = 20
BATCH = 5_000
"""Clicks of a batch at most: the default of `eddy worker --max-cycle-clicks`."""

SCORE_ROWS = 64
"""Users per call of the graph of the lists: their logits over the catalogue fit into the CPU's cache."""

SURPRISE_ROWS = 128
"""Clicks per call of surprise.onnx: what it gathers for them fits into the CPU's cache."""

Array = npt.NDArray[Any]


class Click(msgspec.Struct):
    """The fields of a click that the model reads."""

    user_id: str
    item_id: str
    timestamp: int
    event_type: str


class Result(msgspec.Struct):
    """What is published for each click."""

    user_id: str
    item_id: str
    timestamp: int
    items: list[str]
    log_probs: list[float]
    surprise: float


class State(NamedTuple):
    """The state of one user: the state tensors, each (1, *shape), and the time of the last click in ms."""

    tensors: list[Array]
    last_ms: int


decode = msgspec.json.Decoder(Click).decode
encode = msgspec.json.Encoder().encode


def open_graphs(directory: str) -> "Graphs":
    """The graphs of a model directory: of today's format, or of format 1, which has no surprise.onnx."""
    return Graphs(directory) if (Path(directory) / "surprise.onnx").is_file() else EarlierGraphs(directory)


class Graphs:
    """The graphs of a model directory, each on one thread, as Eddy runs them.

    state  name, shape and dtype of the state tensors
    """

    def __init__(self, directory: str) -> None:
        path = Path(directory)
        manifest = json.loads((path / "manifest.json").read_text())
        self.names: list[str] = json.loads((path / "items.json").read_text())
        self.state = [(one["name"], tuple(one["shape"]), one["dtype"]) for one in manifest["state"]]
        self._items = {name: number for number, name in enumerate(self.names)}
        self._types = {name: number for number, name in enumerate(manifest["event_types"])}
        self._edges = np.array(manifest["gap_edges_ms"], np.int64)
        lists = "shortlist.onnx" if (path / "shortlist.onnx").is_file() else "score.onnx"  # as a worker on a CPU
        self._step, self._score = _open(path / "step.onnx"), _open(path / lists)
        self._open_surprise(path)
        read = {value.name for value in self._score.get_inputs()}
        self._read = [number for number, (name, _, _) in enumerate(self.state) if name in read]

    def _open_surprise(self, path: Path) -> None:
        self._surprise = _open(path / "surprise.onnx")
        self._surprise_inputs = [value.name for value in self._surprise.get_inputs()]

    def inputs(self, clicks: list[Click]) -> tuple[Array, Array, Array]:
        """Index of the item, index of the event type, and time in ms of n clicks, each (n,) int64."""
        items = [self._items.get(click.item_id, len(self._items)) for click in clicks]
        types = [self._types.get(click.event_type, len(self._types)) for click in clicks]
        return np.array(items), np.array(types), np.array([click.timestamp for click in clicks])

    def step(
        self, item: Array, event_type: Array, time_ms: Array, last_ms: Array, state: list[Array]
    ) -> tuple[Array, list[Array]]:
        """Surprise (n,) of a click of each of n users, and the states after it. last_ms (n,): -1 = no click yet."""
        feeds = self._feeds(item, event_type, time_ms, last_ms)
        states = {name: value for (name, _, _), value in zip(self.state, state, strict=True)}
        after = self._step.run(None, {name: value[:, None] for name, value in feeds.items()} | states)
        known = feeds | states
        surprise = [
            self._surprise.run(
                None, {name: known[name][start : start + SURPRISE_ROWS] for name in self._surprise_inputs}
            )[0]
            for start in range(0, len(item), SURPRISE_ROWS)
        ]
        return np.concatenate(surprise), [value[:, 0] for value in after]

    def _feeds(self, item: Array, event_type: Array, time_ms: Array, last_ms: Array) -> dict[str, Array]:
        """The inputs of a click."""
        bucket = 1 + np.searchsorted(self._edges, np.maximum(time_ms - last_ms, 0), "right")
        return {"item": item, "event_type": event_type, "gap": np.where(last_ms < 0, 0, bucket)}

    def lists(self, state: list[Array]) -> tuple[Array, Array]:
        """Index and log-probability of the K most likely next items of n users, each (n, K)."""
        parts = []
        for start in range(0, len(state[0]), SCORE_ROWS):
            feeds = {self.state[n][0]: state[n][start : start + SCORE_ROWS] for n in self._read}
            parts.append(self._score.run(["items", "log_probs"], {**feeds, "k": np.array([K])}))
        items, log_probs = zip(*parts, strict=True)
        return np.concatenate(items), np.concatenate(log_probs)

    def new_state(self, users: int = 1) -> list[Array]:
        """The state tensors of users without a click, each (users, *shape)."""
        return [np.zeros((users, *shape), dtype) for _, shape, dtype in self.state]

    def results(self, clicks: list[Click], surprise: Array, items: Array, log_probs: Array) -> list[Result]:
        """The results of n clicks."""
        rows = zip(
            clicks,
            items.tolist(),
            log_probs.astype(np.float64).round(5).tolist(),
            surprise.astype(np.float64).round(5).tolist(),
            strict=True,
        )
        names = self.names
        return [
            Result(click.user_id, click.item_id, click.timestamp, [names[i] for i in row], logs, nats)
            for click, row, logs, nats in rows
        ]

    def one(self, click: Click, state: State | None) -> tuple[State, Result]:
        """Process one click of a user. state: None = the user's first click."""
        before = state or State(self.new_state(), -1)
        item, event_type, time_ms = self.inputs([click])
        surprise, after = self.step(item, event_type, time_ms, np.array([before.last_ms]), before.tensors)
        result = self.results([click], surprise, *self.lists(after))[0]
        return State(after, max(before.last_ms, click.timestamp)), result


class EarlierGraphs(Graphs):
    """The graphs of format 1: step.onnx takes one click of a user, and makes the surprise itself."""

    def _open_surprise(self, path: Path) -> None:
        pass

    def step(
        self, item: Array, event_type: Array, time_ms: Array, last_ms: Array, state: list[Array]
    ) -> tuple[Array, list[Array]]:
        states = {name: value for (name, _, _), value in zip(self.state, state, strict=True)}
        surprise, *after = self._step.run(None, self._feeds(item, event_type, time_ms, last_ms) | states)
        return surprise, after


def _open(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class Users:
    """The states of all users as arrays with a row for each user, and a dict from user id to row."""

    def __init__(self, graphs: Graphs) -> None:
        self._graphs = graphs
        self._row: dict[str, int] = {}
        self._tensors = graphs.new_state(1_024)
        self._last_ms = np.full(1_024, -1)

    def process(self, clicks: list[Click]) -> list[Result]:
        """Process a batch. Clicks of one user are stepped one after the other, in the order of the batch."""
        rows = self._rows(clicks)
        item, event_type, time_ms = self._graphs.inputs(clicks)
        surprise = np.empty(len(clicks), np.float32)
        after = self._graphs.new_state(len(clicks))
        for wave in waves(rows):
            user = rows[wave]
            before = [tensor[user] for tensor in self._tensors]
            surprise[wave], states = self._graphs.step(
                item[wave], event_type[wave], time_ms[wave], self._last_ms[user], before
            )
            self._last_ms[user] = np.maximum(self._last_ms[user], time_ms[wave])
            for tensor, kept, value in zip(self._tensors, after, states, strict=True):
                tensor[user] = kept[wave] = value
        return self._graphs.results(clicks, surprise, *self._graphs.lists(after))

    def _rows(self, clicks: list[Click]) -> npt.NDArray[np.intp]:
        """The row of each click's user, (n,). New users get new rows."""
        rows = np.array([self._row.setdefault(click.user_id, len(self._row)) for click in clicks], np.intp)
        while len(self._row) > len(self._last_ms):
            self._tensors = [np.concatenate([tensor, np.zeros_like(tensor)]) for tensor in self._tensors]
            self._last_ms = np.concatenate([self._last_ms, np.full_like(self._last_ms, -1)])
        return rows
