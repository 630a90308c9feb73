"""The commands. `main` is the program `eddy`: it loads them, and prints no stack trace if Ctrl-C comes meanwhile."""

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run `eddy` and exit the process. The modules take tenths of a second; Ctrl-C then ends it as later, with 130."""
    try:
        from stream.ops.cli import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()
