"""docs/mapping.md: its files are mappings, and its tables have what the code has."""

import json
import re

import pytest

from stream.mapping.mapping import ANONYMOUS, KEYS
from stream.mapping.parse import DEFAULTS, REQUIRED, SECTIONS, parse_mapping
from stream.mapping.reading import FIELDS, UNITS
from tests.docs.blocks import ROOT, Block, blocks

PAGE = ROOT / "docs" / "mapping.md"
TEXT = PAGE.read_text()


@pytest.mark.parametrize("block", [block for block in blocks(PAGE) if block.language == "toml"], ids=lambda b: b.line)
def test_every_file_of_the_page_is_a_mapping(block: Block) -> None:
    """A reader can copy it."""
    assert parse_mapping(block.text, "mapping.md").topic.fields.keys() >= set(REQUIRED)


def test_the_table_has_every_section_and_name() -> None:
    """And no other ones, with all values that a name can have."""
    table = TEXT.partition("| section | name | value |")[2].partition("\n\n")[0]
    found: dict[str, set[str]] = {}
    section = ""
    for line in table.splitlines()[2:]:
        first, names, _ = (
            (cell.strip() for cell in line.strip("| ").split(" | ", 2))
            if line.startswith("| `")
            else ("", *(cell.strip() for cell in line.strip("| ").split(" | ", 1)))
        )
        section = first.strip("`[]") or section
        found.setdefault(section, set()).update(re.findall(r"`(\w+)`", names))
    expected = {name: set(names or ()) for name, names in SECTIONS.items()}
    assert found == expected
    assert set(SECTIONS["fields"] or ()) == {*FIELDS, ANONYMOUS}
    assert set(SECTIONS["defaults"] or ()) == set(DEFAULTS)
    for values, row in ((UNITS, "unit"), (KEYS, "holds")):
        [line] = [line for line in table.splitlines() if f"| `{row}` |" in line]
        assert set(values) <= set(re.findall(r"`(\w+)`", line))


def test_the_page_lists_every_example() -> None:
    """A link to each file, and no other one."""
    listed = set(re.findall(r"\(examples/([\w-]+\.toml)\)", TEXT))
    assert listed == {path.name for path in (ROOT / "docs" / "examples").glob("*.toml")}


def test_the_figures_are_those_of_the_benchmark() -> None:
    """bench/results/mapping.json, written by the command that the page names."""
    results = json.loads((ROOT / "bench" / "results" / "mapping.json").read_text())["results"]
    for name, title in (("retailrocket", "RetailRocket, flat"), ("segment", "Segment, nested, with a time as text")):
        usual, mapped = results[f"{name}: Eddy's fields"], results[f"{name}: mapped"]
        times = f"{usual['us']:.2f} µs | {mapped['us']:.2f} µs, {mapped['times']:.1f} times"
        assert f"| {title} | {mapped['bytes']} | {times} |" in TEXT
    columns, mapping = (results["log"][name]["us"] for name in ("options for columns", "mapping"))
    assert f"takes {mapping} µs of CPU with the mapping, and {columns} µs with" in TEXT
