"""Checks before a long training: can the output directory be written? Imports no torch, so it is fast."""

import tempfile
from pathlib import Path

from stream.errors import ConfigError


def check_name(directory: Path) -> None:
    """Raises ConfigError unless the path ends in NAME/VERSION, as it is typed: a model is called after both."""
    if len(directory.parts) < 2 or {*directory.parts[-2:]} & {"..", directory.anchor}:
        name = directory.name if directory.name not in ("", "..") else "mine"
        raise ConfigError(f"--out {directory}: it must end in NAME/VERSION, such as --out {name}/1")
    try:
        str(directory).encode()
    except UnicodeEncodeError:  # ONNX Runtime could not open a model there
        raise ConfigError(f"--out {str(directory)!r} is not UTF-8; give another directory") from None


def check_writable(directory: Path) -> None:
    """Check that a model can be written to a directory, before an hour of training; leaves no files behind.

    Raises ConfigError if the directory cannot be written, or if it, its parent or a directory in it is a model.
    """
    made: list[Path] = []
    try:
        if (directory / "manifest.json").exists():
            raise ConfigError(
                f"model {directory}: already contains a model; versions do not change, give another directory"
            )
        others = [directory.absolute().parent, *sorted(found.parent for found in directory.glob("*/manifest.json"))]
        for other in others:
            if (other / "manifest.json").exists():
                raise ConfigError(
                    f"model {directory}: {other} is a model, and models do not contain models; give a directory beside "
                    "it that ends in NAME/VERSION"
                )
        for part in (*reversed(directory.parents), directory):
            if not part.exists():
                part.mkdir()
                made.append(part)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as exc:
        raise ConfigError(
            f"model {directory}: the directory cannot be written ({exc.strerror or exc}); give another directory"
        ) from exc
    finally:
        for part in reversed(made):
            part.rmdir()
