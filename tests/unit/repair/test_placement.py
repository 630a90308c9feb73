"""The partitioner of the producers is found out from rows and clicks, and asked for if they do not show it."""

import pytest

from stream.errors import ConfigError
from stream.kafka.partitioners import PARTITIONERS
from stream.ops.repair import PARTITIONER_NAMES
from stream.repair.placement import STAY, find_partitioner, partitions_before, placed

KEYS = [b"user%d" % n for n in range(200)]


def laid_out(name: str, partitions: int) -> dict[int, list[bytes]]:
    return {p: [key for key in KEYS if placed(key, name, partitions) == p] for p in range(partitions)}


@pytest.mark.parametrize("name", PARTITIONERS)
def test_rows_show_the_partitioner(name: str) -> None:
    """Each known partitioner is recognised by the rows that it placed, and so is the old number of partitions."""
    assert find_partitioner(laid_out(name, 2), 2, {}, 4) == name
    assert partitions_before(laid_out(name, 3) | {3: [], 4: []}, 5) == 3
    assert partitions_before(laid_out(name, 4), 4) == 4


@pytest.mark.parametrize("name", PARTITIONERS)
def test_clicks_in_the_new_partitions_show_the_partitioner(name: str) -> None:
    """The rows of a single partition show nothing, so the clicks that came after it count."""
    added = {p: keys for p, keys in laid_out(name, 4).items() if p > 0}
    assert find_partitioner({0: KEYS}, 1, added, 4) == name


def test_pseudonyms_or_unknown_partitioners_are_not_guessed() -> None:
    """If no known partitioner explains the rows, or too few rows are there, the option is asked for."""
    for rows in ({0: KEYS[::2], 1: KEYS[1::2]}, {0: [b"user0"], 1: []}):
        with pytest.raises(ConfigError, match="--partitioner"):
            find_partitioner(rows, 2, {}, 4)
    assert partitions_before({0: KEYS[::2], 1: KEYS[1::2], 2: [], 3: []}, 4) == 4


def test_the_command_offers_every_partitioner() -> None:
    """The command has a list of its own, because its --help must not import the partitioners."""
    assert set(PARTITIONER_NAMES) == {"auto", *PARTITIONERS, STAY}
