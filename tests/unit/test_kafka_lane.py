"""A Kafka lane that did not run is reported, and fails if it is required, in one process and under pytest-xdist."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONFTEST = "from tests.kafka_lane import count_kafka_lane as pytest_configure"
PROCESSES = pytest.mark.parametrize("processes", ["0", "1"], ids=["one process", "xdist"])


def run(directory: Path, *arguments: str, required: str = "") -> tuple[int, str]:
    """Exit status and output of pytest without Java and without a given Kafka."""
    without = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "EDDY"))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "xdist", *arguments],
        env={**without, "PATH": "", "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        | {"EDDY_REQUIRE_KAFKA": required},
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A test that passes, and one marked as being on a real Kafka, which is skipped."""
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = real_kafka\n")
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_two.py").write_text(
        "import pytest\n\ndef test_here(): pass\n\n@pytest.mark.real_kafka\ndef test_there(): pytest.skip('no Java')\n"
    )
    return tmp_path


def test_a_required_lane_without_java_fails_and_says_what_is_missing() -> None:
    """The lane of this repository itself, on a machine that has no Java."""
    code, out = run(ROOT, "tests/kafka/test_apache_kafka.py", "-n", "0", required="1")
    assert code == pytest.ExitCode.TESTS_FAILED, out
    assert "EDDY_REQUIRE_KAFKA=1, but there is no real Kafka" in out
    assert "`java` is not on the PATH" in out


@PROCESSES
@pytest.mark.parametrize("chosen", ["test_two.py", "test_two.py::test_here"], ids=["skipped", "deselected"])
def test_a_required_lane_that_did_not_run_fails(tree: Path, processes: str, chosen: str) -> None:
    """It fails although all other tests pass."""
    code, out = run(tree, chosen, "-n", processes, required="1")
    assert code == pytest.ExitCode.TESTS_FAILED, out
    assert "THE KAFKA LANE DID NOT RUN; EDDY_REQUIRE_KAFKA=1" in out


@PROCESSES
def test_a_lane_that_is_not_required_is_skipped_with_a_message(tree: Path, processes: str) -> None:
    """On a machine without Java all other tests can be run."""
    code, out = run(tree, "-n", processes)
    assert code == pytest.ExitCode.OK, out
    assert "THE KAFKA LANE DID NOT RUN" in out


@PROCESSES
def test_a_lane_that_ran_is_counted(tree: Path, processes: str) -> None:
    """The last lines have the number of tests that ran on a real Kafka, and a required lane passes."""
    (tree / "test_two.py").write_text("import pytest\n\n@pytest.mark.real_kafka\ndef test_there(): pass\n")
    code, out = run(tree, "-n", processes, required="1")
    assert code == pytest.ExitCode.OK, out
    assert "1 tests ran on a real Kafka" in out
