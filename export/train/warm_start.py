"""An older model and a newer log -> the network that a training starts from: rows by item id, new items added.

Items of the older model that the log does not hold stay, so that a training on the newest clicks alone forgets none. An
item that is new to it starts as the unknown item, which is what it was until now. Known items are adjusted, not learned
anew: their optimizer goes on from what it has seen, or a day's clicks would undo what a year's have taught. What was
counted is counted on: the older model's clicks and neighbours are added to the log's newer ones as if they were its
oldest, so popularity and neighbours of an item outlive a day without it, and the baselines know the sessions of both;
the gates are fitted anew, from the older ones. What the older model has seen cannot judge the new one, so the held-out
slice begins after its last click.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from export.arrays import I64
from export.dataset.cooccurrence import NEIGHBOURS, Counted, Neighbours
from export.dataset.sessions import Visits, visits_of
from export.evaluate.baselines import load_baselines
from export.log.log import Log, Vocabulary
from export.log.times import iso, parse_time
from export.network.network import Network, Sizes
from export.network.weights import load_network
from stream.errors import ArtifactError, ConfigError
from stream.manifest import read_manifest


class Older(NamedTuple):
    """A model to start from.

    until_ms  no click it has learned is later, to the second
    visits    the sessions that its baselines have; None = not there, or not to be read
    """

    label: str
    identity: int
    network: Network
    vocabulary: Vocabulary
    until_ms: int
    visits: Visits | None


def read_older(directory: Path) -> Older:
    """The model of a directory with weights. Raises ArtifactError if it is not whole, ConfigError if not trained."""
    network, manifest = load_network(directory), read_manifest(directory)
    until = manifest.training.get("until")
    if until is None:
        raise ConfigError(f"model {directory}: its manifest does not say until when it was trained; start without it")
    items = json.loads((directory / "items.json").read_bytes())
    vocabulary = Vocabulary(items, manifest.event_types, manifest.gap_edges_ms)
    try:
        visits, _ = load_baselines(directory)
    except ArtifactError:
        visits = None
    return Older(manifest.label, manifest.identity, network, vocabulary, parse_time(until) + 999, visits)


def joined(older: Older, vocabulary: Vocabulary, log: Log) -> Vocabulary:
    """The log's vocabulary and what only the older model knows; items by their clicks in both, each counted once.

    Ties in the order of the log's vocabulary, then the older one's.
    """
    clicks = dict(zip(older.vocabulary.items, older.network.mixture.counted.clicks.tolist(), strict=True))
    newer = np.bincount(log.item[log.time_ms > older.until_ms], minlength=len(log.items))
    for item, more in zip(log.items, newer.tolist(), strict=True):
        clicks[item] = clicks.get(item, 0.0) + more
    items = dict.fromkeys([*vocabulary.items, *older.vocabulary.items])
    event_types = dict.fromkeys([*vocabulary.event_types, *older.vocabulary.event_types])
    return Vocabulary(sorted(items, key=lambda item: -clicks[item]), tuple(event_types), vocabulary.gap_edges_ms)


def visits_since(older: Older | None, log: Log, items: list[str]) -> Visits:
    """What the baselines may know: the older model's sessions, and then the log's clicks that it has not learned.

    A session that goes on after the older model's last click becomes two: which user it was is not kept.
    items  the vocabulary, which holds all of the older model's
    """
    if older is None or older.visits is None:
        return visits_of(log, items)
    index = {item: i for i, item in enumerate(items)}
    place = np.array([*(index[item] for item in older.vocabulary.items), len(items)], np.int32)
    newer = visits_of(log.where(log.time_ms > older.until_ms), items, newest=len(log))  # cut with the older ones
    return older.visits.placed(place, len(items)).followed_by(newer)


def known_to(older: Older, clicked: list[str]) -> str:
    """What is to be said of the log's items: that few are known shows a log of other ids."""
    known = len({*older.vocabulary.items}.intersection(clicked))
    return f"it knows {known:,} of the log's {len(clicked):,} items"


def check_older(older: Older, sizes: Sizes, vocabulary: Vocabulary) -> None:
    """Raises ConfigError where weights of the older model have no place in a network of these sizes."""
    theirs = older.network.sizes
    for name, is_, was in (
        ("hidden", sizes.hidden, theirs.hidden),
        ("cell", sizes.cell, theirs.cell),
        ("gap edges", vocabulary.gap_edges_ms, older.vocabulary.gap_edges_ms),
    ):
        if is_ != was:
            raise ConfigError(f"{name} is {is_}, but {was} in model {older.label}: leave it out to start from that one")


def warm_network(older: Older, sizes: Sizes, vocabulary: Vocabulary) -> Network:
    """A network of these sizes with the older model's weights, each row by what it stands for."""
    network, source = Network(sizes), older.network
    with torch.no_grad():
        network.cell.load_state_dict(source.cell.state_dict())
        network.gap_rows.copy_(source.gap_rows)
        network.item_rows.copy_(_by_name(source.item_rows, older.vocabulary.items, vocabulary.items))
        known = set(older.vocabulary.items)
        new = torch.tensor([item not in known for item in vocabulary.items])
        for mine, theirs in ((network.row_squares, source.row_squares), (network.bias_squares, source.bias_squares)):
            mine.copy_(_by_name(theirs, older.vocabulary.items, vocabulary.items))
            mine[:-1][new] = 0.0  # it has learned nothing, and moves at once
        network.event_rows.copy_(_by_name(source.event_rows, older.vocabulary.event_types, vocabulary.event_types))
    return network


def _by_name(rows: Tensor, were: list[str] | tuple[str, ...], are: list[str] | tuple[str, ...]) -> Tensor:
    """rows (n + 1, H) of the names that were, the last of the unknown -> (m + 1, H) of the names that are."""
    place = {name: i for i, name in enumerate(were)}
    return rows[torch.tensor([*(place.get(name, len(were)) for name in are), len(were)])]


def counted_by(older: Older, vocabulary: Vocabulary) -> Counted:
    """What the older model has counted, over the items of a vocabulary that holds all of its own."""
    index = {item: i for i, item in enumerate(vocabulary.items)}
    place = np.array([index[item] for item in older.vocabulary.items], np.int64)
    return placed(older.network.mixture.counted, place, len(index))


def placed(counted: Counted, place: I64, items: int) -> Counted:
    """What was counted, with item i at place[i] of so many items."""
    clicks = np.zeros(items)
    clicks[place] = counted.clicks
    return Counted(_moved(counted.following, place, items), _moved(counted.near, place, items), clicks)


def _moved(table: Neighbours, place: I64, items: int) -> Neighbours:
    """The table with item i at place[i] of so many items."""
    moved = Neighbours(
        np.zeros((items + 2, NEIGHBOURS), np.int32),
        np.zeros((items + 2, NEIGHBOURS), np.float32),
        np.zeros(items + 2, np.float32),
    )
    moved.items[1 + place] = place[table.items[1:-1]]
    moved.share[1 + place], moved.total[1 + place] = table.share[1:-1], table.total[1:-1]
    return moved


def first_unseen(older: Older, cut_ms: int, end_ms: int) -> int:
    """Where the held-out slice begins: at cut_ms, or after what the older model has learned.

    Raises ConfigError if the log ends before that.
    """
    if end_ms <= older.until_ms:
        raise ConfigError(
            f"the log ends at {iso(end_ms)}, and model {older.label} has learned clicks until {iso(older.until_ms)}: "
            "nothing is left to judge by; give a log with newer clicks, or train without --from-model"
        )
    return max(cut_ms, older.until_ms + 1)
