"""Cold items: catalogue items without clicks -> an item row and a bias, computed from the items of their category.

A cold item is appended to the vocabulary, with zero clicks, and is not trained. After the training, `warm` sets its
row to the scaled mean of the trained rows of its category, and its bias to the median bias of these items. A cold item
therefore ranks near the items of its category, and a click on it changes the state as a click on one of them does. Its
popularity is the median of the category, so in a category of thousands of items it is rarely among the top 20.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from export.arrays import F32, F64, I64
from export.network.network import Network
from stream.errors import ConfigError
from stream.lists.catalogue import CATEGORY, item_ids, read_catalogue
from stream.lists.rules import NO_CATEGORY


class Catalogued(NamedTuple):
    """A vocabulary to which the cold items of a catalogue are appended.

    items     the known items in their order, then the cold items in the order of the file
    category  (V,) int64, category of each item; NO_CATEGORY where the catalogue gives none
    """

    items: list[str]
    category: I64


def with_catalogue(path: Path, known: Sequence[str]) -> Catalogued:
    """The known items, followed by the items that are only in the catalogue.

    Raises ConfigError if the file cannot be used, or contains none of the known items: no category has clicks then.
    """
    items = list(dict.fromkeys([*known, *item_ids(path)]))
    catalogue = read_catalogue(path, {item: i for i, item in enumerate(items)}, [CATEGORY])
    if not catalogue.listed[: len(known)].any():
        raise ConfigError(
            f"catalogue {path}: contains none of the items of the log; the log has ids such as {known[0]!r}, the "
            f"catalogue ids such as {items[-1]!r}: write the ids in the same way in both files"
        )
    codes: dict[str, int] = {}
    numbers = [codes.setdefault(its[0], len(codes)) if its else NO_CATEGORY for its in catalogue.columns[CATEGORY]]
    return Catalogued(items, np.array(numbers, np.int64))


def describe_cold_items(category: I64, known: int) -> str:
    """Progress line about the cold items. category (W,) int64; the first `known` items are those of the log."""
    new, learned = category[known:], category[:known]
    others = len(new) - int(np.isin(new, learned[learned != NO_CATEGORY]).sum())
    line = f"{len(new):,} items of the catalogue have no clicks: their rows come from their category"
    return line if not others else f"{line}; {others:,} rows come from all items: no item of their category has clicks"


def with_new_items(network: Network, clicks: F64, category: I64) -> Network:
    """A network over V items -> a network over W >= V items, in which `warm` sets the items without training clicks.

    clicks    (V,) float64, training clicks of each item of the network
    category  (W,) int64, NO_CATEGORY = none
    returns   new network in evaluation mode; its W items are the V items and then the cold items
    """
    known, new = network.sizes.items, len(category) - network.sizes.items
    rows, bias = network.item_rows.detach().numpy(), network.item_bias.detach().numpy()
    warmed = warm(
        np.pad(rows[:known], [(0, new), (0, 0)]),
        np.pad(bias[:known], (0, new)),
        np.pad(clicks, (0, new)).astype(np.int64),
        category,
    )
    wide = Network(network.sizes._replace(items=known + new))
    of_items = ("item_rows", "item_bias", "row_squares", "bias_squares")
    own = {name: value for name, value in network.state_dict().items() if name not in of_items}
    wide.load_state_dict(own, strict=False)
    for parameter, values, was in zip((wide.item_rows, wide.item_bias), warmed, (rows, bias), strict=True):
        parameter.data = torch.from_numpy(np.concatenate([values, was[known:]]))  # the last row is the unknown item's
    for mine, theirs in ((wide.row_squares, network.row_squares), (wide.bias_squares, network.bias_squares)):
        mine[:known], mine[-1] = theirs[:known], theirs[-1]
    return wide.eval()


def warm(rows: F32, bias: F32, clicks: I64, category: I64) -> tuple[F32, F32]:
    """Trained rows and biases of V items -> the same, with those of items without clicks set from their category.

    A cold item's row is the mean of the trained rows of its category, scaled to their mean length: an unscaled mean is
    shorter than the rows, so its logits would be too low. Its bias is the median of their biases. A cold item without a
    category, or in a category without clicks, is set from all trained items.

    rows      (V, H) float32
    bias      (V,) float32, of the ranking head
    clicks    (V,) int64, training clicks of each item
    category  (V,) int64, NO_CATEGORY = none
    returns   rows and bias of the same shapes, new memory
    """
    rows, bias, trained = rows.copy(), bias.copy(), clicks > 0
    for code in np.unique(category[~trained]):
        its = category == code
        like = its & trained if code != NO_CATEGORY and (its & trained).any() else trained
        new = its & ~trained
        rows[new] = _middle(rows[like])
        bias[new] = np.median(bias[like])
    return rows, bias


def _middle(rows: F32) -> F32:
    """(m, H) -> (H,): the mean row, scaled to the mean length of the rows."""
    mean = rows.mean(axis=0)
    length = float(np.linalg.norm(mean))
    scaled: F32 = mean * (np.linalg.norm(rows, axis=1).mean() / length) if length > 0 else mean
    return scaled
