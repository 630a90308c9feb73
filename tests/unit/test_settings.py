"""A wrong setting is refused by name."""

import pytest

from stream.errors import ConfigError
from stream.settings import Settings, Topics


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("k", {"k": 0}),
        ("alpha", {"alpha": 0.9}),
        ("alpha", {"alpha": float("nan")}),
        ("exclude_recent", {"exclude_recent": 99}),
        ("device", {"device": "tpu"}),
        ("broker", {"broker": "kafka"}),
        ("broker", {"broker": "kafka:port"}),
        ("broker", {"broker": "a:1,,b:2"}),
        ("group", {"group": " "}),
        ("topics", {"topics": Topics(clicks="x", anomalies="x")}),
    ],
)
def test_a_wrong_setting_is_named_in_the_error(name: str, changes: dict[str, object]) -> None:
    """The line says which setting, what it is and what it must be."""
    with pytest.raises(ConfigError, match=name):
        Settings(model="m", **changes)  # type: ignore[arg-type]


def test_the_defaults_are_a_sound_setting() -> None:
    """Only the model has no default."""
    assert Settings(model="m").broker == "localhost:9092"
