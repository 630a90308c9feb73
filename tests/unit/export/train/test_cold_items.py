"""New items get the embedding of their category, and nothing else changes."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from export.cli import train
from export.dataset.windows import Windows, encode
from export.log.log import GAP_EDGES_MS, Vocabulary
from export.network.states import outputs
from export.network.weights import load_network
from export.train.cold_items import describe_cold_items, warm, with_catalogue
from export.train.holdout import held_out_from, hold_out
from stream.errors import ConfigError
from stream.lists.rules import NO_CATEGORY
from stream.manifest import read_manifest
from tests.unit.export.train.test_trainer import ITEMS, shop

pytestmark = pytest.mark.usefixtures("hurried")

SHOES, HATS, GLOVES = 0, 1, 2
CATEGORY = np.array([SHOES, SHOES, HATS, SHOES, HATS, SHOES, GLOVES, NO_CATEGORY])
CLICKS = np.array([9, 4, 2, 1, 7, 0, 0, 0])


def trained() -> tuple[np.ndarray, np.ndarray]:
    """Eight items in four dimensions: shoes are along the first, hats along the second."""
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


def test_without_a_category_with_clicks_an_item_gets_the_mean_of_all() -> None:
    """An item with no category, or with one of new items only, gets the mean of the catalogue."""
    rows, bias = warm(*trained(), CLICKS, CATEGORY)
    assert (rows[6] == rows[7]).all()
    assert bias[6] == bias[7] == 2.0


def test_the_catalogues_new_items_come_after_the_known(tmp_path: Path) -> None:
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
    with pytest.raises(
        ConfigError, match=r"line 2: no item_id; the columns are: id, category\. Give .* the name item_id"
    ):
        with_catalogue(path, ["a"])


def test_a_catalogue_of_other_ids_is_refused(tmp_path: Path) -> None:
    """If the log has ids in a different form, the vocabulary would be full of items that nobody clicks."""
    path = tmp_path / "items.csv"
    path.write_text("item_id,category\n007,shoes\n008,hats\n")
    with pytest.raises(
        ConfigError, match="none of the items of the log; the log has ids such as '7', the catalogue ids such as '008'"
    ):
        with_catalogue(path, ["7", "8"])


def test_the_number_of_new_items_with_and_without_a_category_is_reported() -> None:
    """Items without a category that has clicks are counted separately."""
    placed = "items of the catalogue have no clicks: their rows come from their category"
    assert describe_cold_items(CATEGORY[:6], 5) == f"1 {placed}"
    assert (
        describe_cold_items(CATEGORY, 5)
        == f"3 {placed}; 2 rows come from all items: no item of their category has clicks"
    )


def test_a_training_places_the_catalogues_new_items(tmp_path: Path) -> None:
    """`eddy train --catalogue`: an item without clicks is recommended where its category is.

    In the shop an item of category c is followed by one of category (3 c + 3) mod 4.
    """
    log = shop()
    columns = zip(log.user.tolist(), log.item.tolist(), log.time_ms.tolist(), strict=True)
    clicks, catalogue, out = tmp_path / "log.csv", tmp_path / "items.csv", tmp_path / "m" / "1"
    clicks.write_text("user_id,item_id,timestamp\n" + "".join(f"u{u},i{i},{t}\n" for u, i, t in columns))
    names = [*(f"i{i}" for i in range(ITEMS)), *(f"cold{c}" for c in range(4))]
    catalogue.write_text("item_id,category\n" + "".join(f"{name},{n % 4}\n" for n, name in enumerate(names)))
    arguments = ["--catalogue", str(catalogue), "--hidden", "16", "--epochs", "6", "--out", str(out)]
    ran = CliRunner().invoke(train, [str(clicks), *arguments])
    assert ran.exit_code == 0, ran.output

    items, network = json.loads((out / "items.json").read_text()), load_network(out)
    assert items[ITEMS:] == names[ITEMS:]
    assert read_manifest(out).training["items_without_clicks"] == 4
    vocabulary = Vocabulary(items, ("view",), GAP_EDGES_MS)
    later = encode(shop(users=50, seed=9), vocabulary, 3_600_000)
    logits = network.logits(outputs(network, Windows(later), np.arange(len(later))))[:, ITEMS:].detach().numpy()
    category = np.array([names.index(item) % 4 for item in items])[later.item]
    for c in range(4):
        assert logits[category == c].mean(axis=0).argmax() == (3 * c + 3) % 4


def test_new_items_of_the_slice_are_known_by_their_category(tmp_path: Path) -> None:
    """The held-out slice is evaluated as in production: an item first seen there is not unknown if it has a
    category."""
    log = shop(users=200)
    cut_ms = held_out_from(log.time_ms)
    born = log.where(((log.item != 3) & (log.item != 4)) | (log.time_ms >= cut_ms))
    path = tmp_path / "items.csv"
    path.write_text("item_id,category\ni3,a\nnew,a\n")
    held_out = hold_out(born)
    wide = held_out.with_items(with_catalogue(path, held_out.vocabulary.items))
    three, four = (held_out.vocabulary.items.index(item) for item in ("i3", "i4"))
    of_slice = np.isin(held_out.clicks.user, held_out.clicks.user[held_out.clicks.time_ms >= held_out.cut_ms])
    item, later = held_out.clicks.item[of_slice], wide.seen.time_ms >= wide.cut_ms
    assert (held_out.seen.item[item == three] == ITEMS).all()
    assert (wide.seen.item[later & (item == three)] == three).all()
    assert (wide.seen.item[later & (item == four)] == ITEMS + 1).all()
    assert wide.vocabulary.items == [*held_out.vocabulary.items, "new"]
