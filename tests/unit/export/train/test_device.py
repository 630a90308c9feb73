"""Where a training runs. What needs a GPU is skipped without one."""

from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from export.cli import train
from export.dataset.windows import Windows, encode
from export.network.network import Network, Sizes
from export.network.states import outputs
from export.pipeline import train_model
from export.train.epochs import fit
from export.train.holdout import vocabulary_of
from export.train.settings import choose_device
from stream.errors import ConfigError
from stream.manifest import read_manifest
from tests.unit.export.train.test_checkpoint import Killed, Killing
from tests.unit.export.train.test_trainer import ITEMS, SETTINGS, Silent, shop

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")


@pytest.mark.parametrize(
    ("seen", "asked", "chosen"),
    [
        (False, "auto", "cpu"),
        (False, "cpu", "cpu"),
        (True, "auto", "cuda"),
        (True, "cpu", "cpu"),
        (True, "cuda", "cuda"),
    ],
)
def test_the_gpu_is_taken_if_torch_sees_one(
    monkeypatch: pytest.MonkeyPatch, seen: bool, asked: str, chosen: str
) -> None:
    """By default; --device cpu leaves it alone."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: seen)
    assert choose_device(asked) == chosen


def test_a_missing_gpu_is_reported_before_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--device cuda never falls back silently to the CPU, and writes nothing."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    log = tmp_path / "log.csv"
    log.write_text("user_id,item_id,timestamp\n" + "".join(f"u{n % 9},i{n % 5},{1e9 + n:.0f}\n" for n in range(300)))
    ran = CliRunner().invoke(train, [str(log), "--out", str(tmp_path / "m" / "1"), "--device", "cuda"])
    assert isinstance(ran.exception, ConfigError)
    assert "sees no GPU; leave it out" in str(ran.exception)
    assert not (tmp_path / "m").exists()


def test_outputs_are_where_the_network_is() -> None:
    """Nothing of the run over the log stays behind on the CPU: torch's own device without memory stands for a GPU."""
    log = shop(users=7, clicks=23)
    clicks = encode(log, vocabulary_of(log), 3_600_000)
    network = Network(Sizes(ITEMS, 1, 12, 8)).to("meta")
    out = outputs(network, Windows(clicks, length=5), np.arange(len(clicks)))
    assert (out.device.type, out.shape) == ("meta", (len(clicks), 8))


def test_the_pace_is_that_of_the_rounds_alone() -> None:
    """Clicks per second are counted over the epochs, and judging them takes none of it."""
    log = shop(users=50)
    clicks = encode(log, vocabulary_of(log), 3_600_000)
    progress, ticks = Killing(), count()
    network = Network(Sizes(ITEMS, 1, 12, 8))
    settings = replace(SETTINGS, hidden=8, epochs=2)
    fitted = fit(network, clicks, clicks, settings, progress, clock_s=lambda: 4.0 * next(ticks))
    assert fitted.clicks_per_s == 100.0
    assert [line.split(", ")[1] for line in progress.said] == ["100 clicks/s"] * 2


@GPU
def test_a_training_on_the_gpu_is_as_good_as_on_the_cpu(tmp_path: Path) -> None:
    """The rule of the shop is learned as well, in other bits; what is written is a model like any other."""
    found = {}
    for device in ("cpu", "cuda"):
        settings = replace(SETTINGS, device=device)
        found[device] = train_model(tmp_path / device / "1", shop(), settings, Silent()).quality
    for measure, on_cpu in found["cpu"].items():
        assert abs(found["cuda"][measure] - on_cpu) < 0.03


@GPU
def test_a_training_on_the_gpu_goes_on_after_a_crash(tmp_path: Path) -> None:
    """A checkpoint of the GPU is read there, and not by a training on the CPU."""
    directory, log, settings = tmp_path / "m" / "1", shop(users=100), replace(SETTINGS, epochs=3, device="cuda")
    with pytest.raises(Killed):
        train_model(directory, log, settings, Killing(2))
    with pytest.raises(ConfigError, match="train without --resume"):
        train_model(directory, log, replace(settings, device="cpu"), Silent(), resume=True)
    progress = Killing()
    train_model(directory, log, settings, progress, resume=True)
    assert "resuming after epoch 1" in progress.said
    assert read_manifest(directory).items == ITEMS
