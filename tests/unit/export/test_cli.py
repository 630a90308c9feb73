"""`eddy train`, `evaluate` and `replay` as they are typed."""

import json
import shutil
import sys
from pathlib import Path

import click
import msgspec
import pytest
from click.testing import CliRunner

from export.cli import evaluate, replay, train
from stream.errors import ArtifactError, ConfigError
from stream.manifest import MAPPING, read_manifest, sha256, write_manifest
from stream.mapping.parse import parse_mapping

LOG = "user_id,item_id,timestamp\n" + "".join(f"u{i % 3},i{i % 5},{1_700_000_000 + i}\n" for i in range(30))


@pytest.mark.parametrize("command", [train, evaluate, replay])
def test_help_has_an_example(command: click.Command) -> None:
    """Each command's help shows a command line that works."""
    shown = CliRunner().invoke(command, ["--help"])
    assert shown.exit_code == 0
    assert f"eddy {command.name} " in shown.output


@pytest.mark.parametrize(
    ("command", "arguments", "fragment"),
    [
        (train, ["missing.csv", "--out", "m/1"], "no such file"),
        (train, ["log.csv", "--out", "m/1"], "30 clicks; at least 200"),
        (train, ["log.csv", "--out", "m/1", "--item-col", "sku"], "no column 'sku'"),
        (train, ["log.csv", "--out", "m/1", "--until", "1999-01-01"], "the log covers 2023"),
        (train, ["log.csv", "--out", "m\udcff/1"], "--out 'm\\udcff/1' is not UTF-8; give another directory"),
        (train, ["log.csv", "--out", "mymodel"], "--out mymodel: it must end in NAME/VERSION, such as --out mymodel/1"),
        (train, ["log.csv", "--out", "./mymodel/"], "such as --out mymodel/1"),
        (train, ["log.csv", "--out", "/mymodel"], "such as --out mymodel/1"),
        (train, ["log.csv", "--out", "../mymodel"], "such as --out mymodel/1"),
        (train, ["log.csv", "--out", "."], "such as --out mine/1"),
        (train, ["log.csv", "--out", ".."], "such as --out mine/1"),
        (train, ["log.csv", "--out", "log.csv/1"], "the directory cannot be written (Not a directory"),
        (train, ["log.csv", "--out", "/proc/x/1"], "the directory cannot be written"),
        (train, ["log.csv", "--out", "m/1", "--until", "tomorrow"], "'tomorrow' is neither"),
        (train, ["log.csv", "--out", "m/1", "--in-order", "--from", "2023-01-01"], "--in-order ignores them"),
        (
            train,
            ["log.csv", "--out", "m/1", "--in-order", "--from-model", "m/0"],
            "--in-order ignores them",
        ),
        (train, ["log.csv", "--out", "m/1", "--mapping", "none.toml"], "mapping none.toml: no such file; `eddy init`"),
        (
            train,
            ["log.csv", "--out", "m/1", "--mapping", "x.toml", "--item-col", "item_id"],
            "x.toml names the columns",
        ),
        (
            train,
            ["log.csv", "--out", "m/1", "--mapping", "x.toml"],
            "no column for user_id, which mapping x.toml has at",
        ),
        (evaluate, ["m/1", "log.csv", "--in-order", "--judge-from", "2023-11-14"], "--in-order ignores them"),
        (replay, ["log.csv", "--broker", "localhost:1", "--speed", "max"], "localhost:1 cannot be reached"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: click.Command, arguments: list[str], fragment: str
) -> None:
    """A wrong argument raises a ConfigError of one line."""
    monkeypatch.setattr("stream.access.publish.CONNECT_S", 1.0)
    monkeypatch.chdir(tmp_path)
    Path("log.csv").write_text(LOG)
    Path("x.toml").write_text("[fields]\nuser_id = 'uid'\nitem_id = 'item_id'\ntimestamp = 'timestamp'\n")
    result = CliRunner().invoke(command, arguments)
    assert isinstance(result.exception, ConfigError)
    assert fragment in str(result.exception)
    assert "\n" not in str(result.exception)


@pytest.mark.parametrize(
    "arguments",
    [
        ["missing.csv", "--out", "m/1"],
        ["log.csv", "--out", "log.csv/1"],
        ["log.csv", "--out", "m/1", "--catalogue", "missing.csv"],
        ["log.csv", "--out", "m/1", "--catalogue", "log.csv"],  # no category
        ["log.csv", "--out", "m/1", "--from-model", "older/1"],
    ],
)
def test_a_wrong_path_is_reported_before_torch_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    """A wrong file name is reported without loading torch, and --out is not created."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "torch", None)
    Path("log.csv").write_text(LOG)
    assert isinstance(CliRunner().invoke(train, arguments).exception, ConfigError | ArtifactError)
    assert not Path("m").exists()


def test_a_training_can_be_read_by_a_program(model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`eddy train --json` prints one JSON object: where the model is and how good it was on the held-out slice."""
    facts = {"training": {"clicks": 30}, "quality": {"recall20": 0.25}}
    written = msgspec.structs.replace(read_manifest(model_dir), **facts)
    monkeypatch.setattr("export.pipeline.train_model", lambda *_: written)  # minutes, and tested elsewhere
    (tmp_path / "log.csv").write_text(LOG)
    out = tmp_path / "m" / "1"
    done = CliRunner().invoke(train, [str(tmp_path / "log.csv"), "--out", str(out), "--json"], catch_exceptions=False)
    report = str(out / "report.json")
    assert json.loads(done.stdout) == {"directory": str(out), "report": report, "items": 50, **facts}


@pytest.mark.parametrize("speed", ["fast", "0", "-1", "nan"])
def test_a_wrong_speed_is_refused(tmp_path: Path, speed: str) -> None:
    """--speed takes a number above zero or max."""
    (tmp_path / "log.csv").write_text(LOG)
    result = CliRunner().invoke(replay, [str(tmp_path / "log.csv"), "--speed", speed])
    assert result.exit_code == 2
    assert "neither a number above 0 nor max" in result.output


def test_brackets_and_colons_of_a_log_are_printed_as_they_are(tmp_path: Path) -> None:
    """Text that rich would read as markup or an emoji is printed unchanged."""
    log = tmp_path / "clicks[de].csv"
    log.write_text(LOG + "u1,i1,[/b]:apple:\n")
    shown = CliRunner().invoke(train, [str(log), "--out", str(tmp_path / "m" / "1")])
    assert "30 clicks; at least 200" in str(shown.exception)
    assert (
        f"{log}: dropped 1 row: no time in a known format (2024-12-01T15:30:00Z, ms since 1970), such as '[/b]:apple:'"
        in shown.output
    )


def test_a_log_is_evaluated_by_the_model_s_own_mapping_and_by_no_other(model_dir: Path, tmp_path: Path) -> None:
    """Without an option the copy in the model's directory is used; another mapping and an option for a column are
    refused."""
    text = "[fields]\nuser_id = 'visitor'\nitem_id = 'sku'\ntimestamp = 'at'\n\n[key]\nholds = 'user_id'\n"
    model = tmp_path / "m" / "1"
    shutil.copytree(model_dir, model)
    (model / MAPPING).write_text(text)
    manifest = read_manifest(model)
    files = {**manifest.files, MAPPING: sha256(model / MAPPING)}
    mapping = parse_mapping(text, "x").hash
    write_manifest(model, msgspec.structs.replace(manifest, files=files, mapping=mapping))
    log, other, same = (tmp_path / name for name in ("log.csv", "other.toml", "same.toml"))
    log.write_text(LOG.replace("user_id,item_id,timestamp", "visitor,sku,at"))
    other.write_text(text.replace("sku", "product"))
    same.write_text(text.partition("[key]")[0])  # without a default that the model's has, as `eddy init` writes it
    for options, words in (
        (["--mapping", str(other)], "is not the one that model tiny/1 was trained with"),
        (["--item-col", "sku"], "mapping.toml names the columns of the log"),
        (["--mapping", str(model / MAPPING)], "baselines.npz"),
        (["--mapping", str(same)], "baselines.npz"),
        ([], "baselines.npz"),  # the log is read, and the untrained model has no baselines
    ):
        result = CliRunner().invoke(evaluate, [str(model), str(log), *options])
        assert words in str(result.exception), options
