"""Settings from a file: its place below variables and options, what is refused, and `eddy config`."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from stream.environment import from_environment, names, read_file
from stream.errors import ConfigError
from stream.ops.cli import eddy
from stream.ops.options import config
from stream.settings import variable

LINES = """
broker = "k1:9092, k2:9092"
model = "models/mine/1"
k = 30
alpha = 0.001
drain = true
exclude_events = ["purchase", "cart"]
clicks_topic = "shop"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "eddy.toml"
    path.write_text(LINES)
    return path


def in_force(arguments: list[str], environ: dict[str, str]) -> dict[str, dict[str, Any]]:
    done = CliRunner().invoke(config, [*arguments, "--json"], env=environ, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found: dict[str, dict[str, Any]] = json.loads(done.output)
    return found


def test_an_option_precedes_a_variable_and_a_variable_the_file(file: Path) -> None:
    """`eddy config` prints each value and its source."""
    found = in_force(["--settings", str(file), "--alpha", "0.01"], {"EDDY_ALPHA": "0.02", "EDDY_K": "25"})
    assert found["broker"] == {"value": "k1:9092, k2:9092", "source": "settings file"}
    assert found["k"] == {"value": 25, "source": "EDDY_K"}
    assert found["alpha"] == {"value": 0.01, "source": "--alpha"}
    assert found["drain"] == {"value": True, "source": "settings file"}
    assert found["exclude_events"]["value"] == "purchase,cart"
    assert found["clicks_topic"]["value"] == "shop"
    assert found["group"] == {"value": "eddy", "source": "default"}
    assert found.keys() == set(names())
    table = CliRunner().invoke(config, ["--settings", str(file)]).output
    assert [" ".join(line.split()) for line in table.splitlines() if line.startswith("drain")] == [
        "drain true settings file"
    ]


def test_faust_reads_the_file_that_a_variable_names(file: Path) -> None:
    """`faust -A` has the settings of `eddy worker` with the same variables."""
    environ = {"EDDY_SETTINGS": str(file), "EDDY_K": "25"}
    settings = from_environment(environ)
    assert (settings.model, settings.k, settings.alpha, settings.drain) == ("models/mine/1", 25, 0.001, True)
    assert settings.topics.clicks == "shop"
    assert settings.rules.exclude_events == "purchase,cart"
    of_worker = in_force([], environ)
    assert of_worker["k"]["value"] == settings.k
    assert of_worker["broker"]["value"] == settings.broker


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ("brokr = 'k1:9092'", "has 'brokr', which is no setting; did you mean broker?"),
        ("zzzzzz = 1", "has 'zzzzzz', which is no setting; docs/settings.md lists them"),
        ("k = 'many'", "k in the settings file is 'many'; it must be a whole number"),
        ("k = 2.5", "k in the settings file is '2.5'; it must be a whole number"),
        ("drain = 7", "drain in the settings file is '7'; it must be one of"),
        ("k =", "is not TOML"),
        ("k = 1\nk = 2", "is not TOML"),
        ("[rules]\ncatalogue = 'a.csv'", "has 'rules', which is no setting; the file has no tables"),
        ("k = " + "9" * 5_000, "is not TOML"),
        ("only = " + "[" * 5_000, "is not TOML"),
        ("# " + "x" * 100_000, "has more than 100,000 bytes"),
        ("start_at = 'tomorrow'", "setting start_at is 'tomorrow'; it must be undecided, earliest, latest or a time"),
        ("start_at = 1969-12-31T23:59:59.999Z", "setting start_at is '1969-12-31T23:59:59.999000+00:00'"),
        ("only = {category = 'shoes'}", "it must be text, a number, true, false or a list"),
        ("k = 5000", "setting k is 5000"),
        ("broker = ''", "setting broker is empty"),
    ],
)
def test_a_wrong_line_is_one_line_that_names_it(tmp_path: Path, lines: str, error: str) -> None:
    """For every command, and for `faust -A`."""
    path = tmp_path / "eddy.toml"
    path.write_text(lines)
    with pytest.raises(ConfigError) as of_config:
        CliRunner().invoke(config, ["--settings", str(path)], catch_exceptions=False)
    assert error in str(of_config.value)
    assert "\n" not in str(of_config.value)
    with pytest.raises(ConfigError) as of_faust:
        from_environment({"EDDY_SETTINGS": str(path), "EDDY_MODEL": "m"})
    assert error.replace("the settings file", str(path)) in str(of_faust.value)


def test_a_file_of_an_editor_on_windows_and_a_time_of_toml_are_read(tmp_path: Path) -> None:
    path = tmp_path / "eddy.toml"
    path.write_bytes(b"\xef\xbb\xbfstart_at = 2026-11-01T00:00:00Z\r\n")
    assert read_file(path) == {"start_at": "2026-11-01T00:00:00+00:00"}
    assert in_force(["--settings", str(path)], {})["start_at"]["source"] == "settings file"


def test_a_missing_file_and_other_bytes_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "eddy.toml"
    with pytest.raises(ConfigError, match="cannot be read"):
        read_file(path)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ConfigError, match="is no file"):
        read_file(tmp_path / "fifo")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not TOML"):
        read_file(path)


@pytest.mark.parametrize("name", names())
def test_every_setting_has_one_name(tmp_path: Path, name: str) -> None:
    """Its option without dashes, its variable in lower case, and its line in the file."""
    path = tmp_path / "eddy.toml"
    option = next(param for param in config.params if param.name == name)
    assert f"--{name.replace('_', '-')}" in option.opts
    assert option.envvar == variable(name)
    default = in_force([], {})[name]["value"]
    path.write_text(f"{name} = {json.dumps('m' if default is None else default)}")
    assert in_force(["--settings", str(path)], {})[name]["source"] == "settings file"


def commands(group: click.Group) -> Iterator[click.Command]:
    """Every command, also those of a group of commands."""
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        yield from commands(command) if isinstance(command, click.Group) else [command]


def test_a_setting_has_the_same_option_in_all_commands() -> None:
    """So the words of a worker's command line can be copied to any command that takes the setting."""
    settings = {option.name for option in config.params if option.envvar}
    found = [
        (command.name, option.name, option.opts)
        for command in commands(eddy)
        for option in command.params
        if isinstance(option, click.Option) and option.name in settings
    ]
    assert {name for _, name, _ in found} >= {"broker", "clicks_topic", "mapping", "model"}
    for command, name, flags in found:
        assert f"--{name.replace('_', '-')}" in flags, command


def test_every_command_that_connects_reads_the_file(tmp_path: Path) -> None:
    """A wrong line is an error of each of them, before anything is connected."""
    path = tmp_path / "eddy.toml"
    path.write_text("brokr = 'k1:9092'")
    for command in (["topics", "check"], ["topics", "create"], ["forget", "u1"], ["explain"], ["worker"]):
        with pytest.raises(ConfigError, match="did you mean broker"):
            CliRunner().invoke(eddy, [*command, "--settings", str(path)], catch_exceptions=False)


@pytest.mark.parametrize("broker", ["localhost", "localhost:", "localhost:abc", ",", "PLAINTEXT://localhost:9092"])
def test_a_broker_that_is_no_address_is_refused_by_every_command(broker: str) -> None:
    """librdkafka understands a protocol before the address and aiokafka does not, so a worker would never start."""
    for command in (
        ["topics", "check"],
        ["topics", "create"],
        ["forget", "u1"],
        ["explain"],
        ["worker", "--model", "m"],
    ):
        result = CliRunner().invoke(eddy, [*command, "--broker", broker])
        assert isinstance(result.exception, ConfigError), command
        assert "it must be host:port" in str(result.exception), command
