"""Compares the graphs on a GPU and on one CPU thread: time per click, and whether the results are the same.

The models have random weights, H units and V items; the users have made three random clicks. One row per V and batch:

- step, score: wall microseconds per click, best of ROUNDS; inputs and results are in the host's memory. step is one
  click of each user, with its surprise. score is the 22 best items, in the calls that a worker
  makes; on the CPU it is measured up to the batch MOST_ON_CPU, because more only repeat the calls.
- host: CPU microseconds per click that the GPU's side takes.
- surprise, log_prob: largest difference between GPU and CPU, nats; lists: share of users whose 22 items are the same in
  the same order.
- split: share of the users whose state has other bits when the same clicks come in batches of 64.

    python -m bench.gpu [--items 10000,100000,1000000] [--batches 64,1024,16384] [--hidden 128] [--models DIRECTORY]
        [--json]

Models are written to --models and used again. Exit code 2 without a GPU.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.command import say, stop
from bench.report import RESULTS, conclude, write_report
from export.model.untrained import write_untrained
from stream.errors import ConfigError
from stream.model.runtime import CUDA, Model, StateArray, load_model

CLICKS, DEPTH, ROUNDS = 3, 22, 5
MOST_ON_CPU = 1_024
EVENT_TYPES = ["view", "cart", "purchase"]


def main() -> int:
    """Run the benchmark and write bench/results/gpu.json."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--items", default="10000,100000,1000000", help="sizes of the catalogue, V")
    parser.add_argument("--batches", default="64,1024,16384", help="clicks per call")
    parser.add_argument("--hidden", type=int, default=128, help="units, H")
    parser.add_argument("--models", type=Path, help="directory for the models; they are used again")
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu.json")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    batches = [int(batch) for batch in options.batches.split(",")]
    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        for count in map(int, options.items.split(",")):
            directory = (options.models or Path(scratch)) / f"items-{count}" / str(options.hidden)
            if not (directory / "manifest.json").is_file():
                say(f"writing a model of {count:,} items")
                write_untrained(directory, [f"item-{n}" for n in range(count)], EVENT_TYPES, options.hidden)
            try:
                sides = {"gpu": load_model(directory, "cuda"), "cpu": load_model(directory, "cpu")}
            except ConfigError as exc:
                stop(str(exc))
            results[f"{count} items"] = compared(sides, batches)
            say(table(results[f"{count} items"], f"{count:,} items"))
    report = write_report(
        options.out, "bench.gpu", {"hidden": options.hidden, "gpu": gpu_name(), "depth": DEPTH}, results, []
    )
    return conclude(report, options.json)


def compared(sides: dict[str, Model], batches: list[int]) -> dict[str, dict[str, Any]]:
    """Batch -> the figures of the module's docstring."""
    rng, most = np.random.default_rng(0), max(batches)
    gpu, cpu = sides["gpu"], sides["cpu"]
    assert gpu.provider == CUDA
    state = [np.zeros((most, *part.shape), part.dtype) for part in cpu.manifest.state]
    for _ in range(CLICKS):
        click = clicks(cpu, most, rng)
        state = stepped(cpu, click, state)[1]
    click = clicks(cpu, most, rng)
    return {f"batch {batch}": one_batch(gpu, cpu, [part[:batch] for part in click], state) for batch in batches}


def one_batch(gpu: Model, cpu: Model, click: list[Any], state: list[StateArray]) -> dict[str, Any]:
    """The figures of one batch: `click` has the B users' clicks, and `state` begins with their states."""
    batch = len(click[0])
    state = [part[:batch] for part in state]
    read = [state[[part.name for part in cpu.manifest.state].index(name)] for name in cpu.score_inputs]
    few = [part[:MOST_ON_CPU] for part in read]
    found: dict[str, Any] = {}
    found["gpu step"], host_step, (surprise, after) = timed(lambda: stepped(gpu, click, state), batch)
    found["gpu score"], host_score, (items, log_probs) = timed(lambda: gpu.score(read, DEPTH), batch)
    found["gpu host"] = round(host_step + host_score, 2)
    found["cpu step"], _, (cpu_surprise, _) = timed(lambda: stepped(cpu, click, state), batch)
    found["cpu score"], _, (cpu_items, cpu_log_probs) = timed(lambda: cpu.score(few, DEPTH), len(few[0]))
    found["faster"] = round((found["cpu step"] + found["cpu score"]) / (found["gpu step"] + found["gpu score"]), 1)
    found["surprise"] = float(np.abs(surprise - cpu_surprise).max())
    found["log_prob"] = float(np.abs(log_probs[: len(cpu_items)] - cpu_log_probs).max())
    found["lists"] = float((items[: len(cpu_items)] == cpu_items).all(1).mean())
    parts = [slice(a, a + 64) for a in range(0, batch, 64)]
    split = [stepped(gpu, [part[few] for part in click], [part[few] for part in state])[1] for few in parts]
    same = np.ones(batch, np.bool_)
    for whole, *some in zip(after, *split, strict=True):
        same &= (whole == np.concatenate(some)).reshape(batch, -1).all(1)
    found["split"] = float(1 - same.mean())
    return found


def stepped(model: Model, click: list[Any], state: list[StateArray]) -> tuple[Any, list[StateArray]]:
    """The surprises of one click of each of B users, and the states after them."""
    item, event_type, gap = click
    names = [part.name for part in model.manifest.state]
    surprise, _ = model.surprise(item, event_type, gap, [state[names.index(name)] for name in model.surprise_inputs])
    return surprise, [value[:, 0] for value in model.step(*(part[:, None] for part in click), state)]


def clicks(model: Model, count: int, rng: np.random.Generator) -> list[Any]:
    """Items, event types and gap buckets of `count` random clicks, each (count,) int64."""
    bounds = len(model.items), len(EVENT_TYPES), len(model.manifest.gap_edges_ms) + 1
    return [rng.integers(0, bound, count) for bound in bounds]


def timed(run: Callable[[], Any], each: int) -> tuple[float, float, Any]:
    """Best wall and CPU microseconds of a run, divided by its `each` clicks; and its result. The first run warms up."""
    result, wall, cpu = run(), float("inf"), float("inf")
    for _ in range(ROUNDS):
        began, began_cpu = time.perf_counter(), time.process_time()
        run()
        cpu = min(cpu, time.process_time() - began_cpu)
        wall = min(wall, time.perf_counter() - began)
    return float(f"{wall / each * 1e6:.3g}"), float(f"{cpu / each * 1e6:.3g}"), result


def gpu_name() -> str:
    """Name of the first GPU."""
    import torch

    return torch.cuda.get_device_name(0)


def table(found: dict[str, dict[str, Any]], title: str) -> str:
    """The figures of one catalogue, for a person."""
    names = list(next(iter(found.values())))
    lines = [f"{title:14}" + "".join(f"{name:>11}" for name in names)]
    for batch, row in found.items():
        lines.append(f"{batch:14}" + "".join(f"{row[name]:>11.3g}" for name in names))
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
