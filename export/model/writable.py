"""Where a model directory goes: whether it can be written there. Free of torch."""

import tempfile
from pathlib import Path

from stream.errors import ConfigError


def check_name(directory: Path) -> None:
    """Raises ConfigError unless the path ends in NAME/VERSION, as it is typed: a model is called after both."""
    if len(directory.parts) < 2 or {*directory.parts[-2:]} & {"..", directory.anchor}:
        name = directory.name if directory.name not in ("", "..") else "mine"
        raise ConfigError(f"--out {directory}: it must end in NAME/VERSION, such as --out {name}/1")


def check_place(directory: Path) -> None:
    """Try whether a model can be written there, and leave nothing behind: nobody wants to hear so after an hour.

    Raises ConfigError if not, or if the directory holds a model already.
    """
    made: list[Path] = []
    try:
        if (directory / "manifest.json").exists():
            raise ConfigError(
                f"model {directory}: there is one already; a version never changes, take another directory"
            )
        for part in (*reversed(directory.parents), directory):
            if not part.exists():
                part.mkdir()
                made.append(part)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as exc:
        raise ConfigError(
            f"model {directory}: cannot be written there ({exc.strerror or exc}); take another directory"
        ) from exc
    finally:
        for part in reversed(made):
            part.rmdir()
