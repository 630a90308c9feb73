"""The site that `make docs` builds: strictly, with every page in its navigation, and with nothing of other hosts."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import PAGES, ROOT


def command(builder: str) -> str:
    """The line of the Makefile that runs a builder of Sphinx."""
    [line] = re.findall(
        rf"^\t\$\(BIN\)/(sphinx-build .*-b {builder} .*)$", (ROOT / "Makefile").read_text(), re.MULTILINE
    )
    return str(line)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as the Makefile builds it. A dead link, a dead anchor or a page outside the navigation is an
    error."""
    line = command("html")
    directory = tmp_path_factory.mktemp("site")
    words = line.replace(".cache/site", str(directory)).split()
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *words[1:]], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return directory


def test_a_dead_address_of_another_host_is_found(tmp_path: Path) -> None:
    """By the builder of `make links`, which does not ask the example's hosts."""
    (tmp_path / "index.md").write_text(
        "# Page\n\n[dead](http://127.0.0.2:9/x), [alive](#page), [a reader's](http://localhost:9464/)\n"
    )
    words = command("linkcheck").replace(" docs .cache/links", f" {tmp_path} {tmp_path / 'out'}").split()
    words += ["-D", "linkcheck_ignore=http://localhost"]  # 127.0.0.2 is asked here
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *words[1:]], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1, done.stderr
    assert "http://127.0.0.2:9/x" in done.stdout + done.stderr
    assert "localhost:9464" not in done.stdout + done.stderr


def test_every_document_is_a_page(site: Path) -> None:
    """And the first page is index.html, which links to it."""
    first = (site / "index.html").read_text()
    for page in PAGES:
        if page.parent.name == "docs" and page.name != "index.md":
            assert (site / f"{page.stem}.html").is_file(), page.name
            assert f'href="{page.stem}.html"' in first, page.name


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    """No font, script, style or picture of another host; links that a reader may follow are no requests."""
    for page in site.rglob("*.html"):
        text = page.read_text()
        found = re.findall(r'<(?:script|img|iframe|source)[^>]*\bsrc="(?:https?:)?//[^"]*"', text)
        found += [
            tag for tag in re.findall(r'<link[^>]*href="(?:https?:)?//[^"]*"[^>]*>', text) if "canonical" not in tag
        ]
        assert found == [], page.name
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(?:https?:)?//|@import", style.read_text()), style.name


def test_the_reference_is_made_from_the_code(site: Path) -> None:
    """The pages of commands and of the Python interface have what the code has."""
    commands = (site / "site" / "commands.html").read_text()
    assert "--max-cycle-clicks" in commands
    assert "EDDY_MAX_CYCLE_CLICKS" in commands or "max_cycle_clicks" in commands
    assert "number of recommendations for each click" in (site / "site" / "api.html").read_text()
