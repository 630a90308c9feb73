"""Alternative training methods, compared with `eddy train` on public logs: losses, item rows, averaging, settings.

Only the training part of each log is read (bench/datasets.py), never its test part. All methods start from the same
seeds and settings. Each is evaluated on the held-out slice by recall@20 and MRR@20, for the network alone after its
best epoch and for the lists as served, with the mixture.

    python -m bench.ways [--datasets bolcom] [--seeds 0,1,2] [--ways NAMES] [--json]
"""

import argparse
import copy
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from bench.cases import EPOCHS
from bench.command import say
from bench.datasets import split_of
from bench.inputs import untrained
from bench.report import RESULTS, Figures, kept, write_report
from export.dataset.windows import Batch, Clicks
from export.fit.mixture import mixed
from export.log.log import read_log
from export.network.network import INPUT_LENGTH, Network, Sizes, unit
from export.progress import NullProgress
from export.train.epochs import held_out_quality
from export.train.holdout import HeldOut, hold_out
from export.train.settings import TrainSettings
from export.train.trainer import RowAdagrad, Trainer

RESULT = RESULTS / "ways.json"
MASKED = 0.1
"""Share of the clicks whose item is replaced by the unknown item in the cell's input."""

AVERAGED = 3
"""Count of last epochs whose networks are averaged."""


class Plain(Trainer):
    """The trainer of `eddy train`, unchanged."""


class BprMax(Trainer):
    """BPR-max: Bayesian personalised ranking against the negatives, weighted by their softmax.

    Source: Hidasi & Karatzoglou 2018. Their score regularisation is left out, because unit rows bound the scores.
    """

    def _loss(self, out: Tensor, rows: Tensor, bias: Tensor, wanted: Tensor, others: Tensor, log_q: Tensor) -> Tensor:
        own = (out * rows[wanted]).sum(1) + bias[wanted]
        rivals = torch.addmm(bias[others], out, rows[others].t())
        rivals = rivals.masked_fill(wanted.unsqueeze(1) == others.unsqueeze(0), -1e9)
        share = torch.softmax(rivals, dim=1)
        return -torch.log((share * torch.sigmoid(own.unsqueeze(1) - rivals)).sum(1) + 1e-24)


class Uncorrected(Trainer):
    """Sampled softmax without the log-Q correction of the negatives."""

    def _loss(self, out: Tensor, rows: Tensor, bias: Tensor, wanted: Tensor, others: Tensor, log_q: Tensor) -> Tensor:
        return super()._loss(out, rows, bias, wanted, others, torch.zeros_like(log_q))


class Masked(Trainer):
    """Input dropout of whole clicks: a share of the items is replaced by the unknown item."""

    def _with_unknowns(self, clicks: Clicks, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        item, target, at = super()._with_unknowns(clicks, batch)
        hidden = torch.from_numpy(self._rng.random(item.shape) < MASKED)
        return item.masked_fill(hidden, self._network.sizes.items), target, at


class TwoTables(Network):
    """A network whose cell input has its own item rows, separate from the ranking rows."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self.input_rows = nn.Parameter(unit(torch.randn(sizes.items + 1, sizes.hidden)))

    def embed(self, item: Tensor, event_type: Tensor, gap: Tensor) -> Tensor:
        own = unit(embedding(item, self.input_rows)) * INPUT_LENGTH
        return own + embedding(event_type, self.event_rows) + embedding(gap, self.gap_rows)


class Separate(Trainer):
    """Trains both tables of TwoTables by Adagrad."""

    def __init__(self, network: Network, *rest: Any, **named: Any) -> None:
        super().__init__(network, *rest, **named)
        assert isinstance(network, TwoTables)
        self._table = network.input_rows
        self._adagrad = RowAdagrad(self._table)
        self._table.register_post_accumulate_grad_hook(self._learn)

    def _clicked(self, item: Tensor, rows: Tensor) -> Tensor:
        return unit(embedding(item, self._table, sparse=True)) * INPUT_LENGTH

    def _learn(self, table: Tensor) -> None:
        assert table.grad is not None
        gradient = table.grad.coalesce()
        self._adagrad.step(gradient.indices()[0], gradient.values(), self._settings.row_rate * self._pace())
        table.grad = None


class Averaged(Trainer):
    """Averages the weights of the networks after the last AVERAGED epochs."""

    def __init__(self, *rest: Any, **named: Any) -> None:
        super().__init__(*rest, **named)
        self._last: list[Network] = []

    def trained(self) -> Network:
        self._last = [*self._last, super().trained()][-AVERAGED:]
        mean = copy.deepcopy(self._last[-1])
        parts = [network.state_dict() for network in self._last]
        mean.load_state_dict({name: sum(part[name] for part in parts) / len(parts) for name in parts[0]})
        mean.item_rows.data = unit(mean.item_rows.data)
        return mean


WAYS: dict[str, tuple[type[Trainer], Figures]] = {
    "as it is": (Plain, {}),
    "BPR-max": (BprMax, {}),
    "softmax without log Q": (Uncorrected, {}),
    "rows of its own for the cell": (Separate, {}),
    "a tenth of the clicks hidden": (Masked, {}),
    "mean of the last epochs": (Averaged, {}),
    "no dropout": (Plain, {"dropout": 0.0}),
    "dropout 0.2": (Plain, {"dropout": 0.2}),
    "negatives by count": (Plain, {"alpha": 1.0}),
    "512 negatives": (Plain, {"negatives": 512}),
}
"""Name -> trainer class, and the settings that differ from those of `eddy train`."""


def start(held_out: HeldOut, settings: TrainSettings, kind: type[Trainer]) -> Network:
    network = untrained(held_out, settings)
    if kind is not Separate:
        return network
    both = TwoTables(network.sizes)
    both.load_state_dict(network.state_dict(), strict=False)
    return both


def measure(held_out: HeldOut, kind: type[Trainer], settings: TrainSettings) -> Figures:
    """Held-out recall@20 and MRR@20: of the network alone after its best epoch, and of the lists as served."""
    network = start(held_out, settings, kind)
    trainer = kind(network, held_out.head, settings, NullProgress(), held_out.popularity, category=held_out.category)
    epochs: list[tuple[float, float, Network]] = []
    for _ in range(settings.epochs):
        trainer.epoch("")
        now = trainer.trained()
        epochs.append((*held_out_quality(now, held_out.tail), now))
    recall, mrr, best = max(epochs, key=lambda epoch: epoch[0] + epoch[1])
    served = mixed(best, held_out, settings.seed)
    return {"network_recall20": recall, "network_mrr20": mrr, **served.quality}


def over_seeds(runs: list[Figures]) -> Figures:
    means = {key: round(float(np.mean([run[key] for run in runs])), 4) for key in runs[0]}
    return {**means, "by_seed": [{key: round(value, 4) for key, value in run.items()} for run in runs]}


def table(dataset: str, ways: dict[str, Figures]) -> str:
    lines = [f"{dataset:32}{'network alone':>20}{'as served':>20}"]
    for name, one in ways.items():
        pairs = ((one["network_recall20"], one["network_mrr20"]), (one["recall20"], one["mrr20"]))
        lines.append(f"  {name:30}" + "".join(f"{f'{recall:.4f} / {mrr:.4f}':>20}" for recall, mrr in pairs))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", default="bolcom", help="comma-separated names [%(default)s]")
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated seeds of the trainings [%(default)s]")
    parser.add_argument("--ways", default=",".join(WAYS), help="comma-separated methods [all]")
    parser.add_argument("--json", action="store_true", help="print the report on stdout")
    given = parser.parse_args()
    torch.set_num_threads(1)
    results, report = kept(RESULT, "results"), {}
    conditions = {"judged": "the held-out slice of the training part", "epochs": EPOCHS, "threads": 1}
    for dataset in given.datasets.split(","):
        with tempfile.TemporaryDirectory() as scratch:
            split = split_of(dataset)
            split.train.write_parquet(Path(scratch) / "train.parquet")
            held_out = hold_out(read_log(Path(scratch) / "train.parquet", in_order="--in-order" in split.flags))
        ways = results.setdefault(dataset, {})
        for name in given.ways.split(","):
            kind, differs = WAYS[name]
            runs = []
            for seed in map(int, given.seeds.split(",")):
                say(f"ways: {dataset}, {name}, seed {seed}")
                plain = TrainSettings.for_log(len(held_out.clicks), None, EPOCHS.get(dataset), seed)
                torch.manual_seed(seed)
                runs.append(measure(held_out, kind, replace(plain, **differs)))
            ways[name] = over_seeds(runs)
            report = write_report(RESULT, "bench.ways", conditions, results, [])
        if not given.json:
            print(table(dataset, ways), flush=True)
    if given.json:
        print(json.dumps(report))


if __name__ == "__main__":
    main()
