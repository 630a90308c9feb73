"""A wrong setting is refused by name."""

import pytest

from stream.environment import from_environment
from stream.errors import ConfigError
from stream.settings import Rules, Settings, Topics


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("k", {"k": 0}),
        ("alpha", {"alpha": 0.9}),
        ("alpha", {"alpha": float("nan")}),
        ("exclude_recent", {"exclude_recent": 99}),
        ("device", {"device": "tpu"}),
        ("lists is .first.; it must be one of every, last", {"lists": "first"}),
        ("broker", {"broker": "kafka"}),
        ("broker", {"broker": "kafka:port"}),
        ("broker", {"broker": "a:1,,b:2"}),
        ("broker", {"broker": "PLAINTEXT://kafka:9092"}),
        ("broker", {"broker": "::1"}),
        ("broker has .kafka:99999.; .* with a port from 1 to 65535", {"broker": "kafka:99999"}),
        ("group", {"group": " "}),
        ("group is .eddy ., with a blank at an end", {"group": "eddy "}),
        ("worker_id is .*t0., with a blank at an end", {"worker_id": "\t0"}),
        ("group is .*udcff.; it must be printable characters in UTF-8", {"group": "\udcff"}),
        ("group has 40000 characters; it must have at most 255", {"group": "g" * 40_000}),
        ("worker_id is .*udcff.; it must be printable", {"worker_id": "a\udcff"}),
        ("topic .clicks .: no topic can have this name", {"topics": Topics(clicks="clicks ")}),
        ("topic .a/b.: no topic can have this name", {"topics": Topics(anomalies="a/b")}),
        ("no topic can have this name", {"topics": Topics(sessions="ä")}),
        ("no topic can have this name", {"topics": Topics(behaviour="b" * 250)}),
        ("http_port", {"http_port": 65_536}),
        ("--http-host", {"http_host": ""}),  # else it would be all addresses
        ("log_format is .xml.; it must be one of text, json", {"log_format": "xml"}),
        ("topics", {"topics": Topics(clicks="x", anomalies="x")}),
        ("topics", {"topics": Topics(clicks="x", behaviour="x")}),
        ("topics", {"topics": Topics(triggers="", sessions="")}),
        ("triggers needs a topic; give --triggers-topic", {"triggers": "t.toml", "topics": Topics(triggers="")}),
    ],
)
def test_a_wrong_setting_is_named_in_the_error(name: str, changes: dict[str, object]) -> None:
    """The error names the setting, its value and the allowed values."""
    with pytest.raises(ConfigError, match=name):
        Settings(model="m", **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("diversity", {"diversity": 1.0, "catalogue": "items.csv"}),
        ("explore", {"explore": 0.6}),
        ("explore_seed", {"explore_seed": -1}),
        ("max_per_category", {"max_per_category": 2}),
        ("only_available", {"only_available": True}),
        ("only", {"only": "shoes", "catalogue": "items.csv"}),
        ("only", {"only": "category=", "catalogue": "items.csv"}),
        ("only", {"only": "a=1; a=2", "catalogue": "items.csv"}),
        ("readmit_events", {"readmit_events": "remove"}),
        ("readmit_events both name cart", {"exclude_events": "buy,cart", "readmit_events": "cart"}),
    ],
)
def test_a_wrong_rule_is_named_in_the_error(name: str, changes: dict[str, object]) -> None:
    """An impossible rule, or a rule without the catalogue that it needs, is refused at the start."""
    with pytest.raises(ConfigError, match=name):
        Rules(**changes)  # type: ignore[arg-type]


def test_rules_come_from_the_environment_too() -> None:
    """`faust -A` reads the same rules as `eddy worker`."""
    given = {"EDDY_MODEL": "m", "EDDY_CATALOGUE": "i.csv", "EDDY_ONLY_AVAILABLE": "1", "EDDY_ONLY": "a = b, c ;d=e"}
    rules = from_environment(given).rules
    assert (rules.catalogue, rules.only_available) == ("i.csv", True)
    assert rules.wanted() == {"a": {"b", "c"}, "d": {"e"}}
    with pytest.raises(ConfigError, match="EDDY_EXPLORE"):
        from_environment({"EDDY_MODEL": "m", "EDDY_EXPLORE": "much"})


def test_the_defaults_are_valid() -> None:
    """Only the model must be given."""
    assert Settings(model="m").broker == "localhost:9092"
