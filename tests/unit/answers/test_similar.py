"""Similar items, compared with the rows as the onnx package reads them."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from stream.answers.similar import ITEM_ROWS, Similar
from stream.errors import Unanswered
from stream.model.external import constant
from stream.model.runtime import load_model

SHOP = Path(__file__).parents[3] / "models" / "shop" / "1"


def rows_of(directory: Path) -> np.ndarray:
    graph = onnx.load(str(directory / "step.onnx")).graph
    [found] = [onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name == ITEM_ROWS]
    return found


@pytest.mark.parametrize("which", ["trained, in a file of its own", "tiny, in the graph"])
def test_similar_items_have_the_largest_cosine(model_dir: Path, which: str) -> None:
    """All items in order, without the item itself; k shortens the list."""
    directory = SHOP if which.startswith("trained") else model_dir
    model, rows = load_model(directory, "cpu"), rows_of(directory)[:-1].astype(np.float64)
    similar = Similar(model, directory)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    for at in (0, 7, len(model.items) - 1):
        cosine = unit @ unit[at]
        found = similar.of(model.items[at], 1000)
        assert set(found["items"]) == set(model.items) - {model.items[at]}
        assert found["similarity"] == pytest.approx([cosine[model.index[item]] for item in found["items"]], abs=2e-5)
        assert found["similarity"] == sorted(found["similarity"], reverse=True)
        assert similar.of(model.items[at], 5)["items"] == found["items"][:5]


def test_an_unknown_item_is_an_error(model_dir: Path) -> None:
    """As an item that the model was not trained on."""
    with pytest.raises(Unanswered, match="does not know this item") as raised:
        Similar(load_model(model_dir, "cpu"), model_dir).of("never seen", 5)
    assert raised.value.status == 404


def test_a_constant_that_is_not_there_is_none(model_dir: Path) -> None:
    """So a model of another kind has no similar items, and no worker fails for it."""
    assert constant(model_dir, "step.onnx", "network.no_such_rows") is None
