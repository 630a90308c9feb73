"""Warm start: an older model and a newer log -> the initial network of a training, its rows matched by item id.

- Items of the older model that are not in the log stay, so a training on the newest clicks alone forgets no item.
- An item that the older model does not know starts with the row of the unknown item, which represented it so far.
- The Adagrad sums of known items are kept. Without them, a day of clicks would undo what a year of clicks has taught.
- Click counts and neighbours of the older model are added to those of the log's newer clicks, with the weight of the
  log's oldest clicks. An item therefore keeps its popularity and neighbours through a day without clicks.
- The baselines get the sessions of both.
- The gates of the mixture are fitted again, starting from the older model's gates.
- The held-out slice begins after the older model's last training click: clicks that the older model was trained on
  cannot evaluate the new model.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from export.arrays import I64
from export.dataset.cooccurrence import NEIGHBOURS, Counted, Neighbours
from export.dataset.sessions import Sessions, sessions_of
from export.evaluate.baselines import load_baselines
from export.log.log import Log, Vocabulary
from export.log.times import iso, parse_time
from export.network.network import Network, Sizes
from export.network.weights import load_network
from stream.errors import ArtifactError, ConfigError
from stream.manifest import read_manifest


class Older(NamedTuple):
    """The model that a training starts from.

    label     name and version, for messages
    identity  Manifest.identity
    until_ms  upper bound of the times of its training clicks, ms (the manifest stores seconds)
    sessions    sessions of its baselines; None = the file is absent or cannot be read
    """

    label: str
    identity: int
    network: Network
    vocabulary: Vocabulary
    until_ms: int
    sessions: Sessions | None


def read_older(directory: Path) -> Older:
    """Read the model of a directory.

    Raises ArtifactError if the directory is incomplete or has no weights, ConfigError if the model was not trained.
    """
    network, manifest = load_network(directory), read_manifest(directory)
    until = manifest.training.get("until")
    if until is None:
        raise ConfigError(
            f"model {directory}: its manifest has no time of the last training click; train without --from-model"
        )
    items = json.loads((directory / "items.json").read_bytes())
    vocabulary = Vocabulary(items, manifest.event_types, manifest.gap_edges_ms)
    try:
        sessions, _ = load_baselines(directory)
    except ArtifactError:
        sessions = None
    return Older(manifest.label, manifest.identity, network, vocabulary, parse_time(until) + 999, sessions)


def joined(older: Older, vocabulary: Vocabulary, log: Log) -> Vocabulary:
    """The union of the log's vocabulary and the older model's; items by descending clicks in both.

    A click that is in the log and was also counted by the older model counts once. Items with equal clicks keep the
    order of the log's vocabulary, followed by that of the older model.
    """
    clicks = dict(zip(older.vocabulary.items, older.network.mixture.counted.clicks.tolist(), strict=True))
    newer = np.bincount(log.item[log.time_ms > older.until_ms], minlength=len(log.items))
    for item, more in zip(log.items, newer.tolist(), strict=True):
        clicks[item] = clicks.get(item, 0.0) + more
    items = dict.fromkeys([*vocabulary.items, *older.vocabulary.items])
    event_types = dict.fromkeys([*vocabulary.event_types, *older.vocabulary.event_types])
    return Vocabulary(sorted(items, key=lambda item: -clicks[item]), tuple(event_types), vocabulary.gap_edges_ms)


def sessions_since(older: Older | None, log: Log, items: list[str]) -> Sessions:
    """Sessions for the baselines: those of the older model, then those of the log's clicks after its last one.

    A session that continues after the older model's last click becomes two sessions: the older model stores no users.

    items  the vocabulary; it contains all items of the older model
    """
    if older is None or older.sessions is None:
        return sessions_of(log, items)
    index = {item: i for i, item in enumerate(items)}
    reindex = np.array([*(index[item] for item in older.vocabulary.items), len(items)], np.int32)
    # newest=len(log): `followed_by` limits the clicks of both together.
    newer = sessions_of(log.where(log.time_ms > older.until_ms), items, newest=len(log))
    return older.sessions.reindexed(reindex, len(items)).followed_by(newer)


def describe_overlap(older: Older, clicked: list[str]) -> str:
    """Progress line: how many of the log's items the older model knows. Few known items suggest other item ids."""
    known = len({*older.vocabulary.items}.intersection(clicked))
    return f"it knows {known:,} of the log's {len(clicked):,} items"


def check_older(older: Older, sizes: Sizes, vocabulary: Vocabulary) -> None:
    """Raises ConfigError if the older model's weights do not fit a network of these sizes."""
    theirs = older.network.sizes
    for name, is_, was in (
        ("hidden", sizes.hidden, theirs.hidden),
        ("network", sizes.cell, theirs.cell),
        ("gap edges", vocabulary.gap_edges_ms, older.vocabulary.gap_edges_ms),
    ):
        if is_ != was:
            raise ConfigError(f"{name} is {is_}, but {was} in model {older.label}: omit it to start from that model")


def warm_network(older: Older, sizes: Sizes, vocabulary: Vocabulary) -> Network:
    """A network of these sizes with the older model's weights; rows are matched by item and event type."""
    network, source = Network(sizes), older.network
    with torch.no_grad():
        network.cell.load_state_dict(source.cell.state_dict())
        network.gap_rows.copy_(source.gap_rows)
        network.item_rows.copy_(_by_name(source.item_rows, older.vocabulary.items, vocabulary.items))
        known = set(older.vocabulary.items)
        new = torch.tensor([item not in known for item in vocabulary.items])
        for mine, theirs in ((network.row_squares, source.row_squares), (network.bias_squares, source.bias_squares)):
            mine.copy_(_by_name(theirs, older.vocabulary.items, vocabulary.items))
            mine[:-1][new] = 0.0  # new items have no gradients yet: their rows must move at the full rate
        network.event_rows.copy_(_by_name(source.event_rows, older.vocabulary.event_types, vocabulary.event_types))
    return network


def _by_name(rows: Tensor, were: list[str] | tuple[str, ...], are: list[str] | tuple[str, ...]) -> Tensor:
    """Rows (n + 1, ...) of the n old names -> rows (m + 1, ...) of the m new names. The last row is <unk>.

    A new name that is not among the old names gets the row of <unk>.
    """
    index = {name: i for i, name in enumerate(were)}
    return rows[torch.tensor([*(index.get(name, len(were)) for name in are), len(were)])]


def counted_by(older: Older, vocabulary: Vocabulary) -> Counted:
    """Co-occurrence counts of the older model, reindexed to a vocabulary that contains all its items."""
    index = {item: i for i, item in enumerate(vocabulary.items)}
    reindex = np.array([index[item] for item in older.vocabulary.items], np.int64)
    return reindexed(older.network.mixture.counted, reindex, len(index))


def reindexed(counted: Counted, index: I64, items: int) -> Counted:
    """The counts, where item i gets index[i], among `items` items. index (V,) int64."""
    clicks = np.zeros(items)
    clicks[index] = counted.clicks
    following, near = (_reindexed(table, index, items) for table in (counted.following, counted.near))
    return Counted(following, near, clicks)


def _reindexed(table: Neighbours, index: I64, items: int) -> Neighbours:
    """A neighbour table, where item i gets index[i], among `items` items."""
    moved = Neighbours(
        np.zeros((items + 2, NEIGHBOURS), np.int32),
        np.zeros((items + 2, NEIGHBOURS), np.float32),
        np.zeros(items + 2, np.float32),
    )
    moved.items[1 + index] = index[table.items[1:-1]]
    moved.share[1 + index], moved.total[1 + index] = table.share[1:-1], table.total[1:-1]
    return moved


def first_unseen(older: Older, cut_ms: int, end_ms: int) -> int:
    """Time at which the held-out slice begins, ms: cut_ms, but later than the older model's training clicks.

    end_ms  time of the log's last click
    Raises ConfigError if the log has no click after the older model's training clicks.
    """
    if end_ms <= older.until_ms:
        raise ConfigError(
            f"the log ends at {iso(end_ms)}, and model {older.label} was trained until {iso(older.until_ms)}: no "
            "click is left to evaluate on; give a log with newer clicks, or train without --from-model"
        )
    return max(cut_ms, older.until_ms + 1)
