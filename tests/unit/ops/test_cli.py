"""The command line: every setting is an option, and an error is one line and exit code 2."""

import errno
import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from stream import DISTRIBUTION
from stream.environment import from_environment
from stream.errors import ConfigError
from stream.kafka.topics import Checked
from stream.ops.cli import eddy, main
from stream.settings import Rules, Settings, Topics, variable

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """`eddy worker` replaces the signal handlers of its process, which here is that of the tests."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def _no_end_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """`eddy worker` in this process raises SystemExit, as other commands do."""
    monkeypatch.setattr("stream.process.end_process", sys.exit)


def outcome(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[object, str]:
    """Exit code and standard error of `eddy ARGUMENTS`."""
    with pytest.raises(SystemExit) as exit:
        main(list(arguments))
    return exit.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["worker"], "--model"),
        (["worker", "--model", "m", "--k", "many"], "many"),
        (["worker", "--model", "m", "--k", "0"], "setting k is 0"),
        (["worker", "--model", "m", "--broker", "nowhere"], "must be host:port"),
        (["worker", "--model", "m", "--device", "tpu"], "tpu"),
        (["worker", "--model", "m", "--anomalies-topic", "clicks"], "different names, but two of them are 'clicks'"),
        (["worker", "--model", "m", "--modle", "x"], "--modle"),
        (["wroker"], "eddy: No such command 'wroker'; did you mean 'worker'? See `eddy --help`."),
        (["trian"], "eddy: No such command 'trian'; did you mean 'train'? See"),
        (["topics", "chek"], "eddy topics: No such command 'chek'; did you mean 'check'? See `eddy topics --help`."),
        (["sink", "postgress"], "did you mean 'postgres'?"),
        (["state", "exprot"], "did you mean 'export'?"),
        (["triggers", "reports"], "did you mean 'report'?"),
        (["nothing-like-it"], "eddy: No such command 'nothing-like-it'. See `eddy --help`."),
        (["topics", "create", "--partitions", "0"], "--partitions"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    """A wrong command line prints one line that names the error, no stack trace, and exits with 2."""
    code, error = outcome(capsys, *arguments)
    assert code == 2
    assert len(error.splitlines()) == 1
    assert words in error


@pytest.mark.parametrize("group", ["topics", "sink", "state", "triggers"])
def test_the_list_of_a_group_s_commands_has_whole_sentences(group: str) -> None:
    """In a terminal of 80 characters the first line of a command is else cut off."""
    shown = CliRunner().invoke(eddy, [group, "--help"], terminal_width=80).output.split("Commands:")[1]
    assert "..." not in shown
    assert all(line.endswith(".") for line in shown.strip().splitlines())


def test_ctrl_c_while_the_modules_are_loaded_prints_nothing() -> None:
    """The program of the installed package ends with 130 and no stack trace, as later."""
    [program] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"].values()
    module, function = program.split(":")
    code = (
        "import sys\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'click':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted())\n"
        f"from {module} import {function} as program\n"
        "program()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_worker_without_an_output_ends_as_one_with_it(closed: str, tmp_path: Path) -> None:
    """Some supervisors start a process without standard streams."""
    words = [sys.executable, "-m", "stream.ops.cli", "worker", "--model", str(tmp_path)]
    ended = subprocess.run(["bash", "-c", f'exec "$@" {closed}', "bash", *words], check=False, timeout=60)
    assert ended.returncode == 2


def test_a_worker_refuses_a_limit_in_which_its_threads_cannot_start() -> None:
    """Under 1 GiB of address space librdkafka would wait without end: one line and exit code 2 instead."""
    command = [sys.executable, "-m", "stream.ops.cli", "worker", "--model", "models/shop/1"]
    limited = f"ulimit -v {1 << 20}; exec {shlex.join(command)}"
    done = subprocess.run(["sh", "-c", limited], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "eddy: the address space of this process is limited to 1024 MiB, and a worker needs 2048 MiB or more: "
        "raise the limit (ulimit -v), or limit the memory of its container"
    ]


def test_every_field_of_settings_is_an_option_with_its_default_and_variable() -> None:
    """Every field of Settings can be set by option or environment variable, and has a help text."""
    options = {option.name: option for option in eddy.commands["worker"].params}
    fields = {f.name: f.default for f in msgspec.structs.fields(Settings) if f.name not in ("topics", "rules")}
    fields |= {f.name: f.default for f in msgspec.structs.fields(Rules)}
    fields |= {f"{f.name}_topic": f.default for f in msgspec.structs.fields(Topics)}
    assert {*fields, "settings"} == set(options)
    for name, default in fields.items():
        option = options[name]
        assert option.envvar == variable(name)
        assert option.help  # type: ignore[attr-defined]
        assert option.required if default is msgspec.NODEFAULT else option.default == default


def test_worker_reads_its_settings_from_options_and_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """`eddy worker` and `faust -A` read the same variables into the same Settings, and an option has priority."""
    seen: list[Settings] = []
    monkeypatch.setitem(sys.modules, "stream.worker.app", type("App", (), {"run_worker": seen.append}))
    environ = {"EDDY_MODEL": "m", "EDDY_K": "7", "EDDY_ALPHA": "0.01", "EDDY_CLICKS_TOPIC": "in"}
    result = CliRunner().invoke(eddy, ["worker"], env=environ, catch_exceptions=False)
    assert result.exit_code == 0
    assert seen == [from_environment(environ)] == [Settings(model="m", k=7, alpha=0.01, topics=Topics(clicks="in"))]
    CliRunner().invoke(eddy, ["worker", "--k", "8"], env=environ, catch_exceptions=False)
    assert seen[1].k == 8


WRITTEN = ("", " ", "yes", "no", "1", "0", "TRUE", "off", "y", "2", " 5 ", "+3", "1e3", "0.01", "nan", "inf", "-0", "x")
"""What people write into a variable, for a number, a flag or a word."""


@pytest.mark.parametrize("text", WRITTEN)
def test_a_variable_means_the_same_to_eddy_worker_and_to_faust(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """For any value of a variable, both commands make the same Settings or print the same error."""
    seen: list[Settings] = []
    monkeypatch.setitem(sys.modules, "stream.worker.app", type("App", (), {"run_worker": seen.append}))
    names = [f.name for kind in (Settings, Rules) for f in msgspec.structs.fields(kind)]
    names += [f"{name}_topic" for name in Topics.__struct_fields__]
    for name in set(names) - {"model", "topics", "rules"}:
        environ = {"EDDY_MODEL": "m", "EDDY_CATALOGUE": "items.csv", variable(name): text}
        seen.clear()
        result = CliRunner().invoke(eddy, ["worker"], env=environ)
        typed = seen[0] if seen else str(result.exception)
        try:
            read: Settings | str = from_environment(environ)
        except ConfigError as exc:
            read = str(exc)
        assert typed == read, name


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"EDDY_K": ""}, Settings(model="m")),
        ({"EDDY_K": " 5 "}, Settings(model="m", k=5)),
        ({"EDDY_POPULAR_IF_UNKNOWN": "yes"}, Settings(model="m", rules=Rules(popular_if_unknown=True))),
        ({"EDDY_POPULAR_IF_UNKNOWN": "Off"}, Settings(model="m")),
        ({"EDDY_CLICKS_TOPIC": ""}, Settings(model="m")),
    ],
)
def test_an_empty_variable_counts_as_not_set(environ: dict[str, str], expected: Settings) -> None:
    """Compose files write `EDDY_K: ${K:-}`: empty means the default; a flag takes the usual words."""
    assert from_environment({"EDDY_MODEL": "m", **environ}) == expected


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("EDDY_K", "1e3", "EDDY_K is '1e3'; it must be a whole number"),
        ("EDDY_ALPHA", "low", "EDDY_ALPHA is 'low'; it must be a number"),
        ("EDDY_EXPLORE", "nan", "setting explore is nan"),
        ("EDDY_ONLY_AVAILABLE", "maybe", "EDDY_ONLY_AVAILABLE is 'maybe'; it must be one of 1, true, yes, on"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_with_what_it_must_be(name: str, text: str, words: str) -> None:
    """The line names the variable, what it holds and what it must hold."""
    with pytest.raises(ConfigError, match=re.escape(words)):
        from_environment({"EDDY_MODEL": "m", name: text})


@pytest.mark.parametrize("words", [["worker", "--model", "m"], ["topics", "check"], ["schema", "clicks"], ["config"]])
def test_every_command_refuses_an_unknown_variable(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line names it and the nearest known name. The variables of others are no reason to stop."""
    others = {"EDDY_TRACEBACK": "1", "EDDY_FAUST_DATADIR": "x", "EDDY_SERVICE_HOST": "10.0.0.1"}
    monkeypatch.setattr(os, "environ", {**os.environ, **others, "EDDY_BROKERS": "k:9092"})
    line = "eddy: EDDY_BROKERS is not a variable of Eddy; did you mean EDDY_BROKER?\n"
    assert outcome(capsys, *words) == (2, line)


def test_a_variable_of_another_program_stops_no_command() -> None:
    """One line says that it has no effect."""
    result = CliRunner().invoke(eddy, ["schema", "recommendations"], env={"EDDY_REPO": "/srv/eddy"})
    line = "eddy: WARNING: EDDY_REPO is not a variable of Eddy and has no effect; docs/settings.md lists them\n"
    assert (result.exit_code, result.stderr) == (0, line)


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["worker", "--help"], ["topics", "check", "-h"]])
def test_help_is_printed_with_an_unknown_variable(words: list[str]) -> None:
    """It is where the right name is looked up."""
    result = CliRunner().invoke(eddy, words, env={"EDDY_BROKERS": "k:9092"})
    assert (result.exit_code, result.stderr) == (0, "")


def test_the_commands_explain_the_port_of_a_service_named_eddy_http(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An option reads the variable with the same parser as `faust -A`."""
    monkeypatch.setattr(os, "environ", {**os.environ, "EDDY_HTTP_PORT": "tcp://10.0.0.1:80"})
    code, line = outcome(capsys, "config")
    assert (code, "a Service named eddy-http" in line) == (2, True)


def test_faust_refuses_an_unknown_variable_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`faust -A stream.worker.app` refuses unknown variables as `eddy` does."""
    from stream.worker import app

    monkeypatch.setattr(os, "environ", {"EDDY_MODLE": "m"})
    with pytest.raises(SystemExit) as raised:
        _ = app.app
    assert raised.value.code == 2
    assert capsys.readouterr().err == "eddy: EDDY_MODLE is not a variable of Eddy; did you mean EDDY_MODEL?\n"


@pytest.mark.parametrize(("environ", "words"), [({}, "EDDY_MODEL"), ({"EDDY_MODEL": "m", "EDDY_K": "x"}, "EDDY_K")])
def test_a_wrong_environment_names_its_variable(environ: dict[str, str], words: str) -> None:
    """`faust -A` with a missing or wrong variable prints its name."""
    with pytest.raises(ConfigError, match=words):
        from_environment(environ)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ModuleNotFoundError("No module named 'torch'", name="torch"), ["pip install '.[train]'"]),
        (ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime"), ["'.[cpu]'", "or '.[cuda]'"]),
        (
            ImportError("cannot import name 'InferenceSession' from 'onnxruntime'", name="onnxruntime"),
            ["pip uninstall onnxruntime onnxruntime-gpu", "cannot import name 'InferenceSession'"],
        ),
    ],
)
def test_a_missing_extra_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: ImportError, words: list[str]
) -> None:
    """A command without a package that it needs, or with a damaged one, is one line that names the extra."""

    class Point:
        module = "export.cli"

        @staticmethod
        def load() -> None:
            raise error

    monkeypatch.setattr("stream.ops.cli._mounted", lambda: {"train": Point()})
    code, line = outcome(capsys, "train")
    assert (code, len(line.splitlines())) == (2, 1)
    assert all(word in line for word in words)


def test_a_full_disk_is_no_bug(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """If a disk is full, the command prints one line about it and exits with 2."""

    def write(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "model.onnx")

    monkeypatch.delenv("EDDY_TRACEBACK", raising=False)
    monkeypatch.setattr(eddy, "main", write)
    code, error = outcome(capsys, "train")
    assert code == 2
    assert "No space left on device: 'model.onnx'); free disk space" in error
    assert len(error.splitlines()) == 1


def test_a_bug_is_one_line_too(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected error prints one line without a stack trace, and its exit code differs from the operator's
    errors."""

    def fail(settings: Settings) -> None:
        raise ZeroDivisionError("x")

    monkeypatch.setitem(sys.modules, "stream.worker.app", type("App", (), {"run_worker": fail}))
    code, error = outcome(capsys, "worker", "--model", "m")
    assert (code, len(error.splitlines())) == (1, 1)
    assert "ZeroDivisionError" in error


@pytest.mark.parametrize(
    ("arguments", "answer", "expected"),
    [
        (["create", "--partitions", "3"], {"clicks": "created, 3 partitions"}, {"clicks": "created, 3 partitions"}),
        (["check"], {"clicks": 3, "eddy-changelog": 3}, {"clicks": 3, "eddy-changelog": 3}),
    ],
)
def test_topics_can_be_read_by_a_program(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], answer: dict[str, int], expected: dict[str, object]
) -> None:
    """`eddy topics create --json` and `check --json` print one JSON object: topic -> what was done, or partitions."""
    monkeypatch.setattr("stream.rekey.topic.create_topics", lambda *_: answer)
    monkeypatch.setattr("stream.rekey.topic.check_topics", lambda *_, **__: Checked(answer, {}))
    done = CliRunner().invoke(eddy, ["topics", *arguments, "--json"], catch_exceptions=False)
    assert msgspec.json.decode(done.stdout) == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [([], "models/shop/1/mapping.toml"), (["--mapping", "x.toml"], "x.toml"), (["--model", "models/other/1"], "")],
)
@pytest.mark.parametrize("command", ["check", "create"])
def test_topics_are_those_of_a_worker_with_this_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str, arguments: list[str], expected: str
) -> None:
    """Without --mapping the topics are those that the model's mapping needs, also if a settings file has the model."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "shop" / "1").mkdir(parents=True)
    (tmp_path / "models" / "shop" / "1" / "mapping.toml").write_text("")
    (tmp_path / "eddy.toml").write_text('model = "models/shop/1"\n')
    asked: list[str] = []
    for name in ("check_all", "create"):
        monkeypatch.setattr(
            f"stream.rekey.topic.{name}", lambda broker, topics, mapping, *_: asked.append(mapping) or {}
        )
    done = CliRunner().invoke(eddy, ["topics", command, "--settings", "eddy.toml", *arguments], catch_exceptions=False)
    assert (done.exit_code, asked) == (0, [expected])


@pytest.mark.parametrize("command", ["topics create", "topics check", "topics repair"])
def test_each_topics_command_has_an_example(command: str) -> None:
    """`--help` shows a command line that works."""
    shown = CliRunner().invoke(eddy, [*command.split(), "--help"])
    assert f"eddy {command} " in shown.output


def test_ctrl_c_is_quiet(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends a command with exit code 130 and no output."""

    def interrupted(settings: Settings) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "stream.worker.app", type("App", (), {"run_worker": interrupted}))
    assert outcome(capsys, "worker", "--model", "m")[0] == 130


def test_help_lists_every_command_and_imports_nothing_heavy() -> None:
    """`eddy --help` answers at once, on the base install too."""
    code = (
        "import sys; from stream.ops.cli import eddy\n"
        "try: eddy.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'polars', 'faust', 'onnxruntime', 'confluent_kafka', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ), check=False
    )
    assert done.returncode == 0, done.stderr
    for name in ("worker", "topics", "train", "evaluate", "replay"):
        assert f"\n  {name}" in done.stdout


def test_version_is_that_of_the_distribution(capsys: pytest.CaptureFixture[str]) -> None:
    """`eddy --version` finds the installed distribution, whose name is not the command's."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] == DISTRIBUTION
    with pytest.raises(SystemExit) as exit:
        main(["--version"])
    assert (exit.value.code, capsys.readouterr().out) == (0, f"eddy, version {project['version']}\n")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["state", "export", "--into"], "eddy state export: No such option: --into. See `eddy state export --help`."),
        (["train"], "eddy train: Missing argument 'LOG'. See `eddy train --help`."),
        (["train", "x", "--eopchs", "3"], "eddy train: No such option: --eopchs"),
        (["topics", "create", "--partitions", "../.."], "'../..' is not a valid integer"),
    ],
)
def test_a_wrong_command_line_is_two_sentences(words: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is wrong, and where the help is; click ends some of its texts without a full stop."""
    with pytest.raises(SystemExit):
        main(words)
    printed = capsys.readouterr().err.strip()
    assert line in printed
    assert printed.rpartition(" See `")[0][-1] in ".?"
