"""Items that have no clicks yet -> a place beside the others, from what their category's items have learned.

An item of a shop's catalogue that the log does not have stands at the end of the vocabulary, with no clicks. It takes
no part in the training; `warm` then gives it the middle of its category's rows: it ranks where they rank, and a click
on it says what a click on them says. Its bias is that of an item of middling popularity in its category: only clicks
can say that it is more. In a category of thousands it is therefore rarely among the first twenty.
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
    """A vocabulary with the catalogue's new items at its end.

    items     the items given, in their order, then the new ones in the file's
    category  (V,) int64 of each, NO_CATEGORY where the catalogue names none
    """

    items: list[str]
    category: I64


def with_catalogue(path: Path, known: Sequence[str]) -> Catalogued:
    """The known items and those that only the catalogue has.

    Raises ConfigError on a file that cannot be used, or that has none of the known items: then no category has clicks.
    """
    items = list(dict.fromkeys([*known, *item_ids(path)]))
    catalogue = read_catalogue(path, {item: i for i, item in enumerate(items)}, [CATEGORY])
    if not catalogue.listed[: len(known)].any():
        ids = f"such as {known[0]!r}; its own are such as {items[-1]!r}"
        raise ConfigError(
            f"catalogue {path}: it has none of the items that were clicked, {ids}: write ids alike in both"
        )
    codes: dict[str, int] = {}
    numbers = [codes.setdefault(its[0], len(codes)) if its else NO_CATEGORY for its in catalogue.columns[CATEGORY]]
    return Catalogued(items, np.array(numbers, np.int64))


def how_placed(category: I64, known: int) -> str:
    """What is to be said of the items that only the catalogue has; category (W,), the first `known` have clicks."""
    new, learned = category[known:], category[:known]
    others = len(new) - int(np.isin(new, learned[learned != NO_CATEGORY]).sum())
    line = f"{len(new):,} items of the catalogue have no clicks: their rows come from their category"
    return line if not others else f"{line}, those of {others:,} from all items: none of their category has clicks"


def with_new_items(network: Network, clicks: F64, category: I64) -> Network:
    """A network trained on the first items of a vocabulary -> one of all, those without clicks from their category.

    clicks    (V,) how often training saw each of the network's items
    category  (W,), W >= V, as `warm` takes it
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
        parameter.data = torch.from_numpy(np.concatenate([values, was[known:]]))  # the last is the unknown item's
    for mine, theirs in ((wide.row_squares, network.row_squares), (wide.bias_squares, network.bias_squares)):
        mine[:known], mine[-1] = theirs[:known], theirs[-1]
    return wide.eval()


def warm(rows: F32, bias: F32, clicks: I64, category: I64) -> tuple[F32, F32]:
    """Rows and biases of V items as trained -> the same, but those of items without clicks from their category.

    rows      (V, H) float32
    bias      (V,) float32, of the ranking head
    clicks    (V,) how often training saw the item
    category  (V,), NO_CATEGORY = none: such an item, and one alone in its category, is made from all items
    returns   new memory. A new row is the mean of its category's rows that have clicks, scaled to their mean length:
              a mean is shorter than what it is of, and would never be among the best. A new bias is their median
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
    """(m, H) -> (H,): the direction of the mean, the mean length."""
    mean = rows.mean(axis=0)
    length = float(np.linalg.norm(mean))
    scaled: F32 = mean * (np.linalg.norm(rows, axis=1).mean() / length) if length > 0 else mean
    return scaled
