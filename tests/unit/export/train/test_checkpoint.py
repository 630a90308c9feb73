"""A killed training continues to the same model."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from export.network.mixture import CLOSED
from export.network.weights import FILE
from export.pipeline import train_model
from export.train.checkpoint import Checkpoint, checkpoint_directory
from export.train.settings import TrainSettings
from stream.errors import ConfigError
from stream.manifest import read_manifest
from tests.once import once, shared_directory
from tests.unit.export.train.test_trainer import SETTINGS, Silent, shop

pytestmark = pytest.mark.usefixtures("hurried")

SHORT = replace(SETTINGS, epochs=2)


class Killed(Exception):
    """Raised instead of the end of the process."""


class Killing(Silent):
    """Ends the training when its n-th round begins; keeps the messages."""

    def __init__(self, at_round: int | None = None) -> None:
        super().__init__()
        self._rounds, self._at_round = 0, at_round
        self.said: list[str] = []

    def begin(self, label: str, clicks: int) -> None:
        self._rounds += "epoch" in label
        if self._rounds == self._at_round:
            raise Killed

    def say(self, line: str) -> None:
        self.said.append(line)


@pytest.fixture
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = shared_directory(tmp_path_factory) / "undisturbed" / "m" / "1"
    return once(directory, lambda path: train_model(path, shop(users=100), SHORT, Silent()))


@pytest.mark.parametrize("at_round", [2, 4])
def test_a_resumed_training_writes_the_same_model(tmp_path: Path, undisturbed: Path, at_round: int) -> None:
    """Killed between its two epochs, or between those of the second pass: same weights, graphs, calibration."""
    directory = tmp_path / "m" / "1"
    with pytest.raises(Killed):
        train_model(directory, shop(users=100), SHORT, Killing(at_round))
    assert checkpoint_directory(directory).is_dir()
    progress = Killing()
    train_model(directory, shop(users=100), SHORT, progress, resume=True)
    assert f"resuming after epoch {min(at_round - 1, 2)}" in progress.said
    for name in (FILE, "calibration.npz"):
        with np.load(directory / name) as ours, np.load(undisturbed / name) as theirs:
            assert all(np.array_equal(ours[array], theirs[array]) for array in theirs.files)
            assert name != FILE or (theirs["mixture.gates"][0] > CLOSED).any()  # the mixture, too, is compared
    ours, theirs = read_manifest(directory), read_manifest(undisturbed)
    assert ours.files == theirs.files
    assert ours.quality == theirs.quality
    reports = [json.loads((place / "report.json").read_text()) for place in (directory, undisturbed)]
    assert reports[0].pop("date") >= reports[1].pop("date")
    assert reports[0] == reports[1]  # all its curves
    assert not checkpoint_directory(directory).exists()


def test_a_new_training_does_not_continue_an_old_one(tmp_path: Path) -> None:
    """Without --resume a checkpoint is ignored; with --resume and no checkpoint, training starts from the beginning."""
    directory = tmp_path / "m" / "1"
    with pytest.raises(Killed):
        train_model(directory, shop(users=100), SHORT, Killing(2))
    with pytest.raises(Killed):
        train_model(directory, shop(users=100), SHORT, Killing(1))
    progress = Killing()
    train_model(directory, shop(users=100), SHORT, progress, resume=True)
    assert not any(line.startswith("resuming") for line in progress.said)


@pytest.mark.parametrize(
    ("users", "settings"), [(101, SHORT), (100, replace(SHORT, seed=2)), (100, replace(SHORT, hidden=8))]
)
def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path, users: int, settings: TrainSettings) -> None:
    """A checkpoint of different clicks, a different seed or different settings is refused."""
    directory = tmp_path / "m" / "1"
    with pytest.raises(Killed):
        train_model(directory, shop(users=100), SHORT, Killing(2))
    with pytest.raises(ConfigError, match="train without --resume"):
        train_model(directory, shop(users=users), settings, Silent(), resume=True)


def test_a_crash_while_saving_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    """An incomplete checkpoint does not replace the previous one."""
    checkpoint = Checkpoint(tmp_path / "whole.pt", "key", resume=True)
    checkpoint.save({"epoch": 1})
    with pytest.raises(Exception, match=r"pickle|local object"):
        checkpoint.save({"epoch": lambda: 2})
    assert checkpoint.load() == {"epoch": 1}


def test_a_cut_file_is_one_line(tmp_path: Path) -> None:
    """A checkpoint that is cut is refused."""
    checkpoint = Checkpoint(tmp_path / "whole.pt", "key", resume=True)
    checkpoint.save({"epoch": 1})
    content = (tmp_path / "whole.pt").read_bytes()
    for size in (0, 10, len(content) // 2):
        (tmp_path / "whole.pt").write_bytes(content[:size])
        with pytest.raises(ConfigError, match="cannot be read"):
            checkpoint.load()


def test_a_full_disk_does_not_end_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If no checkpoint can be written, a line reports it, and the model is still written."""

    def full(self: Checkpoint, content: dict[str, object]) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Checkpoint, "save", full)
    progress = Killing()
    train_model(tmp_path / "m" / "1", shop(users=100), replace(SHORT, epochs=1), progress)
    assert any("no checkpoint of epoch 1 (No space left on device)" in line for line in progress.said)
    assert read_manifest(tmp_path / "m" / "1").items == 40


def test_resume_without_a_checkpoint_is_reported(tmp_path: Path) -> None:
    """Otherwise a mistyped --out would silently start a training of hours."""

    class Hearing(Silent):
        def say(self, line: str) -> None:
            if "no checkpoint" in line:
                raise RuntimeError(line)

    with pytest.raises(RuntimeError, match=r"1\.training has no checkpoint: the training starts with the first epoch"):
        train_model(tmp_path / "rule" / "1", shop(users=100), SHORT, Hearing(), resume=True)
