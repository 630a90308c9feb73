"""Ctrl-C while a model is trained: the learned weights are kept, and no stack trace is printed."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from export.evaluate.evaluate import evaluate
from export.pipeline import train_model
from export.train.interrupts import INTERRUPTED, Interrupts
from stream.manifest import read_manifest
from tests.docs.blocks import ROOT
from tests.unit.export.train.test_trainer import ITEMS, SETTINGS, Silent, shop

pytestmark = pytest.mark.usefixtures("hurried")


@pytest.mark.parametrize("stop_after", [1, 2000])
def test_ctrl_c_keeps_a_model_that_can_be_served(tmp_path: Path, stop_after: int) -> None:
    """Stopped in the first round or in the second pass, training still ends with a whole directory."""
    directory = tmp_path / "rule" / "1"
    train_model(directory, shop(users=100), replace(SETTINGS, epochs=2), Silent(stop_after))
    assert read_manifest(directory).items == ITEMS
    assert evaluate(directory, shop(users=20, seed=9), 0)["judged"] == 140


@pytest.fixture
def heeded() -> Iterator[None]:
    """SIGINT as a terminal leaves it: tests that are run in the background inherit that it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeded")
def test_ctrl_c_outside_of_a_fit_is_held_back(tmp_path: Path) -> None:
    """Sent while calibrating or exporting, SIGINT prints one line and leaves a complete model and the old handler.

    There is no second training on the whole log.
    """
    said: list[str] = []

    class Pressing(Silent):
        def say(self, line: str) -> None:
            said.append(line)
            if line.startswith(("held-out", "exporting")):
                signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    directory = tmp_path / "rule" / "1"
    train_model(directory, shop(users=100), replace(SETTINGS, epochs=1), Pressing())
    assert read_manifest(directory).items == ITEMS
    assert said.count("Ctrl-C: finishing the model without further training") == 1
    assert sum("epoch 1" in line for line in said) == 1
    assert "held-out sessions the threshold of the alerts is extrapolated" in said[-1]
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.usefixtures("heeded")
def test_ctrl_c_ends_a_training_between_two_batches_once() -> None:
    """No exception where the signal arrives, one after the batch, none for a second signal."""
    said: list[str] = []

    class Hearing(Silent):
        def say(self, line: str) -> None:
            said.append(line)

    with Interrupts(Hearing()) as interrupts, interrupts.allowed() as progress:
        progress.seen(1)
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            progress.seen(1)
        signal.raise_signal(signal.SIGINT)
        progress.seen(1)
    assert said == ["Ctrl-C: finishing the model without further training"]


@pytest.mark.usefixtures("heeded")
def test_ctrl_c_after_the_last_batch_is_not_forgotten() -> None:
    """The part was not ended, but what comes after it is: the second pass must not start."""
    with Interrupts(Silent()) as interrupts:
        with interrupts.allowed():
            signal.raise_signal(signal.SIGINT)
        assert interrupts.received


COMMAND = "from stream.ops.cli import main; main()"


@pytest.mark.parametrize(
    ("moments", "ends_with"),
    [
        (("not in time order",), INTERRUPTED),  # torch is being imported: nothing to save yet
        (("epoch 1:", "exporting the graphs to ONNX and checking them\n"), 0),
    ],
    ids=["before the training", "in the training and in its end"],
)
def test_three_times_ctrl_c_print_no_stack_trace(tmp_path: Path, moments: tuple[str, ...], ends_with: int) -> None:
    """Whenever they come: before the training the command ends, later it ends with a model."""
    log, out = shop(users=60), tmp_path / "m" / "1"
    rows = zip(log.user.tolist(), log.item.tolist(), log.time_ms.tolist(), strict=True)
    (tmp_path / "log.csv").write_text(
        "user_id,item_id,timestamp\n" + "".join(f"u{u},i{i},{t}\n" for u, i, t in reversed(list(rows)))
    )
    command = [sys.executable, "-c", COMMAND, "train", str(tmp_path / "log.csv"), "--out", str(out)]
    with subprocess.Popen(
        [*command, "--epochs", "2", "--hidden", "16"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        assert process.stderr is not None
        lines: list[str] = []
        for line in process.stderr:
            lines.append(line)
            if any(moment in line for moment in moments):
                for _ in range(3):
                    process.send_signal(signal.SIGINT)
                    time.sleep(0.02)  # signals that wait together are one
        code = process.wait()
    text = "".join(lines)
    assert all(moment in text for moment in moments)
    assert "Traceback" not in text
    assert "Exception ignored" not in text
    assert code == ends_with, text
    assert (out / "manifest.json").is_file() == (ends_with == 0)
