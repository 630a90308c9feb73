"""`eddy demo`, run as a person or a script runs it."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from export.convert import write_untrained
from stream.demo.shop import build_shop

DEMO = [sys.executable, "-c", "from stream.demo.demo import demo; demo()"]


@pytest.fixture(scope="module")
def shop_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model of the shop's items."""
    directory = tmp_path_factory.mktemp("models") / "shop" / "0"
    write_untrained(directory, [item.item_id for item in build_shop().items], ["view", "cart", "purchase"], hidden=16)
    return directory


def test_seconds_and_json_count_a_decision_per_click(shop_model: Path) -> None:
    """The last line is one JSON object: as many decisions as clicks, and something of everything."""
    done = subprocess.run(
        [*DEMO, "--seconds", "5", "--json", "--rate", "500", "--model", str(shop_model)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    counts = msgspec.json.decode(done.stdout.splitlines()[-1])
    assert counts["clicks"] == counts["decisions"] == counts["recommendations"] > 1000
    assert counts["anomalies"] > 0
    assert counts["dead_letters"] > 0
    assert sum(counts["dead_letters_by_reason"].values()) == counts["dead_letters"]
    assert 0 < counts["popularity_hit_rate"] < 1
    assert counts["provider"] == "CPUExecutionProvider" or "CUDA" in counts["provider"]
    assert 4.5 < counts["seconds"] < 15
    assert counts["latency_p50_ms"] <= counts["latency_p99_ms"]


def test_ctrl_c_ends_with_the_final_counts(shop_model: Path) -> None:
    """An endless demo ends on Ctrl-C: every click still gets its decision, and the counts are printed."""
    process = subprocess.Popen(
        [*DEMO, "--json", "--model", str(shop_model)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    deadline = time.monotonic() + 60
    while " 1 clicks" not in (line := process.stderr.readline()) and time.monotonic() < deadline:
        assert line, "the demo ended by itself"
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    counts = msgspec.json.decode(out.splitlines()[-1])
    assert counts["clicks"] == counts["decisions"] > 0


def test_a_model_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    """The demo refuses like every other command does."""
    code = "import sys; from stream.ops.cli import main; main(['demo', '--seconds', '1', '--model', sys.argv[1]])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "none")], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "no such directory" in done.stderr
