"""What commands share: the nearest command, user ids in a file, times, a bar while a topic is read, missing extras."""

from collections.abc import Iterator
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

from stream.errors import ConfigError
from stream.kafka_config import KafkaConfig

EXTRAS = {
    **dict.fromkeys(("polars", "jinja2", "markupsafe"), "logs"),
    **dict.fromkeys(("torch", "onnx", "onnxscript", "onnx_ir", "matplotlib"), "train"),
    "redis": "redis",
    "psycopg": "postgres",
    "pyarrow": "parquet",
    "opentelemetry": "otel",
    **dict.fromkeys(("fastavro", "google", "httpx2", "httpx", "authlib", "attr", "attrs", "cachetools"), "registry"),
}
"""Module -> the extra that installs it."""

NO_RUNTIME = (
    "needs ONNX Runtime: pip install '.[cpu]' in Eddy's directory, or '.[cuda]' for an NVIDIA GPU; "
    "if both were installed, run pip uninstall onnxruntime onnxruntime-gpu before"
)


class Nearest(click.Group):
    """A group of commands that names the nearest one if there is none of the given name."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as exc:
            near = get_close_matches(args[0], self.list_commands(ctx), 1)
            if near:
                exc.message = f"{exc.message.removesuffix('.')}; did you mean {near[0]!r}?"
            raise


def read_ids(file: Path, option: str) -> list[str]:
    """The user ids in a file, one a line. Raises ConfigError with the option if it cannot be read."""
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")  # splitlines would end a line inside an id, at U+2028
    except OSError as exc:
        raise ConfigError(f"{option} {file}: the file cannot be read ({exc.strerror or exc})") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{option} {file}: the file is not UTF-8 text with one user id a line") from exc
    return [line for line in lines if line.strip()]


def messages_shown(broker: str, topic: str, config: KafkaConfig) -> Iterator[Any]:
    """The messages of a topic up to its end, with a bar on stderr. Raises ConfigError as `read_messages` does."""
    from stream.access.messages import read_messages  # here, because --help needs no Kafka client

    messages, stderr = read_messages(broker, topic, config), click.get_text_stream("stderr")
    with click.progressbar(messages, label=f"reading {topic}", file=stderr, show_pos=True) as bar:
        yield from bar


def time_of(ms: int | None) -> str:
    """ISO 8601 in UTC; the number itself if it is no time of the years 1 to 9999."""
    try:
        return datetime.fromtimestamp((ms or 0) / 1000, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return f"{ms} ms"


def missing_module(exc: ImportError) -> ConfigError:
    """The error for a module that is not installed. It names the extra that installs the module, if there is one."""
    module = (exc.name or "").partition(".")[0]
    if module == "onnxruntime":
        return ConfigError(f"{NO_RUNTIME} ({exc})")
    extra = EXTRAS.get(module)
    if extra is None:
        return ConfigError(f"the installation is incomplete: {exc}; install eddy again")
    return ConfigError(f"needs pip install '.[{extra}]' in Eddy's directory (module {exc.name} is not installed)")
