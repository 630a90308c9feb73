"""A short run of `eddy demo` -> docs/page.png, docs/page-dark.png, docs/page-user.png and docs/page-phone.png.

    python docs/page_picture.py [--seconds 60] [--chromium PATH]

The pictures are of the worker's page in Chromium, at 1440 and 390 pixels. Their figures are those of the run that made
them. It needs the package playwright, and Chromium.
"""

import argparse
import io
import shutil
from pathlib import Path
from types import TracebackType

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from stream.demo.command import K, default_model, no_page, run
from stream.demo.tally import Tally
from stream.demo.view import LineView, Scene, Shown
from stream.manifest import read_manifest

HERE = Path(__file__).parent
RATE, USERS, SEED = 400.0, 600, 2
"""The defaults of `eddy demo`."""


class Pictures(LineView):
    """Takes the pictures once, shortly before the demo ends."""

    def __init__(self, scene: Scene, at_s: float, chromium: str) -> None:
        super().__init__(scene)
        self._at_s = at_s
        self._chromium = chromium
        self._taken = False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def show(self, tally: Tally, seconds: float, worker: Shown) -> None:
        super().show(tally, seconds, worker)
        if self._taken or seconds < self._at_s:
            return
        self._taken = True
        people = [user for user, alert in tally.last_alerts.items() if alert.truth == "takeover"]
        user = people[-1] if people else next(reversed(tally.last_alerts))
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=self._chromium)
            for name, address, width, height, scheme in (
                ("page", worker.page, 1440, 900, "light"),
                ("page-dark", worker.page, 1440, 900, "dark"),
                ("page-user", f"{worker.page}#/users/{user}", 1440, 900, "light"),
                ("page-phone", worker.page, 390, 844, "light"),
            ):
                page = browser.new_page(
                    viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
                )
                page.goto(address)
                page.locator(".chart canvas").first.wait_for()
                page.locator(".alerts li").first.wait_for()
                save(page, HERE / f"{name}.png")
                page.close()
            browser.close()


def save(page: Page, path: Path) -> None:
    """A picture with 128 colours: a third of the bytes, and no difference that can be seen."""
    taken = Image.open(io.BytesIO(page.screenshot(full_page=True)))
    taken.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"wrote {path}, {path.stat().st_size // 1024} kB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--chromium", default=shutil.which("chromium") or "chromium")
    given = parser.parse_args()
    model = default_model()
    view = Pictures(Scene(read_manifest(model).label, K, RATE), given.seconds - 5, given.chromium)
    run(model, "cpu", given.seconds, RATE, USERS, SEED, view, no_page)


if __name__ == "__main__":
    main()
