"""Installs the stream processors that Eddy is compared with into an environment of their own, `.contenders`."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from bench.command import say, stop
from bench.report import PACKAGES, ROOT, runtime_package

HOME = ROOT / ".contenders"
REQUIREMENTS = Path(__file__).parent / "contenders" / "requirements.txt"
OTHERS = ("quixstreams", "bytewax", "confluent-kafka")


def contenders_python() -> Path:
    """The Python of `.contenders`, which is made at the first use and when the requirements have changed."""
    python, stamp = HOME / "bin" / "python", HOME / "installed"
    same = [f"{name}=={version(name)}" for name in ("numpy", "msgspec", runtime_package())]
    wanted = "\n".join([REQUIREMENTS.read_text(), *same])
    if stamp.is_file() and stamp.read_text() == wanted:
        return python
    say("installing Quix Streams and Bytewax into .contenders (0.6 GB); this takes minutes")
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(HOME)],
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(REQUIREMENTS), *same],
    ):
        if subprocess.run(command, check=False, stdout=sys.stderr).returncode != 0:
            stop(f"the environment of the contenders could not be made; {REQUIREMENTS.name} names its packages")
    stamp.write_text(wanted)  # last, so that an environment with this file is complete
    return python


def contenders_versions(python: Path) -> dict[str, str]:
    """The versions of the packages in the environment of the contenders."""
    code = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
    found = subprocess.run([python, "-c", code, *OTHERS], check=True, capture_output=True, text=True).stdout.split()
    versions = dict(zip(OTHERS, found, strict=True))
    versions["confluent-kafka of quixstreams and bytewax"] = versions.pop("confluent-kafka")
    assert not versions.keys() & set(PACKAGES)  # else they would replace those of Eddy in the report
    return versions
