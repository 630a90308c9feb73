"""The wheel and the source distribution, built as for a release: all files are in them, and the wheel works without a
checkout.
"""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT

LIMIT_S = 120


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with both, built without a package index."""
    directory = tmp_path_factory.mktemp("dist")
    run([sys.executable, "-m", "hatchling", "build", "-d", str(directory)], ROOT)
    return directory


def run(words: list[str], directory: Path | None = None, **environ: str) -> str:
    """What a command prints on standard output. It must succeed."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("EDDY_")}
    done = subprocess.run(
        words, cwd=directory, env={**ours, **environ}, capture_output=True, text=True, timeout=LIMIT_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files(of: Path) -> set[str]:
    """The files of a directory of the checkout, without what Python writes."""
    found = {path.relative_to(ROOT).as_posix() for path in of.rglob("*") if path.is_file()}
    return {name for name in found if "__pycache__" not in name}


def test_the_wheel_has_every_file_of_the_packages(built: Path) -> None:
    """Code, the page of a worker, templates, schemas and the demo's model, and nothing else."""
    [wheel] = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    model = {name.replace("models/shop", "stream/demo/models/shop", 1) for name in files(ROOT / "models" / "shop")}
    assert inside == files(ROOT / "stream") | files(ROOT / "export") | model
    kinds = {Path(name).suffix for name in inside}
    assert {".py", ".html", ".js", ".css", ".json", ".onnx", ".bin", ".npz"} <= kinds


def test_the_source_distribution_has_what_the_wheel_is_built_from(built: Path) -> None:
    """A package can be built from it alone."""
    [source] = built.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    wanted = files(ROOT / "stream") | files(ROOT / "export") | files(ROOT / "models" / "shop")
    assert wanted | {"pyproject.toml", "README.md", "LICENSE"} <= inside


def test_the_code_of_the_wheel_scores_a_click_with_its_model(built: Path, tmp_path: Path) -> None:
    """The wheel is unpacked, which is how pip installs it; its dependencies are those of the tests. The workflow for
    releases installs it with them, and runs the demo."""
    [wheel] = built.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path)
    program = """
import sys
from stream import load
from stream.demo import command
assert command.__file__.startswith(sys.argv[1])
model = load(sys.argv[1] + "/stream/demo/models/shop/1")
[decision] = model.score([{"user_id": "ann", "item_id": "boots-a1", "timestamp": 1735689600}])
print(len(decision.items))
"""
    assert run([sys.executable, "-c", program, str(tmp_path)], tmp_path, PYTHONPATH=str(tmp_path)) == "20\n"
