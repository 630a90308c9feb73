"""A short run of `eddy demo` -> docs/demo.svg, the live page as the run's last frame showed it.

    python docs/demo_picture.py [--seconds 30]

The figures in the picture are those of the run that made it: they differ from run to run.
"""

import argparse
import io
import re
from pathlib import Path
from types import TracebackType

from rich.console import Console

from stream.demo.command import K, default_model, no_page, run
from stream.demo.tally import Tally
from stream.demo.view import LiveView, Scene, Shown
from stream.manifest import read_manifest

PICTURE = Path(__file__).with_name("demo.svg")
RATE, USERS, SEED = 400.0, 600, 2
"""The defaults of `eddy demo`."""


class Picture(LiveView):
    """The live page, drawn on a console that nobody sees; each frame replaces the one before."""

    def __init__(self, scene: Scene, path: Path) -> None:
        self._page = Console(
            file=io.StringIO(), width=100, height=30, record=True, force_terminal=True, color_system="truecolor"
        )
        super().__init__(scene, self._page)
        self._path = path

    def show(self, tally: Tally, seconds: float, worker: Shown) -> None:
        self._page.export_text()  # clears what the frame before has left
        super().show(tally, seconds, worker)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        picture = self._page.export_svg(title="eddy demo", unique_id="demo")
        # Without rich's web fonts: a picture in a README may load nothing, and the width of each text is given anyway.
        self._path.write_text(re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL))
        super().__exit__(kind, error, trace)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0)
    seconds = parser.parse_args().seconds
    model = default_model()
    view = Picture(Scene(read_manifest(model).label, K, RATE), PICTURE)
    run(model, "cpu", seconds, RATE, USERS, SEED, view, no_page)
    print(f"wrote {PICTURE}")


if __name__ == "__main__":
    main()
