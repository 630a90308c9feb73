"""The code blocks of the documents, and the comments that control whether they run.

<!-- not run: REASON -->    the tests do not run it, for this reason
<!-- runs until Ctrl-C -->  it is started, and ended with Ctrl-C after the page's last block
<!-- file: NAME -->         it is the file of this name, which the commands of the page find
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN = ("sh", "python")
SHOWN = ("json", "jsonl", "toml", "mermaid", "text")

MARK = re.compile(r"^<!-- (not run: \S.*|runs until Ctrl-C|file: \S+) -->$")


@dataclass(frozen=True)
class Block:
    """A code block. `language` is "" where the fence names none or the block is only indented."""

    line: int
    language: str
    text: str
    mark: str

    @property
    def skipped(self) -> bool:
        return self.mark.startswith("not run")

    @property
    def file(self) -> str:
        """The name of the file that it is; "" = none."""
        return self.mark.removeprefix("file: ") if self.mark.startswith("file: ") else ""

    @property
    def endless(self) -> bool:
        return self.mark == "runs until Ctrl-C"


def blocks(page: Path) -> list[Block]:
    """Every fenced or indented block of a page, in order."""
    lines = page.read_text().splitlines()
    return sorted([*_fenced(lines), *_indented(lines)], key=lambda block: block.line)


def _fenced(lines: list[str]) -> Iterator[Block]:
    fences = [i for i, line in enumerate(lines) if line.startswith("```")]
    for first, last in zip(fences[::2], fences[1::2], strict=True):
        before = next((line for line in reversed(lines[:first]) if line.strip()), "")
        found = MARK.match(before)
        text = "\n".join(lines[first + 1 : last]) + "\n"
        yield Block(first + 1, lines[first].removeprefix("```").strip(), text, found[1] if found else "")


def _indented(lines: list[str]) -> Iterator[Block]:
    inside = False
    for i, line in enumerate(lines):
        inside ^= line.startswith("```")
        if not inside and line.startswith("    ") and (i == 0 or not lines[i - 1].strip()):
            yield Block(i + 1, "", line + "\n", "")
