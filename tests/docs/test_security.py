"""docs/security.md: the commands that grant rights grant those of the table, and no others."""

import re
import shlex

from tests.docs.blocks import ROOT, blocks
from tests.kafka.secured import Right, documented

PAGE = ROOT / "docs" / "security.md"
RESOURCES = {"--topic": "topic", "--group": "group", "--transactional-id": "transactional id"}


def granted(text: str) -> set[Right]:
    """What the lines `$allow --operation ... --topic ...` of a block grant: each operation on each resource."""
    found = set()
    for line in text.replace("\\\n", " ").splitlines():
        if not line.startswith("$allow "):
            continue
        words = shlex.split(line)[1:]
        pairs = list(zip(words[::2], words[1::2], strict=True))
        operations = [value for option, value in pairs if option == "--operation"]
        resources = [(RESOURCES[option], value) for option, value in pairs if option in RESOURCES]
        prefixed = ("--resource-pattern-type", "prefixed") in pairs
        assert prefixed == (resources[0][0] == "transactional id"), line
        found |= {Right(kind, name, operation) for kind, name in resources for operation in operations}
    return found


def test_the_commands_grant_the_rights_of_a_worker() -> None:
    """So a reader who runs them has what the tests on a secured cluster grant."""
    [text] = [block.text for block in blocks(PAGE) if "--transactional-id" in block.text]
    assert granted(text) == set(documented())


def test_the_commands_for_re_keying_grant_what_its_rows_have() -> None:
    """On the topic of the copies and the group of the same name; the example has another source."""
    [text] = [block.text for block in blocks(PAGE) if "--topic shop-events-by-user" in block.text]
    rows = re.findall(r"^\| (topic|group) `clicks-by-user` \| ([A-Z, ]+) \|", PAGE.read_text(), re.MULTILINE)
    expected = {Right(kind, "shop-events-by-user", one) for kind, names in rows for one in names.split(", ")}
    assert granted(text) == expected
    assert len(expected) == 3
