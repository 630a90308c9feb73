"""Settings as text: options and variables use one parser, and an error has the name of its source."""

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.environment import FALSE, TRUE, check_unknown, from_environment, parse
from stream.errors import ConfigError
from stream.settings import (
    Rules,
    Settings,
    Topics,
    variable,
    words,
)

WORDS = st.lists(st.text("ab c_-", min_size=1, max_size=6).filter(lambda word: word.strip() == word), max_size=5)


@given(given_words=WORDS, before=st.sampled_from(["", " ", "\t"]), after=st.sampled_from(["", " ", ",", " , ,"]))
@settings(max_examples=40)
def test_words_come_back_from_any_spacing(given_words: list[str], before: str, after: str) -> None:
    """Spaces around words and empty items between commas are ignored; spaces within a word stay."""
    assert words(",".join(before + word + after for word in given_words)) == given_words


@given(st.integers(), st.floats(allow_nan=False), st.booleans())
@settings(max_examples=40)
def test_what_was_written_is_read(number: int, real: float, flag: bool) -> None:
    """Whole numbers, numbers and each spelling of a flag, in either case and with spaces around."""
    assert parse(int, f" {number} ", "--k") == number
    assert parse(float, repr(real), "--alpha") == real
    for word in TRUE if flag else FALSE:
        assert parse(bool, f" {word.upper()} ", "--only-available") is flag


@pytest.mark.parametrize(
    ("kind", "text", "must"),
    [
        (int, "", "a whole number"),
        (int, "3.0", "a whole number"),
        (int, "1e3", "a whole number"),
        (int, "ten", "a whole number"),
        (float, "0,5", "a number"),
        (float, "", "a number"),
        (bool, "", "one of 1, true"),
        (bool, "2", "one of 1, true"),
        (bool, "maybe", "one of 1, true"),
    ],
)
def test_text_of_another_kind_is_refused_by_its_source(kind: type, text: str, must: str) -> None:
    """The error has the option or variable, the text, and the expected kind of value."""
    with pytest.raises(ConfigError, match=f"EDDY_K is {text!r}; it must be {must}"):
        parse(kind, text, "EDDY_K")


def test_text_settings_keep_their_spaces() -> None:
    """A path may begin or end with one."""
    assert parse(str, " a b ", "--catalogue") == " a b "


def test_no_word_is_both_true_and_false() -> None:
    """The words for true and for false are disjoint."""
    assert not set(TRUE) & set(FALSE)


def text_of(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


OTHERS = {
    "model": "m/shop/2",
    "broker": "a:1,b:2",
    "kafka_config": "client.properties",
    "pseudonymise": "users.key",
    "group": "other",
    "worker_id": "7",
    "data_dir": "/data",
    "mapping": "shop.toml",
    "device": "cpu",
    "k": 5,
    "lists": "last",
    "exclude_recent": 0,
    "alpha": 0.02,
    "false_alarms": "",
    "max_future_s": 1.5,
    "max_message_bytes": 1000,
    "max_cycle_clicks": 10,
    "session_timeout_s": 45.0,
    "stay_in_group": True,
    "drain": True,
    "start_at": "latest",
    "schema_registry": "https://registry:8081/ccompat",
    "http_port": 9464,
    "http_host": "::1",
    "http_answers": True,
    "http_advertise": "10.0.0.7:9464",
    "http_token_file": "answers.token",
    "log_format": "json",
    "otlp_endpoint": "http://collector:4318",
    "triggers": "triggers.toml",
    "hang_s": 2.0,
    "forget_after_days": 7.5,
    "state_on_disk": True,
}
OTHER_RULES = {
    "exclude_events": "buy",
    "readmit_events": "remove",
    "catalogue": "items.csv",
    "only": "market=de",
    "only_available": True,
    "same_category": True,
    "max_per_category": 3,
    "diversity": 0.5,
    "popular_if_unknown": True,
    "explore": 0.25,
    "explore_seed": 9,
}


def test_every_setting_has_a_variable() -> None:
    """`faust -A` can set all that `eddy worker` can: every field is set, and this test covers every field."""
    topics = {name: f"my-{name}" for name in Topics.__struct_fields__}
    environ = {variable(name): text_of(value) for name, value in (OTHERS | OTHER_RULES).items()}
    environ |= {variable(f"{name}_topic"): topic for name, topic in topics.items()}
    found = from_environment(environ)
    assert found == Settings(**OTHERS, topics=Topics(**topics), rules=Rules(**OTHER_RULES))
    for kind, values in ((Settings, OTHERS), (Rules, OTHER_RULES), (Topics, topics)):
        fields = {field.name: field.default for field in msgspec.structs.fields(kind)}
        assert set(values) == set(fields) - {"topics", "rules"}
        default = [name for name, value in values.items() if value == fields[name]]
        assert default == (["false_alarms"] if kind is Settings else [])  # it and alpha exclude each other


@pytest.mark.parametrize("name", sorted(OTHERS | OTHER_RULES))
def test_an_empty_variable_is_the_default(name: str) -> None:
    """Compose files pass variables that are not set as empty ones."""
    environ = {"EDDY_MODEL": "m"} | ({} if name == "model" else {variable(name): ""})
    assert from_environment(environ) == Settings(model="m")


def test_a_missing_model_is_an_error_with_the_remedy() -> None:
    """The model is the only setting without a default."""
    for environ in ({}, {"EDDY_MODEL": ""}):
        with pytest.raises(ConfigError, match=r"EDDY_MODEL is not set.*eddy train"):
            from_environment(environ)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("EDDY_BROKERS", "did you mean EDDY_BROKER?"),
        ("EDDY_CLICK_TOPIC", "did you mean EDDY_CLICKS_TOPIC?"),
        ("EDDY_EXPLORE_SED", "did you mean EDDY_EXPLORE_SEED?"),
        ("EDDY_BROKER_URL", "did you mean EDDY_BROKER?"),
    ],
)
def test_a_mistyped_variable_is_refused_with_the_nearest(name: str, advice: str) -> None:
    """A variable that nothing reads would otherwise silently leave its setting at the default."""
    with pytest.raises(ConfigError) as raised:
        check_unknown({name: "1", "PATH": "/bin", "EDDY_MODEL": "m"})
    assert str(raised.value) == f"{name} is not a variable of Eddy; {advice}"


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        *((f"EDDY_{word}", "docs/settings.md lists them") for word in ("REPO", "BIN", "HOME", "IMAGE", "XYZZY")),
        ("EDDY_HOST", "did you mean EDDY_HTTP_HOST?"),
    ],
)
def test_a_variable_that_is_like_no_name_of_eddy_is_reported(name: str, advice: str) -> None:
    """Scripts around Eddy have variables of their own, such as the directory it is in. They stop no command."""
    assert check_unknown({name: "1"}) == [f"{name} is not a variable of Eddy and has no effect; {advice}"]


def test_all_mistyped_variables_are_in_one_error() -> None:
    """They can be corrected in one go. An empty one is a mistake, too."""
    with pytest.raises(ConfigError, match=r"EDDY_BROKERS is not .* EDDY_MODLE is not "):
        check_unknown({"EDDY_MODLE": "", "EDDY_BROKERS": "k:9092", "EDDY_XYZZY": "1"})


@pytest.mark.parametrize("name", ["EDDY_FAUST_X", "EDDY_DATA", "EDDY_SINK_URL", "TEDDY_X", "EDDYX"])
def test_variables_of_others_are_not_refused(name: str) -> None:
    """Other commands, Faust, the tests and other programs read them."""
    assert check_unknown({name: "1"}) == []


MADE = {
    "SERVICE_HOST": "10.0.0.1",
    "SERVICE_PORT": "80",
    "SERVICE_PORT_HTTP_2": "80",
    "PORT": "tcp://10.0.0.1:80",
    "PORT_80_TCP": "tcp://10.0.0.1:80",
    "PORT_80_TCP_PROTO": "tcp",
    "PORT_80_TCP_PORT": "80",
    "PORT_80_TCP_ADDR": "10.0.0.1",
    "PORT_53_UDP": "udp://[fd00::1]:53",
    "PORT_53_UDP_PROTO": "udp",
    "PORT_53_UDP_ADDR": "fd00::1",
    "PORT_9_SCTP": "sctp://10.0.0.1:9",
    "PORT_9_SCTP_PROTO": "sctp",
}
"""What Kubernetes makes for a Service, without the Service's name."""


@pytest.mark.parametrize("service", ["EDDY", "EDDY_KAFKA", "EDDY_2_WORKERS"])
def test_variables_that_kubernetes_makes_are_not_refused(service: str) -> None:
    """Every pod of a namespace gets them for each Service, so nobody has mistyped them."""
    assert check_unknown({f"{service}_{name}": value for name, value in MADE.items()}) == []


@pytest.mark.parametrize("name", sorted(MADE))
def test_a_variable_with_the_name_but_not_the_value_of_kubernetes_is_not_ignored(name: str) -> None:
    """The name alone could be a mistyped one."""
    [line] = check_unknown({f"EDDY_X_{name}": f"{MADE[name]} x"})
    assert f"EDDY_X_{name} is not" in line


def test_a_port_of_eddy_that_has_another_number_is_refused() -> None:
    """EDDY_HTP_PORT ends like a variable of Kubernetes, whose value is an address."""
    with pytest.raises(ConfigError, match=r"did you mean EDDY_HTTP_PORT\?"):
        check_unknown({"EDDY_HTP_PORT": "9464"})


def test_the_port_of_a_service_named_eddy_http_is_explained() -> None:
    """Kubernetes makes a variable with the name of a setting. The error says why it is there and how to end that."""
    made = {f"EDDY_HTTP_{name}": value for name, value in MADE.items()}
    with pytest.raises(ConfigError) as raised:
        from_environment({"EDDY_MODEL": "m", **made})
    assert str(raised.value) == (
        "EDDY_HTTP_PORT is 'tcp://10.0.0.1:80'; it must be a whole number. Kubernetes makes this variable for a "
        "Service named eddy-http: set enableServiceLinks: false in the pod, or rename the Service"
    )
    with pytest.raises(ConfigError, match=r"it must be a whole number$"):
        from_environment({"EDDY_MODEL": "m", "EDDY_HTTP_PORT": "http"})


RANGES = {
    "k": (1, 1000),
    "exclude_recent": (0, 16),
    "session_timeout_s": (6.0, 300.0),
    "hang_s": (1.0, 600.0),
    "max_message_bytes": (256, 1_000_000),
    "max_cycle_clicks": (1, 100_000),
    "forget_after_days": (0.0, 36_500.0),
}


@pytest.mark.parametrize("name", sorted(RANGES))
def test_both_ends_of_a_range_are_allowed_and_nothing_beyond(name: str) -> None:
    """Both limits are valid values, and the error shows them."""
    low, high = RANGES[name]
    for value in (low, high):
        assert getattr(Settings(model="m", **{name: value}), name) == value  # type: ignore[arg-type]
    for value in (low - 1, high * 1.001 + 1, -math.inf, math.inf, math.nan):
        with pytest.raises(ConfigError, match=rf"setting {name} is .*; it must be between {low} and {high}"):
            Settings(model="m", **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "rate"),
    [
        ({}, 0.0001),
        ({"alpha": 0.02}, 0.02),
        ({"alpha": 1e-9}, 1e-9),
        ({"alpha": 0.5}, 0.5),
        ({"false_alarms": "1/10000"}, 0.0001),
        ({"false_alarms": " 3 / 50000 sessions "}, 0.00006),
        ({"false_alarms": "1/2"}, 0.5),
        ({"alpha": 0.0, "false_alarms": "2/1000"}, 0.002),
    ],
)
def test_false_alarms_and_alpha_are_two_ways_to_set_the_nominal_rate(fields: dict[str, Any], rate: float) -> None:
    """Sessions of sessions, or a share; without either it is one in 10,000."""
    assert Settings(model="m", **fields).nominal_rate() == pytest.approx(rate, rel=1e-12)


@pytest.mark.parametrize(
    "text", ["1", "0/10", "1/0", "2/1", "0.1/100", "1e3/9", "-1/100", "5/day", "1/10000 users", "1/99999999999"]
)
def test_other_false_alarms_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"setting false_alarms is .*such as 1/10000"):
        Settings(model="m", false_alarms=text)


@pytest.mark.parametrize("alpha", [-0.1, 1e-10, 0.51, math.inf, math.nan])
def test_an_alpha_out_of_its_range_is_refused(alpha: float) -> None:
    with pytest.raises(ConfigError, match=r"setting alpha is .*; it must be between 1e-09 and 0.5"):
        Settings(model="m", alpha=alpha)


def test_alpha_and_false_alarms_together_are_refused() -> None:
    """Nobody could say which one is in force."""
    with pytest.raises(ConfigError, match=r"alpha .* and false_alarms .* are both given.*remove one"):
        Settings(model="m", alpha=0.0001, false_alarms="1/10000")


@pytest.mark.parametrize("broker", ["h:0", "h:65536", ":9092", "h:", "h:9092,", "h:-1", "h:9092 x", ""])
def test_an_invalid_address_is_refused(broker: str) -> None:
    """librdkafka would try such an address in the background without end."""
    with pytest.raises(ConfigError, match="setting broker"):
        Settings(model="m", broker=broker)


@pytest.mark.parametrize("broker", ["h:1", "a.b-c:65535, d:2", "[::1]:9092"])
def test_addresses_of_any_kind_are_accepted(broker: str) -> None:
    """Names, several brokers and IPv6."""
    assert Settings(model="m", broker=broker).broker == broker


@pytest.mark.parametrize("name", Topics.__struct_fields__)
def test_the_topics_have_different_names(name: str) -> None:
    """If an output topic were the clicks topic, the worker would read its own decisions."""
    empty = {""} if name not in ("triggers", "behaviour") else set()  # not every worker writes these
    for taken in ({*Topics().names()} - {getattr(Topics(), name)}) | empty:
        which = f"two of them are '{taken}'" if taken else "one has no name"
        with pytest.raises(ConfigError, match=f"different names, but {which}$"):
            Settings(model="m", topics=Topics(**{name: taken}))
