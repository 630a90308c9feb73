"""The form of an item id says which ids a shop's items have, whatever the shop."""

import string

from hypothesis import given
from hypothesis import strategies as st

from stream.model.forms import MOST, form, forms
from tests.oracle_population import form_of

SHOPS = st.text(st.sampled_from(string.ascii_letters + string.digits + "-_. /éÉß²中"), max_size=12)


@given(SHOPS | st.text(max_size=8))
def test_a_form_is_that_of_a_plain_loop(item_id: str) -> None:
    assert form(item_id) == form_of(item_id)


def test_new_items_have_the_form_of_the_others_and_what_a_fault_sends_has_not() -> None:
    """Numbers of as many digits, codes, and words of any length are alike; no value, or another field, is not."""
    known = forms(["4711", "12345", "SKU-17", "B07XJ8C8F5", "blue-shirt"])
    assert known is not None
    assert {form(new) for new in ("9876", "55555", "P-99", "B0842K9XYZ", "red-hat")} <= known
    for wrong in ("undefined", "1234567", "-4711", "4711.0", "sku-17", "[object Object]", "/p/4711", "4711 "):
        assert form(wrong) not in known


def test_ids_that_people_write_have_no_new_form() -> None:
    assert forms("x" + "-" * n for n in range(MOST + 1)) is None
    assert forms("x" + "-" * n for n in range(MOST)) is not None
