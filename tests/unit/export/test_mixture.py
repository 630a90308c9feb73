"""How far a few clicks may move what the user's last items bring to a list."""

import numpy as np
import torch

from export.mixture import (
    FEATURES,
    FIRST,
    NEIGHBOURS,
    REMEMBERED,
    TEMPERATURES,
    Chances,
    Counted,
    Mixture,
    Neighbours,
    fit_mixture,
)

ITEMS = 12
SOURCES = 1 + 4 * REMEMBERED


def gates_after(clicks: int, came: float) -> torch.Tensor:
    """The gates (S,) fitted on clicks where every source was there and had given the item that came such a chance."""
    none = np.zeros((ITEMS + 2, NEIGHBOURS), np.float32)
    empty = Neighbours(none.astype(np.int32), none, none[:, 0])
    mixture = Mixture(Counted(empty, empty, np.zeros(ITEMS)))
    there = torch.ones(clicks, SOURCES)
    features = torch.eye(FEATURES)[:1].expand(clicks, FEATURES)
    network = torch.full((clicks, len(TEMPERATURES)), -3.0)
    fit_mixture(mixture, Chances(network, features, there, there, torch.full_like(there, came)))
    return torch.sigmoid(mixture.gates[0])


def test_a_few_clicks_do_not_rule_a_source_out() -> None:
    """What never came in thirty clicks still has a chance; what never came in thousands has next to none."""
    began = torch.sigmoid(torch.tensor(FIRST))
    assert (gates_after(30, came=0.0) > began / 4).all()
    assert (gates_after(5_000, came=0.0) < began / 20).all()


def test_what_brings_the_item_is_let_in() -> None:
    """A source that is right every second time gets more than it began with."""
    assert (gates_after(1_000, came=0.5) > torch.sigmoid(torch.tensor(FIRST))).all()
