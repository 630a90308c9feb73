"""`eddy demo`, run as a person or a script runs it."""

import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from stream.demo import command
from stream.demo.command import K, default_model
from stream.demo.shop import build_shop
from stream.demo.worker_process import WorkerProcess
from stream.errors import EddyError
from stream.manifest import read_manifest

DEMO = [sys.executable, "-c", "from stream.demo.command import demo; demo()"]


def test_seconds_and_json_count_a_decision_per_click() -> None:
    """The last line is one JSON object: as many decisions as clicks, and no count is zero. The page has
    simulated hours that are over."""
    words = [*DEMO, "--seconds", "5", "--json", "--rate", "500"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        page = next(line for line in process.stderr if re.match(r"the worker's page: http://127\.0\.0\.1:\d+/$", line))
        hours: dict[str, list[int]] = {}
        while process.poll() is None:
            with suppress(OSError), urllib.request.urlopen(f"{page.split()[-1]}v1/history", timeout=5) as answer:
                hours = json.loads(answer.read())["hours"]
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.2)
        out, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    assert sum(hours["clicks"]) > 100
    counts = msgspec.json.decode(out.splitlines()[-1])
    assert counts["clicks"] == counts["decisions"] == counts["recommendations"] > 1000
    assert counts["anomalies"] > 0
    assert counts["dead_letters"] > 0
    assert sum(counts["dead_letters_by_reason"].values()) == counts["dead_letters"]
    assert counts["hit_rate"] > 3 * counts["popularity_hit_rate"] > 0
    assert counts["next_action"]["judged"] > 500
    assert counts["next_action"]["right"] > counts["next_action"]["most_common"] > 0.4
    assert 0 < counts["next_action"]["log_loss"] < 1
    assert counts["triggers"]["more"] > 10
    assert counts["abandoned_carts"].keys() == {"found", "missed", "wrong"}
    assert counts["intent"].keys() >= {"sessions", "bought", "said", "top_lift"}
    assert counts["provider"] == "CPUExecutionProvider" or "CUDA" in counts["provider"]
    assert 4.5 < counts["seconds"] < 15
    assert counts["latency_p50_ms"] <= counts["latency_p99_ms"]


@pytest.mark.parametrize(
    ("display", "terminal", "no_browser", "opened"),
    [(":0", True, False, True), ("", True, False, False), (":0", False, False, False), (":0", True, True, False)],
)
def test_the_page_is_opened_only_where_a_person_can_see_it(
    display: str, terminal: bool, no_browser: bool, opened: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal with a display, unless the option forbids it."""
    found: list[object] = []
    monkeypatch.setattr(command, "run", lambda *arguments: found.append(arguments[-1]) or {})
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    command.demo.callback(None, False, 400.0, 600, 2, None, "cpu", no_browser)  # type: ignore[misc]
    assert found == [command.open_page if opened else command.no_page]


def test_ctrl_c_ends_with_the_final_counts() -> None:
    """A demo without a time limit ends on one or more Ctrl-C: every click has its decision, and the counts are
    printed."""
    process = subprocess.Popen([*DEMO, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    deadline = time.monotonic() + 60
    while " 1 clicks" not in (line := process.stderr.readline()) and time.monotonic() < deadline:
        assert line, "the demo ended by itself"
    for _ in range(3):
        process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    counts = msgspec.json.decode(out.splitlines()[-1])
    assert counts["clicks"] == counts["decisions"] > 0


def test_the_bundled_model_is_small_and_knows_the_shop() -> None:
    """The model that comes with Eddy is complete, small, and was trained on this shop."""
    directory = default_model()
    manifest = read_manifest(directory)
    assert manifest.label == "shop/1"
    assert sum(file.stat().st_size for file in directory.iterdir()) < 3_000_000
    known = set(msgspec.json.decode((directory / "items.json").read_bytes(), type=list[str]))
    assert known == {item.item_id for item in build_shop().items}
    assert set(manifest.event_types) == {"view", "cart", "purchase"}


def test_a_missing_model_is_one_line(tmp_path: Path) -> None:
    """The demo reports a missing model as every other command does."""
    code = "import sys; from stream.ops.cli import main; main(['demo', '--seconds', '1', '--model', sys.argv[1]])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "none")], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "no such directory" in done.stderr


def check_until(worker: WorkerProcess, deadline_s: float) -> None:
    while time.monotonic() < deadline_s:
        worker.check()


def test_a_worker_that_ends_early_ends_the_demo_with_its_last_log_line(tmp_path: Path) -> None:
    """If the worker ends early, the demo ends with the last line of the worker's log."""
    with (
        WorkerProcess("127.0.0.1:1", tmp_path / "none", "cpu", tmp_path, K) as worker,
        pytest.raises(EddyError, match=r"exit code 2: .*no such directory"),
    ):
        check_until(worker, time.monotonic() + 60)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_a_demo_that_is_killed_leaves_no_worker(tmp_path: Path) -> None:
    """The worker would wait for ever for the broker, which was in the process of the demo."""
    code = (
        "import sys, time; from pathlib import Path; from stream.demo.worker_process import WorkerProcess\n"
        "with WorkerProcess('127.0.0.1:1', Path('models/shop/1'), 'cpu', Path(sys.argv[1]), 5) as worker:\n"
        "    print(worker._process.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        worker = int(demo.stdout.readline())
        demo.kill()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{worker}/cmdline").exists() and Path(f"/proc/{worker}/cmdline").read_bytes():
        assert time.monotonic() < deadline, "the worker still runs"
        time.sleep(0.02)
