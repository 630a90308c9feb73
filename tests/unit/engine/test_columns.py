"""The conversion of ids and names to indices, against plain dictionaries."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream.engine.columns import Columns, Encoder
from stream.events import Click, Origin, Partition
from stream.lists.rules import NO_CATEGORY
from stream.model.runtime import Model, load_model
from stream.settings import Rules
from tests.conftest import EVENT_TYPES, ITEMS

HOLDS = {"cart": 1, "purchase": 1, "remove": -1}
RULES = Rules(exclude_events="cart, purchase", readmit_events="remove")
CATEGORIES = {"shoes": 0, "hats": 1}

READ = st.lists(
    st.tuples(
        st.builds(
            Click,
            user_id=st.sampled_from(["a", "b", "\u00fc", "a "]),
            item_id=st.sampled_from(["i0", "i7", "i49", "i50", "never seen"]),
            timestamp=st.integers(1, 2**50),
            event_type=st.sampled_from([*EVENT_TYPES, "remove", "wish"]),
            category=st.sampled_from([None, "shoes", "hats", "gloves"]),
        ),
        st.builds(Origin, st.sampled_from(["clicks", "carts"]), st.integers(0, 2), st.integers(0, 2**40)),
    ),
    max_size=12,
)
QUICK = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)


@pytest.fixture(scope="module")
def model(model_dir: Path) -> Model:
    return load_model(model_dir, "cpu")


def encoded(model: Model, read: list[tuple[Click, Origin]]) -> Columns:
    clicks, origins = [click for click, _ in read], [origin for _, origin in read]
    return Encoder(model, RULES, lambda: CATEGORIES).columns(clicks, origins)


def rows(columns: Columns) -> list[tuple[object, ...]]:
    """Each click as one tuple, with its user instead of an index."""
    owners = [columns.owners[user] for user in columns.owner.tolist()]
    new_form = np.zeros(len(columns), np.bool_) if columns.new_form is None else columns.new_form
    parts = (
        columns.offset,
        columns.time_ms,
        columns.item,
        columns.event_type,
        columns.hold,
        columns.category,
        new_form,
    )
    return list(zip(owners, *(part.tolist() for part in parts), strict=True))


@QUICK
@given(READ)
def test_ids_and_names_become_indices(model: Model, read: list[tuple[Click, Origin]]) -> None:
    """An unknown id has the index after the last one; equal user ids in two partitions are two users."""
    columns = encoded(model, read)
    assert rows(columns) == [
        (
            (Partition(origin.topic, origin.partition), click.user_id.encode()),
            origin.offset,
            click.timestamp,
            ITEMS.index(click.item_id) if click.item_id in ITEMS else len(ITEMS),
            EVENT_TYPES.index(click.event_type) if click.event_type in EVENT_TYPES else len(EVENT_TYPES),
            HOLDS.get(click.event_type, 0),
            CATEGORIES.get(click.category or "", NO_CATEGORY),
            click.item_id == "never seen",  # two words: no item of the model is like that
        )
        for click, origin in read
    ]
    owners = [(Partition(o.topic, o.partition), click.user_id.encode()) for click, o in read]
    assert list(columns.owners) == list(dict.fromkeys(owners))
    assert columns.ids() == [origin.id for _, origin in read]
    assert len(columns) == len(read)


@QUICK
@given(READ, st.data())
def test_some_of_the_clicks_are_the_same_clicks(
    model: Model, read: list[tuple[Click, Origin]], data: st.DataObject
) -> None:
    """Repeats and failures are removed from a batch: the other clicks keep their order, and users without a click are
    removed."""
    which = [i for i in range(len(read)) if data.draw(st.booleans())]
    taken = encoded(model, read).take(np.array(which, np.intp))
    expected = encoded(model, [read[i] for i in which])
    assert rows(taken) == rows(expected)
    assert list(taken.owners) == list(expected.owners)
    assert taken.ids() == expected.ids()


def test_without_a_rule_on_categories_they_are_ignored(model: Model) -> None:
    """A worker without a catalogue ignores the clicks' categories."""
    encoder = Encoder(model, Rules(), None)
    assert encoder.categories(["shoes", None]).tolist() == [NO_CATEGORY, NO_CATEGORY]
    assert encoder.holds(["cart", "purchase"]).tolist() == [0, 0]


def test_categories_are_those_of_the_current_catalogue(model: Model) -> None:
    """The next batch uses the catalogue that was read last; the encoder has no copy."""
    now = {"shoes": 0}
    encoder = Encoder(model, RULES, lambda: now)
    assert encoder.categories(["shoes", "hats"]).tolist() == [0, NO_CATEGORY]
    now.clear()
    now["hats"] = 0
    assert encoder.categories(["shoes", "hats"]).tolist() == [NO_CATEGORY, 0]


def test_columns_have_the_dtypes_of_the_graphs(model: Model) -> None:
    """An empty batch has the right dtypes too; NumPy's default would be float64."""
    for read in ([], [(Click("u", "i1", 5), Origin("clicks", 0, 0))]):
        columns = encoded(model, read)
        assert [part.dtype for part in (columns.owner, columns.offset, columns.time_ms)] == [np.intp, "int64", "int64"]
        assert [part.dtype for part in (columns.item, columns.event_type)] == ["int64", "int64"]
        assert [part.dtype for part in (columns.hold, columns.category)] == ["int8", "int32"]
