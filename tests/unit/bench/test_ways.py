"""Each alternative training method does what its name says."""

import numpy as np
import polars as pl
import pytest
import torch

from bench.ways import WAYS, Averaged, BprMax, Plain, Separate, TwoTables, Uncorrected, measure, start
from export.log.log import read_log
from export.progress import NullProgress
from export.train.holdout import HeldOut, hold_out
from export.train.settings import TrainSettings
from export.train.trainer import Trainer

SETTINGS = TrainSettings(hidden=8, epochs=2, tokens=32, negatives=16)


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> HeldOut:
    """A short log of users who go round in a ring of items."""
    path = tmp_path_factory.mktemp("logs") / "log.parquet"
    number = np.arange(600)
    item = (number // 40 + number % 40) % 15
    times = 1_600_000_000_000 + 60_000 * number
    pl.DataFrame({"user_id": number % 40, "item_id": item, "timestamp": times}).write_parquet(path)
    return hold_out(read_log(path))


def trainer(held_out: HeldOut, kind: type[Trainer]) -> Trainer:
    return kind(start(held_out, SETTINGS, kind), held_out.head, SETTINGS, NullProgress())


@pytest.mark.parametrize("name", WAYS)
def test_each_way_learns(held_out: HeldOut, name: str) -> None:
    """The loss falls."""
    kind, _ = WAYS[name]
    one = trainer(held_out, kind)
    first, second = one.epoch(""), one.epoch("")
    assert second < first


@pytest.mark.parametrize("kind", [Plain, Separate, Averaged])
def test_a_way_is_measured_by_its_lists(held_out: HeldOut, kind: type[Trainer]) -> None:
    """The figures are those of lists, also of a network with more tables and of a mean of networks."""
    figures = measure(held_out, kind, SETTINGS)
    assert 0 < figures["network_recall20"] <= 1
    assert 0 < figures["recall20"] <= 1


def test_the_cell_reads_its_own_rows(held_out: HeldOut) -> None:
    """Both tables are learned, and differ; what is judged reads the cell's."""
    one = trainer(held_out, Separate)
    before = one.trained()
    one.epoch("")
    after = one.trained()
    assert isinstance(before, TwoTables)
    assert isinstance(after, TwoTables)
    assert (before.input_rows != after.input_rows).any()
    assert (before.item_rows != after.item_rows).any()
    item = torch.tensor([3])
    ids = item, torch.tensor([0]), torch.tensor([0])
    embedded = after.embed(*ids)
    after.item_rows.data.zero_()
    torch.testing.assert_close(after.embed(*ids), embedded)


def test_losses_are_what_they_are_called(held_out: HeldOut) -> None:
    """BPR-max is least where the item that came is far above its rivals; without log Q no draw is corrected."""
    out, rows = torch.tensor([[10.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    bias, log_q = torch.zeros(2), torch.tensor([-3.0])
    right, wrong = torch.tensor([0]), torch.tensor([1])
    bpr, plain, uncorrected = (trainer(held_out, kind) for kind in (BprMax, Plain, Uncorrected))
    near = bpr._loss(out, rows, bias, right, wrong, log_q)
    far = bpr._loss(out, rows, bias, wrong, right, log_q)
    assert near.item() == pytest.approx(np.log1p(np.exp(-10)), abs=1e-6)
    assert far.item() == pytest.approx(np.log1p(np.exp(10)), abs=1e-3)
    moved = (
        plain._loss(out, rows, bias, right, wrong, log_q - 1),
        uncorrected._loss(out, rows, bias, right, wrong, log_q),
    )
    assert moved[0] > plain._loss(out, rows, bias, right, wrong, log_q)
    assert moved[1] == uncorrected._loss(out, rows, bias, right, wrong, log_q - 1)


def test_the_mean_is_of_the_last_epochs(held_out: HeldOut) -> None:
    """Of two networks: half-way between, in all that is learned but the rows' length."""
    one = trainer(held_out, Averaged)
    alone, means = [], []
    for _ in range(2):
        one.epoch("")
        alone.append(Trainer.trained(one))
        means.append(one.trained())
    torch.testing.assert_close(means[1].gap_rows, (alone[0].gap_rows + alone[1].gap_rows) / 2)
    torch.testing.assert_close(means[1].item_rows.norm(dim=1), torch.ones(len(means[1].item_rows)))
