"""The file of --triggers: what is refused, and what the line says."""

from pathlib import Path

import pytest

from stream.errors import ConfigError
from stream.manifest import Manifest, read_manifest
from stream.triggers.parse import open_triggers, parse_triggers, read_triggers
from stream.triggers.rules import KINDS, Rule

CART = 'name = "cart"\nkind = "abandoned"\nhas = ["cart"]\n'
CHEAPER = 'name = "cheaper"\nkind = "price_drop"\n'
HOT = 'name = "hot"\nkind = "trending"\n'
AWAY = 'name = "back"\nkind = "away"\nafter = "30d"\n'


def rules(*parts: str) -> tuple[Rule, ...]:
    return parse_triggers("".join(f"[[trigger]]\n{part}\n" for part in parts), "t.toml")


def test_all_keys_of_a_rule_are_read() -> None:
    """Times in ms, and the hours of quiet in minutes since midnight."""
    more = (
        'without = ["purchase"]\nreturns_below = 0.4\ncooldown = "3d"\nquiet_hours = ["21:00", "08:30"]\n'
        'timezone = "Europe/Berlin"\nconsent = true\ncontrol = 0.1\noutcome = "order"\nwindow = "36h"\n'
    )
    [rule] = rules(CART + more)
    assert (rule.has, rule.without, rule.returns_below) == (("cart",), ("purchase",), 0.4)
    assert (rule.cooldown_ms, rule.window_ms, rule.outcome) == (3 * 86_400_000, 36 * 3_600_000, "order")
    assert (rule.quiet, rule.consent, rule.control) == ((1260, 510, "Europe/Berlin"), True, 0.1)


def test_a_rule_has_a_cooldown_of_a_day_and_no_control_if_nothing_is_said() -> None:
    [rule] = rules(AWAY)
    assert (rule.after_ms, rule.cooldown_ms, rule.control) == (30 * 86_400_000, 86_400_000, 0.0)
    assert (rule.consent, rule.quiet, rule.outcome, rule.window_ms) == (False, None, "purchase", 7 * 86_400_000)


def test_a_rule_about_prices_does_not_repeat_itself_if_nothing_is_said() -> None:
    """Its cooldown is as long as it looks back."""
    [rule] = rules(CHEAPER)
    assert (rule.drop, rule.over_ms, rule.least, rule.cooldown_ms) == (0.05, 7 * 86_400_000, 2, 7 * 86_400_000)
    [rule] = rules(CHEAPER + 'over = "3d"\ndrop = 0.2\nleast = 5\nmost = 7\nevents = ["view"]\nwithout = ["purchase"]')
    assert (rule.drop, rule.over_ms, rule.least, rule.cooldown_ms) == (0.2, 3 * 86_400_000, 5, 3 * 86_400_000)
    assert (rule.most, rule.events, rule.without) == (7, ("view",), ("purchase",))
    [rule] = rules(CHEAPER + 'cooldown = "1d"')
    assert (rule.over_ms, rule.cooldown_ms) == (7 * 86_400_000, 86_400_000)


@pytest.mark.parametrize(
    ("part", "line"),
    [
        ("", r"rule 1 has the name None; it must be 1 to 64 lower-case letters"),
        ('name = "Cart!"', r"rule 1 has the name 'Cart!'"),
        ('name = "a"\nkind = "abandon"', r"rule 'a': kind is 'abandon'; it must be one of abandoned, away, after"),
        ('name = "a"\nkind = "abandoned"', r'has is missing; give the event types, such as has = \["cart"\]'),
        ('name = "a"\nkind = "after"', r'events is missing; give the event types, such as events = \["cart"\]'),
        ('name = "a"\nkind = "away"', r'after is missing; give the time without a click, such as after = "30d"'),
        (CART + 'after = "3d"', "after is for the kind away, and this rule is of the kind abandoned; remove it"),
        (CART + 'coldown = "3d"', "it has 'coldown', which is not known; did you mean 'cooldown'"),
        (
            CART + "cooldown = 3",
            'cooldown is 3; it must be a time of at most 3,650d, such as "45s", "30m", "12h" or "3d"',
        ),
        (
            CART + 'window = "99999d"',
            "window is '99999d'; it must be a time of at least 1h and at most 3,650d, such as \"12h\" or",
        ),
        (CART + 'cooldown = "3 days"', "cooldown is '3 days'"),
        (CART + 'window = "30m"', "window is '30m'; it must be a time of at least 1h"),
        (AWAY.replace("30d", "30m"), "after is '30m'; it must be a time of at least 1h"),
        (AWAY.replace("30d", "9999999d"), "after is '9999999d'"),
        (CART + 'without = ["cart"]', "has and without both have cart; remove it from one of them"),
        (CART + 'without = "purchase"', "without is 'purchase'; it must be a list of event types in quotes"),
        (CART + "returns_below = 40", "returns_below is 40; it must be a share above 0 and at most 1"),
        (CART + "control = 0.9", r"control is 0\.9; it must be a share above 0 and at most 0\.5"),
        (CART + "control = true", "control is True"),
        (CART + 'consent = "yes"', "consent is 'yes'; it must be true or false"),
        (HOT + "of = 7", "of is 7; it must be one of"),
        (HOT + 'over = "30m"', "over is '30m'; it must be a time of at least 1h"),
        (HOT + "least = 0", "least is 0; it must be a whole number from 1 to 1,000,000"),
        (HOT + "least = 2.5", "least is 2.5; it must be a whole number from 1 to 1,000,000"),
        (HOT + "most = true", "most is True; it must be a whole number from 1 to 1,000,000"),
        (HOT + "times = 0.5", "times is 0.5; it must be a number from 1 to 1,000"),
        (HOT + "significance = 0", "significance is 0; it must be a share above 0"),
        (HOT + "has = []", "has is for the kind abandoned, and this rule is of the kind trending"),
        (CART + "least = 3", "least is for the kinds trending, price_drop, and this rule is of the kind abandoned"),
        (CHEAPER + "drop = 1", r"drop is 1; it must be a share above 0 and at most 0\.99"),
        (CHEAPER + "drop = 0", "drop is 0; it must be a share above 0"),
        (CHEAPER + "dorp = 0.2", "it has 'dorp', which is not known; did you mean 'drop'"),
        (CHEAPER + "times = 2", "times is for the kind trending, and this rule is of the kind price_drop; remove it"),
        (CHEAPER + 'of = "category"', "of is for the kind trending, and this rule is of the kind price_drop"),
        (HOT + "drop = 0.2", "drop is for the kind price_drop, and this rule is of the kind trending"),
        (
            CHEAPER.replace("_", "-"),
            "kind is 'price-drop'; it must be one of abandoned, away, after, trending, price_drop",
        ),
        (CART + "outcome = 3", "outcome is 3; it must be an event type in quotes"),
        (CART + 'timezone = "UTC"', "timezone is for quiet hours; add quiet_hours"),
        (CART + 'quiet_hours = ["21:00", "08:00"]', "quiet_hours needs a timezone, such as"),
        (CART + 'quiet_hours = ["8", "9"]\ntimezone = "UTC"', "it must be two different times"),
        (CART + 'quiet_hours = ["21:00"]\ntimezone = "UTC"', "it must be two different times"),
        (CART + 'quiet_hours = ["21:00", "21:00"]\ntimezone = "UTC"', "it must be two different times"),
        (CART + 'quiet_hours = ["21:00", "08:00"]\ntimezone = "Berlin"', "timezone is 'Berlin', which this machine"),
        (CART + 'quiet_hours = ["21:00", "08:00"]\ntimezone = "../x"', "timezone is '../x', which this machine"),
    ],
)
def test_a_bad_rule_is_refused_with_what_to_do(part: str, line: str) -> None:
    """The line names the file, the rule and the key."""
    with pytest.raises(ConfigError, match=line) as refused:
        rules(part)
    assert str(refused.value).startswith("triggers t.toml: ")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", r"it has no rule; begin each one with a line \[\[trigger\]\]"),
        ("[trigger]\n", "it has no rule"),
        ('kind = "cart abandoned"\n', r"kind is in no rule; begin each rule with a line \[\[trigger\]\]"),
        ("[[triger]]\n", "the file has 'triger', which is not known; did you mean 'trigger'"),
        ("[[trigger]\n", "not TOML"),
        (f"[[trigger]]\n{CART}" * 2, "it has a rule 'cart' twice; give one of them another name"),
        ("".join(f"[[trigger]]\n{CART}".replace('"cart"\nk', f'"c{n}"\nk') for n in range(9)), "it has 9 rules"),
    ],
)
def test_a_bad_file_is_refused(text: str, line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        parse_triggers(text, "t.toml")


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """Missing, a directory, not UTF-8, and much too large."""
    (tmp_path / "latin").write_bytes(b"[[trigger]]\nname = '\xe9'")
    (tmp_path / "large").write_bytes(bytes(2 << 20))
    for name, line in (
        ("none", "no such file"),
        ("", "a directory or a pipe, and no file"),
        ("latin", "not UTF-8"),
        ("large", "larger than"),
    ):
        with pytest.raises(ConfigError, match=line):
            read_triggers(tmp_path / name)


@pytest.mark.parametrize(
    ("part", "lists", "line"),
    [
        (CART.replace('["cart"]', '["chart"]'), "every", "it has 'chart', which is not known; did you mean 'cart'"),
        (CART + "returns_below = 0.4", "every", "the model tiny/1 does not predict returns; remove returns_below"),
        ('name = "m"\nkind = "after"\nevents = ["purchase"]', "last", "it needs the list of each click"),
    ],
)
def test_a_rule_that_the_model_or_the_settings_cannot_follow_is_refused(
    tmp_path: Path, model_dir: Path, part: str, lists: str, line: str
) -> None:
    """At the start: it would never apply, or not as it says."""
    file, manifest = tmp_path / "t.toml", read_manifest(model_dir)
    file.write_text(f"[[trigger]]\n{part}\n")
    with pytest.raises(ConfigError, match=line):
        open_triggers(str(file), manifest, lists)


def test_the_example_of_the_documents_is_a_file_of_rules() -> None:
    """docs/triggers.md has all kinds in it."""
    page = (Path(__file__).parents[3] / "docs" / "triggers.md").read_text()
    example = page.split("```toml\n")[1].split("```")[0]
    assert {rule.kind for rule in parse_triggers(example, "docs")} == {*KINDS}


def test_without_a_file_there_are_no_rules(model_dir: Path) -> None:
    manifest: Manifest = read_manifest(model_dir)
    assert open_triggers("", manifest, "last") == ()
