"""New items stand where their category stands, and nothing else moves."""

from pathlib import Path

import numpy as np
import pytest

from export.cold import NO_CATEGORY, warm, with_catalogue
from stream.errors import ConfigError

SHOES, HATS, GLOVES = 0, 1, 2
CATEGORY = np.array([SHOES, SHOES, HATS, SHOES, HATS, SHOES, GLOVES, NO_CATEGORY])
CLICKS = np.array([9, 4, 2, 1, 7, 0, 0, 0])


def trained() -> tuple[np.ndarray, np.ndarray]:
    """Eight items in four dimensions: shoes lie along the first, hats along the second."""
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 0.3, (8, 4)).astype(np.float32)
    rows[CATEGORY == SHOES, 0] += 3
    rows[CATEGORY == HATS, 1] += 3
    return rows, np.array([3.0, 2.0, 1.0, 0.0, 4.0, -9.0, -9.0, -9.0], np.float32)


def test_a_new_item_is_recommended_where_its_category_is() -> None:
    """A state that asks for shoes ranks the new shoe with the shoes; its bias is their median."""
    rows, bias = warm(*trained(), CLICKS, CATEGORY)
    asks_for_shoes = np.array([1, 0, 0, 0], np.float32)
    ranking = np.argsort(-(rows @ asks_for_shoes + 0 * bias)).tolist()
    assert set(ranking[:4]) == {0, 1, 3, 5}
    assert bias[5] == 2.0
    lengths = np.linalg.norm(rows[[0, 1, 3]], axis=1)
    assert np.linalg.norm(rows[5]) == pytest.approx(lengths.mean())


def test_items_with_clicks_keep_what_they_learned() -> None:
    """Only items without clicks change, and the arrays given stay as they were."""
    rows, bias = trained()
    warmed_rows, warmed_bias = warm(rows, bias, CLICKS, CATEGORY)
    assert (warmed_rows[:5] == rows[:5]).all()
    assert (warmed_bias[:5] == bias[:5]).all()
    assert (rows == trained()[0]).all()
    assert warm(rows, bias, np.ones(8, np.int64), CATEGORY)[0].tolist() == rows.tolist()


def test_without_a_category_that_has_clicks_an_item_is_like_all() -> None:
    """A category of new items only, or none, says nothing: the middle of the catalogue it is."""
    rows, bias = warm(*trained(), CLICKS, CATEGORY)
    assert (rows[6] == rows[7]).all()
    assert bias[6] == bias[7] == 2.0


def test_the_catalogues_new_items_stand_behind_the_known(tmp_path: Path) -> None:
    """Known items keep their index; an item listed twice is one; the later line's category counts."""
    path = tmp_path / "items.csv"
    path.write_text("item_id,category\nnew,hats\nb,shoes\nother,\nnew,shoes\n")
    items, category = with_catalogue(path, ["a", "b"])
    assert items == ["a", "b", "new", "other"]
    assert category[1] == category[2] != NO_CATEGORY
    assert category[[0, 3]].tolist() == [NO_CATEGORY] * 2
    path.write_text("item_id,colour\nnew,red\n")
    with pytest.raises(ConfigError, match="no line has category"):
        with_catalogue(path, ["a"])
    path.write_text("id,category\nnew,hats\n")
    with pytest.raises(ConfigError, match="line 2: item_id is None"):
        with_catalogue(path, ["a"])
