"""Command lines of containers, read by Eddy's own parser."""

from collections.abc import Mapping

import click
import pytest

from stream.ops.cli import eddy


def parsed(words: list[str], environ: Mapping[str, str]) -> click.Context:
    """The command of a container with its options, as `eddy WORDS` would read them in this environment.

    Raises click.UsageError if Eddy would refuse them.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environ.items():
            patch.setenv(name, value)
        context = click.Context(eddy)
        command: click.Command | None = eddy
        rest = list(words)
        while isinstance(command, click.Group):
            name, command, rest = command.resolve_command(context, rest)
            assert command is not None, words
            if isinstance(command, click.Group):
                context = click.Context(command, info_name=name, parent=context)
        assert command is not None
        return command.make_context(words[-1], rest, parent=context)
