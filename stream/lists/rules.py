"""Makes lists that obey the shop's rules: only allowed items, a limited number per category, and full length.

A list is that which the same rules select from the full ranking of the catalogue. To save time, only a prefix of the
ranking is computed. If the rules leave too few items of the prefix, a prefix four times as deep is computed, up to the
whole catalogue. So with score.onnx, a list is exactly that of the full ranking. With shortlist.onnx, which large
catalogues have on a CPU, a prefix can lack items (DEEPEST in model/runtime.py).

Source of the diversity: Carbonell & Goldstein 1998 (maximal marginal relevance), where two items are similar if they
have the same category.
"""

import logging
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from stream.errors import ConfigError
from stream.lists.catalogue import CATEGORY, Catalogue, read_catalogue
from stream.lists.explore import Picked, explore
from stream.lists.shape import Shape, shape_of
from stream.lists.top import Lists, among
from stream.lists.watched_file import WatchedFile
from stream.model.runtime import F32, I64, Model, StateArray
from stream.settings import Rules

I32 = npt.NDArray[np.int32]
Bools = npt.NDArray[np.bool_]

NO_CATEGORY = -1

BEYOND = 1e6
"""Nats subtracted from items outside the window, so that they rank below all items in it. Such items are only used if a
cap on categories excludes too many items of the window."""

DEPTH_FACTOR = 4
"""A prefix that has too few allowed items is computed again with this many times the depth."""

ELEMENTS = 2_000_000
"""Largest number of array elements for one batch of users, so that a batch needs some tens of MB."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CompiledRules:
    """The rules and the catalogue as arrays over the model's item indices.

    allowed   (V,) bool: the item may be recommended
    category  (V,) int32, code of the item's category, NO_CATEGORY = none
    codes     category -> code
    """

    allowed: Bools
    category: I32
    codes: dict[str, int]


class RuledLists:
    """Makes lists under the shop's rules, as the module's docstring describes."""

    def __init__(self, model: Model, rules: Rules, k: int) -> None:
        """Read the catalogue, if the rules name one. Raises ConfigError if it is bad."""
        self._model = model
        self._rules = rules
        self._shape = shape_of(rules, k)
        load = partial(_compile, model.index, rules)
        self._catalogue = WatchedFile(Path(rules.catalogue), load) if rules.catalogue else None
        n = len(model.items)
        self._no_rules = CompiledRules(np.ones(n, np.bool_), np.full(n, NO_CATEGORY, np.int32), {})

    @property
    def category(self) -> I32 | None:
        """(V,) int32, code of each item's category, NO_CATEGORY = none. None if the catalogue has no categories."""
        return self._compiled.category if self._compiled.codes else None

    @property
    def codes(self) -> dict[str, int]:
        """Category -> code. Valid until the next `refresh`."""
        return self._compiled.codes

    @property
    def _compiled(self) -> CompiledRules:
        return self._no_rules if self._catalogue is None else self._catalogue.value

    def refresh(self) -> None:
        """Read the catalogue again if its file has changed."""
        if self._catalogue is not None:
            self._catalogue.refresh()

    def asked(self, k: int, in_category: bool) -> "RuledLists":
        """These rules with another length, and only with items of the click's category if `in_category`.

        Their catalogue is the one of this moment. May be called in any thread.
        """
        other = copy(self)
        other._catalogue, other._no_rules = None, self._compiled
        other._shape = shape_of(self._rules, k)
        if in_category and other.codes:  # without them the caller finds no code of a category, and refuses the request
            other._rules = msgspec.structs.replace(self._rules, same_category=True)
        return other

    def __call__(
        self, state: list[StateArray], left_out: I32, item: I64, category: I32, ids: Callable[[], Sequence[str]]
    ) -> Lists:
        """Make one list per click.

        state     inputs of score.onnx, each (n, *shape)
        left_out  (n, N) int32, indices of excluded items, -1 = none
        item      (n,) int64, index of the clicked item
        category  (n,) int32, code of the click's own category field; NO_CATEGORY = missing or unknown
        ids       returns the ids of the n clicks (topic-partition-offset). Exploration derives random numbers from them
        """
        compiled = self._compiled
        wanted = _wanted(compiled, item, category) if self._rules.same_category else None
        picked = pick(self._model, state, left_out, compiled, wanted, self._shape)
        if not self._rules.explore:
            return Lists(picked.items, picked.log_probs, picked.counts)
        shaped = bool(self._shape.cap or self._shape.penalty)
        alike = compiled.category if shaped else self._no_rules.category
        return explore(picked, alike, ids(), self._rules.explore, self._rules.explore_seed)


def pick(
    model: Model, state: list[StateArray], left_out: I32, compiled: CompiledRules, wanted: I32 | None, shape: Shape
) -> Picked:
    """Select the lists of n users. Each list equals the list from the full ranking, but for what a shortlist
    loses (DEEPEST in model/runtime.py).

    state     inputs of score.onnx, each (n, *shape)
    left_out  (n, N) indices of excluded items; -1 and the unknown item exclude nothing
    wanted    (n,) int32, code of the only allowed category, NO_CATEGORY = all. None = all categories for every user
    returns   new memory
    """
    n, (k, window, cap, _) = len(left_out), shape
    total, width = len(model.items), min(shape.window, len(model.items))
    picked = Picked(
        np.zeros((n, k), np.int64),
        np.zeros((n, k), np.float32),
        np.zeros(n, np.int64),
        np.zeros((n, width), np.int64),
        np.zeros((n, width), np.float32),
        np.zeros(n, np.int64),
    )
    stock = _stock(compiled, wanted, n)
    need = max(window, 2 * k if cap else k) + left_out.shape[1]
    depths = np.minimum(total, np.ceil(need * _over_fetch(stock / total))).astype(np.int64)
    pending = np.ones(n, np.bool_)
    while pending.any():
        depth = int(depths[pending].min())
        users = np.flatnonzero(pending & (depths == depth))
        batch = max(1, ELEMENTS // depth)
        for rows in (users[a : a + batch] for a in range(0, len(users), batch)):
            items, log_probs = model.score([value[rows] for value in state], depth)
            allowed = compiled.allowed[items]
            if wanted is not None:
                allowed &= (wanted[rows, None] == NO_CATEGORY) | (compiled.category[items] == wanted[rows, None])
            fits = allowed & ~among(items, left_out[rows])
            full = _take(picked, rows, items, log_probs, fits, compiled.category[items], shape)
            pending[rows] = ~full & (allowed.sum(1) < stock[rows])
        depths[users] = min(total, depth * DEPTH_FACTOR)
    return picked


def _stock(compiled: CompiledRules, wanted: I32 | None, n: int) -> I64:
    """Return how many items of the catalogue the rules allow for each user (n,), including items in left_out."""
    everything = int(compiled.allowed.sum())
    if wanted is None:
        return np.full(n, everything)
    listed = compiled.category[compiled.allowed]
    by_category = np.bincount(listed[listed != NO_CATEGORY], minlength=len(compiled.codes))
    return np.where(wanted == NO_CATEGORY, everything, np.append(by_category, 0)[wanted])


def _over_fetch(share: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return how many ranked items to compute per needed item (n,), for the allowed share of the catalogue (n,).

    The result is an estimate, because the allowed items need not be spread evenly over the ranking. All results are
    powers of sqrt(2), so that many users have the same depth and share a call.
    """
    rare = (share > 0) & (share < 1)
    return np.where(rare, 2 ** (np.ceil(2 * np.log2(1.25 / np.where(rare, share, 1))) / 2), 1.0)


def _take(
    picked: Picked, rows: npt.NDArray[np.intp], items: I64, log_probs: F32, fits: Bools, category: I32, shape: Shape
) -> Bools:
    """Fill the `rows` of `picked` from a prefix of the ranking.

    items, log_probs  (r, R) the prefix of each row, best first
    fits              (r, R) bool, the item is allowed and not left out
    category          (r, R) int32, codes of the items' categories
    returns           (r,) bool, True if a deeper prefix would not change the result
    """
    rank = np.cumsum(fits, axis=1)  # 1 = the first item that fits
    if shape.cap or shape.penalty:
        at, counts = _greedy(log_probs, fits, rank <= shape.window, category, shape)
    else:
        at = np.argsort(~fits, axis=1, kind="stable")[:, : shape.k]
        counts = np.minimum(at.shape[1], rank[:, -1])
    picked.items[rows, : at.shape[1]] = np.take_along_axis(items, at, 1)
    picked.log_probs[rows, : at.shape[1]] = np.take_along_axis(log_probs, at, 1)
    picked.counts[rows] = counts
    if shape.window > shape.k:
        left = fits & (rank <= shape.window)
        here, slot = np.nonzero(np.arange(at.shape[1]) < counts[:, None])
        left[here, at[here, slot]] = False
        rest = np.argsort(~left, axis=1, kind="stable")[:, : picked.spare.shape[1]]
        picked.spare[rows, : rest.shape[1]] = np.take_along_axis(items, rest, 1)
        picked.spare_probs[rows, : rest.shape[1]] = np.take_along_axis(log_probs, rest, 1)
        picked.spares[rows] = left.sum(1)
    done: Bools = (counts == shape.k) & (rank[:, -1] >= shape.window)
    return done


def _greedy(
    log_probs: F32, fits: Bools, inside: Bools, category: I32, shape: Shape
) -> tuple[npt.NDArray[np.intp], I64]:
    """Fill the slots one by one, each with the item of the highest value.

    The value is the log-probability, minus `penalty` if the item's category is already in the list. If two values are
    equal, the item with the higher log-probability is used, and then the earlier one.

    log_probs, fits, inside, category  (n, R), best first. `inside` is True for items within the window
    returns  positions of the selected items (n, min(k, R)), and how many of them are valid (n,)
    """
    users = np.arange(len(fits))
    worth = np.where(fits, log_probs.astype(np.float64) - np.where(inside, 0.0, BEYOND), -np.inf)
    alike = np.zeros(fits.shape, np.int32)  # number of items in the list with the same category
    at = np.zeros((len(fits), min(shape.k, fits.shape[1])), np.intp)
    counts = np.zeros(len(fits), np.int64)
    for slot in range(at.shape[1]):
        now = np.where(alike > 0, worth - shape.penalty, worth) if shape.penalty else worth
        best = now.argmax(1)
        found = now[users, best] > -np.inf
        at[:, slot] = best
        counts += found
        worth[users, best] = -np.inf
        added = category[users, best]
        alike += (category == added[:, None]) & (found & (added != NO_CATEGORY))[:, None]
        if shape.cap:
            worth[alike >= shape.cap] = -np.inf
    return at, counts


def _wanted(compiled: CompiledRules, item: I64, category: I32) -> I32:
    """Return the category code (n,) of each click: its own category, else its item's; NO_CATEGORY = unknown."""
    of_item = np.append(compiled.category, np.int32(NO_CATEGORY))[item]
    return np.where(category == NO_CATEGORY, of_item, category)


def _compile(index: dict[str, int], rules: Rules, path: Path) -> CompiledRules:
    """Read the catalogue at `path` and apply the rules to it. Raises ConfigError if it is bad or allows no item."""
    wanted = rules.wanted()
    by_category = rules.same_category or rules.max_per_category or rules.diversity
    catalogue = read_catalogue(path, index, {*wanted, *((CATEGORY,) if by_category else ())})
    if not catalogue.listed.any():
        raise ConfigError(
            f"catalogue {path}: it has {catalogue.lines:,} lines, and no item of the model; check the item_id column"
        )
    allowed = np.ones(len(index), np.bool_)
    if rules.only_available:
        if catalogue.available is None:
            raise ConfigError(
                f"catalogue {path}: no line has in_stock or available, but the rule only_available needs one"
            )
        allowed &= catalogue.available
    for column, values in wanted.items():
        allowed &= np.fromiter((not values.isdisjoint(own) for own in catalogue.columns[column]), np.bool_, len(index))
    if not allowed.any():
        raise ConfigError(
            f"catalogue {path}: the rules allow no item of the model; check the item_id column and the setting only"
        )
    codes, category = _codes(catalogue)
    log.info(
        "catalogue read: path=%s lines=%d known=%d allowed=%d items_in_model=%d categories=%d",
        path,
        catalogue.lines,
        int(catalogue.listed.sum()),
        int(allowed.sum()),
        len(index),
        len(codes),
    )
    return CompiledRules(allowed, category, codes)


def _codes(catalogue: Catalogue) -> tuple[dict[str, int], I32]:
    """Return category -> code, and the code of each item's first category (V,) int32."""
    codes: dict[str, int] = {}
    numbers = (codes.setdefault(own[0], len(codes)) if own else NO_CATEGORY for own in catalogue.columns[CATEGORY])
    return codes, np.fromiter(numbers, np.int32, len(catalogue.listed))
