"""The exact versions of deploy/lock are those that pyproject.toml asks for. No test asks a package index."""

import re
import tomllib
from collections.abc import Iterator

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.docs.blocks import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = {
    "cpu": ["cpu", "redis", "postgres", "registry", "otel"],
    "cuda": ["cuda", "redis", "postgres", "registry", "otel"],
    "trainer": ["cpu", "train"],
    "dev": ["dev"],
}
"""File -> the extras that it has; `make lock` writes them."""
HINT = "run `make lock`"

Locked = dict[str, list[Requirement]]


def locked(name: str) -> Locked:
    """Package -> its pinned versions, of which each holds for other platforms or versions of Python."""
    text = (ROOT / "deploy" / "lock" / f"{name}.txt").read_text()
    found: Locked = {}
    for entry in re.split(r"\n(?=\S)", text.strip()):
        line, *hashes = entry.split(" \\\n")
        assert hashes, f"{name}.txt: {line} has no hash; {HINT}"
        assert all(re.fullmatch(r" +--hash=sha256:[0-9a-f]{64}", one) for one in hashes), line
        pin = Requirement(line)
        found.setdefault(canonicalize_name(pin.name), []).append(pin)
    return found


def wanted(extras: list[str]) -> Iterator[Requirement]:
    """The direct dependencies of Eddy with these extras, and with the extras that they name."""
    yield from map(Requirement, PROJECT["project"]["dependencies"])
    for extra in extras:
        for each in map(Requirement, PROJECT["project"]["optional-dependencies"][extra]):
            if each.name == PROJECT["project"]["name"]:
                yield from wanted(sorted(each.extras))
            else:
                yield each


def missing(pins: Locked, asked: Iterator[Requirement]) -> list[str]:
    """The dependencies for which no pinned version will do."""
    return [
        str(each)
        for each in asked
        if not (found := pins.get(canonicalize_name(each.name)))
        or not all(each.specifier.contains(str(pin.specifier).removeprefix("==")) for pin in found)
    ]


@pytest.mark.parametrize("name", EXTRAS)
def test_the_lock_satisfies_the_project(name: str) -> None:
    """Each dependency of pyproject.toml is pinned to a version that it allows, with hashes."""
    assert missing(locked(name), wanted(EXTRAS[name])) == [], HINT


def test_the_lock_of_the_build_has_its_backend() -> None:
    """The image's wheel is built with it."""
    assert missing(locked("build"), map(Requirement, PROJECT["build-system"]["requires"])) == [], HINT


def test_a_lock_that_is_too_old_is_found() -> None:
    """A newer bound, and a dependency that was added."""
    pins = locked("cpu")
    assert missing(pins, iter([Requirement("numpy>=99")])) == ["numpy>=99"]
    assert missing(pins, iter([Requirement("polars")])) == ["polars"]
    assert missing(pins, iter([Requirement("numpy>=2")])) == []


def test_all_locks_agree() -> None:
    """What the tests run with is what the images have."""
    dev = locked("dev")
    for name in (*EXTRAS, "build"):
        for package, pins in locked(name).items():
            if package in dev and not package.startswith(
                "nvidia"
            ):  # torch and ONNX Runtime want them on other platforms
                assert {str(pin.specifier) for pin in pins} <= {str(pin.specifier) for pin in dev[package]}, (
                    name,
                    package,
                )


def test_no_lock_brings_both_packages_of_onnx_runtime() -> None:
    """Their files overwrite each other; the development environment has one of the two files below it."""
    brings = {name: {one for one in locked(name) if one.startswith("onnxruntime")} for name in EXTRAS}
    assert brings == {"cpu": {"onnxruntime"}, "cuda": {"onnxruntime-gpu"}, "trainer": {"onnxruntime"}, "dev": set()}


def test_no_lock_names_a_package_index() -> None:
    """Whoever installs chooses it, such as a mirror of their own."""
    for file in (ROOT / "deploy" / "lock").iterdir():
        assert not re.search(r"://|^--", file.read_text(), re.MULTILINE), file.name


def test_makefile_and_image_install_what_is_locked() -> None:
    """Each file is written by `make lock`, and is installed with its hashes checked."""
    makefile, dockerfile = (ROOT / "Makefile").read_text(), (ROOT / "deploy" / "Dockerfile").read_text()
    written = dict(re.findall(r"\) (.*) --output-file deploy/lock/(\w+)\.txt", makefile))
    named = {file: re.findall(r"--extra (\w+)", options) for options, file in written.items()}
    assert named == {**EXTRAS, "build": []}
    copied = re.findall(r"^COPY deploy/lock/(\w+)\.txt", dockerfile, re.MULTILINE)
    assert set(copied) == set(named) - {"dev"}
    assert dockerfile.count("pip install --no-cache-dir --require-hashes") == len(copied)
    assert makefile.count("--require-hashes --requirement deploy/lock/") == 2
