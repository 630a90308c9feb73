"""A row's bytes are the changelog's value: a change of their layout must be noticed."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.manifest import Tensor
from stream.state.row import new_rows, row_dtype, row_mark

TENSORS = st.lists(
    st.tuples(
        st.sampled_from(["float32", "int32", "float16", "int8"]),
        st.sampled_from([(), (1,), (3,), (2, 5)]),
    ),
    max_size=4,
).map(lambda parts: tuple(Tensor(f"t{i}", shape, dtype) for i, (dtype, shape) in enumerate(parts)))


def test_the_bytes_of_a_row_are_those_of_the_layout() -> None:
    """Little-endian fields in a fixed order: rows can be read on every machine."""
    rows = new_rows(1, row_dtype((Tensor("h", (2,)), Tensor("n", (), "int32")), recent=2), 0x1122334455667788)
    rows["checksum"] = 0xFEDCBA9876543210
    rows["source_offset"], rows["last_ms"], rows["clicks"] = 9, 1_700_000_000_000, 3
    rows["seen_ms"] = 1_700_000_000_001
    rows["recent"], rows["held"], rows["h"], rows["n"] = [[7, -1]], [[-1, -1]], [[0.5, -2.0]], -4
    values = (
        0xFEDCBA9876543210,
        0x1122334455667788,
        9,
        1_700_000_000_000,
        1_700_000_000_001,
        3,
        7,
        -1,
        -1,
        -1,
        0.5,
        -2.0,
        -4,
    )
    layout = struct.pack("<QQqqqI2i2i2fi", *values)
    assert rows.tobytes() == layout + bytes(-len(layout) % 8)


@settings(max_examples=40)
@given(state=TENSORS, recent=st.integers(1, 17))
def test_every_row_is_whole_words_without_padding(state: tuple[Tensor, ...], recent: int) -> None:
    """Equal states have equal bytes for every model: no byte is outside a field, and the size is a multiple of a
    word."""
    dtype = row_dtype(state, recent)
    names = dtype.names or ()
    sizes = [dtype[name].itemsize for name in names]
    assert dtype.itemsize % 8 == 0
    assert sum(sizes) == dtype.itemsize
    assert [dtype.fields[name][1] for name in names] == np.cumsum([0, *sizes[:-1]]).tolist()  # type: ignore[index]
    assert new_rows(2, dtype, 1)[0].tobytes() == new_rows(1, dtype, 1).tobytes()


@settings(max_examples=40)
@given(state=TENSORS, recent=st.integers(1, 17))
def test_a_new_users_state_is_zeros(state: tuple[Tensor, ...], recent: int) -> None:
    """A new user has a zero state and the mark of the model."""
    rows = new_rows(3, row_dtype(state, recent), 12)
    assert all(not rows[tensor.name].any() for tensor in state)
    assert rows["model"].tolist() == [12] * 3
    assert (rows["source_offset"].tolist(), rows["clicks"].tolist()) == ([-1] * 3, [0] * 3)


H = Tensor("h", (4,))


@pytest.mark.parametrize(
    ("state", "recent", "kept"),
    [
        ((Tensor("h", (5,)),), 3, ()),
        ((Tensor("g", (4,)),), 3, ()),
        ((Tensor("h", (4,), "float16"),), 3, ()),
        ((Tensor("h", (2, 2)),), 3, ()),
        ((H,), 4, ()),
        ((H,), 3, (Tensor("alerts", (), "int32"),)),
        ((H, Tensor("c", (4,))), 3, ()),
    ],
)
def test_rows_of_another_layout_have_another_mark(
    state: tuple[Tensor, ...], recent: int, kept: tuple[Tensor, ...]
) -> None:
    """After any change of name, shape, dtype, number of items or detector older rows are refused, not misread."""
    assert row_mark(1, row_dtype(state, recent, kept)) != row_mark(1, row_dtype((H,), 3))


def test_a_mark_depends_only_on_model_and_layout() -> None:
    """It is the same in every process, differs between models, and fits the row's eight bytes."""
    dtype = row_dtype((H,), 3)
    assert row_mark(1, dtype) == row_mark(1, row_dtype((H,), 3)) != row_mark(2, dtype)
    assert new_rows(1, dtype, row_mark(1, dtype))["model"][0] == row_mark(1, dtype)


def test_a_row_with_a_detectors_fields_holds_them_after_the_state() -> None:
    """A detector's fields do not change the offset of the state in the row."""
    plain, kept = row_dtype((H,), 3), row_dtype((H,), 3, (Tensor("alerts", (), "int32"),))
    assert plain.fields is not None
    assert kept.fields is not None
    assert kept.fields["h"][1] == plain.fields["h"][1] < kept.fields["alerts"][1]
