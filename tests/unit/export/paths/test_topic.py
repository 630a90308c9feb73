"""`eddy paths --topic` without a broker; tests/kafka/test_paths.py has it on a real Kafka."""

import errno
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from export.paths.command import paths
from export.paths.topic import scratch
from stream.errors import ConfigError
from tests.docs.blocks import ROOT
from tests.unit.export.record.test_record import FORGET, Message, click

LEFT_OUT = "left out of 5 messages: 1 not_json, 1 forgotten, 1 request"


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The TMPDIR of the command, which reads these messages."""
    messages = [
        click(0, 0, "u1"),
        Message(0, 1, b"u1", b"x"),
        click(0, 2, "u2"),
        Message(0, 3, b"u2", None, FORGET),
        click(0, 4, "u1", "i2"),
    ]
    monkeypatch.setattr("export.record.record.span_of", lambda *_: {0: range(len(messages))})
    monkeypatch.setattr("export.record.record.read_messages", lambda *_, **__: iter(messages))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def run(*words: str) -> Result:
    return CliRunner().invoke(paths, ["--topic", "t", *words])


def test_what_is_left_out_is_a_note_and_a_figure(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """In the text, on the page and in the JSON; progress and notes have the name of the topic. No file is left."""
    page = tmp_path_factory.mktemp("page") / "paths.html"
    done = run("--html", str(page))
    assert done.exception is None
    assert "topic t: 2 clicks, 1 session, 1 user;" in done.stdout
    assert f"\nnote: {LEFT_OUT}\n\nnote: not_json: JSON is malformed" in done.stdout
    assert "\nnote: forgotten: clicks of users before a request to forget them\n" in done.stdout
    assert LEFT_OUT in page.read_text()
    found: dict[str, Any] = json.loads(run("--json").stdout)
    assert (found["log"], found["messages"], found["clicks"]) == ("topic t", 5, 2)
    assert found["left_out"] == {"not_json": 1, "forgotten": 1, "request": 1}
    assert LEFT_OUT in found["remarks"]
    assert "reading t again, without the users who are to be forgotten: 5 messages\ntopic t: reading\n" in done.stderr
    assert str(directory) not in done.stderr
    assert not list(directory.iterdir())


def test_a_full_disk_is_one_line(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line has the directory, and what to do. No file is left."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("export.record.record.write", full)
    error = run().exception
    assert isinstance(error, ConfigError)
    assert f"topic t: its clicks cannot be written to {directory}/" in str(error)
    assert str(error).endswith("No space left on device); set TMPDIR to a larger disk")
    assert not list(directory.iterdir())


HOLD = """
from export.paths.topic import scratch
with scratch() as directory:
    (directory / "topic.jsonl").write_text("clicks")
    print(directory, flush=True)
    input()
"""


def test_what_a_killed_process_has_left_is_deleted_at_the_next_start(directory: Path) -> None:
    """SIGKILL leaves a file with clicks of users. The file of a process that lives is not touched."""
    command = [sys.executable, "-c", HOLD]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(directory)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ) as process:
        assert process.stdout is not None
        file = Path(process.stdout.readline().strip()) / "topic.jsonl"
        with scratch() as own:
            assert own != file.parent
            assert own.parent == directory
        assert file.read_text() == "clicks"
        process.kill()
    assert file.exists()
    assert run().exception is None
    assert not list(directory.iterdir())
