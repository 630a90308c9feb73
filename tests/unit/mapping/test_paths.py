"""Paths are read as they are written, and lead to one value or to none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.errors import ConfigError
from stream.mapping.paths import Path, parse_path, path_text, put, value_at

NAMES = st.text(st.characters(exclude_characters='"', exclude_categories=["Cs", "Cc"]), min_size=1, max_size=6)
PATHS = st.tuples(NAMES, st.lists(NAMES | st.integers(0, 5), max_size=4)).map(lambda parts: (parts[0], *parts[1]))
MESSAGE = {"a": {"b": [{"c": 1}, {"c": None}], "b.c": 2}, "d": 3, "e": {"a": "x"}}


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("d", ("d",)),
        ("a.b[0].c", ("a", "b", 0, "c")),
        ('a."b.c"', ("a", "b.c")),
        ("user id", ("user id",)),
        ('"[0]"', ("[0]",)),
        ("a[1][2]", ("a", 1, 2)),
    ],
)
def test_a_path_is_names_and_numbers(text: str, path: Path) -> None:
    """Dots lead into objects, brackets into lists, and quotes keep a name whole."""
    assert parse_path(text) == path
    assert path_text(path) == text


@pytest.mark.parametrize(
    "text", ["", ".", "a.", ".a", "a..b", "[0]", "a[x]", "a[-1]", "a]", 'a"b"', '""', "a." * 30, "a[0]b"]
)
def test_a_path_that_means_nothing_is_refused(text: str) -> None:
    """The one line shows the text and an example of a path."""
    with pytest.raises(ConfigError, match=r"not readable; .*properties\.products\[0\]\.id"):
        parse_path(text)


@given(path=PATHS)
def test_a_written_path_is_read_as_the_same_path(path: Path) -> None:
    """For any names, with dots, brackets and blanks in them."""
    assert parse_path(path_text(path)) == path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.b[0].c", 1),
        ("a.b[1].c", None),
        ("a.b[2].c", None),
        ('a."b.c"', 2),
        ("d.x", None),
        ("e.a.x", None),
        ("a[0]", None),
    ],
)
def test_a_path_leads_to_a_value_or_to_none(text: str, value: object) -> None:
    """A missing name, a list that is too short and a value that is no object are no error."""
    assert value_at(MESSAGE, parse_path(text)) == value


@given(path=PATHS)
def test_a_value_that_is_put_is_found(path: Path) -> None:
    """`put` makes all objects and lists on the way."""
    message: dict[str, object] = {}
    put(message, path, "here")
    assert value_at(message, path) == "here"


def test_a_value_cannot_be_put_where_another_one_ends() -> None:
    """Two paths of which one leads through the value of the other."""
    message: dict[str, object] = {"a": 1}
    with pytest.raises(ValueError, match="another path ends here"):
        put(message, ("a", "b"), 2)
    with pytest.raises(ValueError, match="another path leads on"):
        put({"a": {"b": 1}}, ("a",), 2)
