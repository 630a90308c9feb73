"""`eddy init` on a file, as it is typed; tests/kafka/test_mapping.py has it on a topic."""

import json
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import fastavro
import polars as pl
import pytest
from click.testing import CliRunner, Result

from export.init import init, rows
from export.record.command import record
from stream.errors import ConfigError
from stream.kafka.partitioners import KeySample
from stream.mapping.parse import read_mapping
from stream.ops.cli import eddy
from tests.docs.blocks import ROOT

SAMPLE = ROOT / "docs" / "examples" / "retailrocket.csv"


def run(*words: object) -> Result:
    return CliRunner().invoke(init, list(map(str, words)))


def test_help_has_an_example_and_the_list_of_commands_has_init() -> None:
    """Both are printed without a heavy import."""
    assert "eddy init --topic shop-events" in run("--help").output
    assert "\n  init " in CliRunner().invoke(eddy, ["--help"]).output
    code = "import sys, export.init; assert not {'polars', 'numpy', 'confluent_kafka', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_program_gets_one_json_object(tmp_path: Path) -> None:
    """The mapping, the counts, the first clicks, and what is not used."""
    out = tmp_path / "shop.toml"
    found = json.loads(run("--file", SAMPLE, "--out", out, "--json").output)
    assert (found["events"], found["clicks"], found["dropped"], found["dead_letters"]) == (5, 5, {}, {})
    assert found["mapping"]["topic"]["fields"]["item_id"] == ["itemid"]
    assert found["first"][1] == {
        "user_id": "257597", "item_id": "355908", "timestamp": 1_433_221_341_502, "event_type": "cart",
    }  # fmt: skip
    assert found["not_used"] == ["transactionid"]
    assert found["file"] == str(out)
    assert read_mapping(out).mapping.event_types == {"addtocart": "cart", "transaction": "purchase"}


@pytest.mark.parametrize(("events", "said"), [(5_001, True), (4_999, False)])
def test_a_long_file_is_looked_at_in_part_and_init_says_so(tmp_path: Path, events: int, said: bool) -> None:
    """Later events may be of another kind."""
    line = '{"user_id": "u1", "item_id": "i1", "timestamp": 1700000000000, "event_type": "view"}\n'
    (tmp_path / "long.jsonl").write_text(line * events)
    found = run("--file", tmp_path / "long.jsonl", "--out", tmp_path / "shop.toml").output
    assert ("file long.jsonl: its first 5,000 events were looked at" in found) == said


def test_dates_and_decimals_of_parquet_are_read_as_from_a_log(tmp_path: Path) -> None:
    """Also in a struct and in a list; bytes are no value for any field."""
    at = datetime(2025, 3, 4, 9, 0, 10, tzinfo=UTC)
    row = {
        "user_id": "u1", "item_id": "i1", "event_time": at, "day": at.date(), "price": Decimal("9.50"),
        "sent": {"at": at}, "days": [at.date()], "raw": b"x",
    }  # fmt: skip
    pl.DataFrame([row]).write_parquet(tmp_path / "log.parquet")
    result = run("--file", tmp_path / "log.parquet", "--out", tmp_path / "shop.toml", "--json")
    assert result.exception is None, result.exception
    assert json.loads(result.output)["first"] == [
        {"user_id": "u1", "item_id": "i1", "timestamp": 1_741_078_810_000, "price": 9.5}
    ]


def test_a_file_in_avro_gives_the_mapping_of_the_same_rows_in_json(tmp_path: Path) -> None:
    """Nested, with a time as a number of microseconds."""
    product = {"type": "record", "name": "Product", "fields": [{"name": "sku", "type": "string"}]}
    when = {"type": "long", "logicalType": "timestamp-micros"}
    fields = [{"name": "userId", "type": "string"}, {"name": "product", "type": product}, {"name": "at", "type": when}]
    rows = [
        {"userId": f"u{n % 7}", "product": {"sku": f"i{n % 9}"}, "at": 1_741_078_800_000_000 + n} for n in range(60)
    ]
    with (tmp_path / "log.avro").open("wb") as file:
        fastavro.writer(file, {"type": "record", "name": "Click", "fields": fields}, rows)
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = []
    for ending in ("avro", "jsonl"):
        out = tmp_path / f"{ending}.toml"
        assert run("--file", tmp_path / f"log.{ending}", "--out", out).exit_code == 0
        found.append(out.read_text().replace(f"log.{ending}", ""))
    assert found[0] == found[1]
    assert 'item_id = "product.sku"' in found[0]


def test_the_next_command_has_the_file_that_was_looked_at(tmp_path: Path) -> None:
    """As a shell reads it: a name may have a blank."""
    log, out = tmp_path / "my log.csv", tmp_path / "shop.toml"
    log.write_bytes(SAMPLE.read_bytes())
    last = run("--file", log, "--out", out).output.splitlines()[-1]
    assert last == f"wrote {out}. Next: eddy train '{log}' --mapping {out} --out models/mine/1"


def test_an_existing_file_is_not_changed(tmp_path: Path) -> None:
    """It may have been edited by hand."""
    out = tmp_path / "shop.toml"
    out.write_text("mine")
    assert "does not replace a file" in str(run("--file", SAMPLE, "--out", out).exception)
    assert out.read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        ([], "give either --topic"),
        (["--topic", "t", "--file", "log.csv"], "give either --topic"),
        (["--file", "none.csv"], "no such file"),
        (["--file", "logs"], "--file logs is a directory; give one of its files"),
        (["--file", "empty.csv"], "file empty.csv has no events to look at"),
        (["--file", "log.csv"], "no field of 1 event looks like the time"),
        (["--file", "broken.jsonl"], "line 1 is not a JSON object"),
        (["--topic", "t", "--broker", "localhost:1"], "localhost:1 cannot be reached"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], fragment: str
) -> None:
    """Nothing is written then."""
    monkeypatch.setattr("stream.access.publish.CONNECT_S", 1.0)
    monkeypatch.chdir(tmp_path)
    Path("logs").mkdir()
    Path("logs/log.csv").write_bytes(SAMPLE.read_bytes())
    Path("log.csv").write_text("user_id,item_id\nu,i\n")
    Path("empty.csv").write_text("user_id,item_id\n")
    Path("broken.jsonl").write_text("{\n")
    result = run(*words)
    assert isinstance(result.exception, ConfigError)
    assert fragment in str(result.exception)
    assert "\n" not in str(result.exception)
    assert not Path("mapping.toml").exists()


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    """After the table, which is the work of the command."""
    result = run("--file", SAMPLE, "--out", tmp_path / "none" / "shop.toml")
    assert isinstance(result.exception, ConfigError)
    assert "cannot be written" in str(result.exception)
    assert "itemid" in result.output


def test_without_a_user_there_is_no_file(tmp_path: Path) -> None:
    """The command ends with an error that has the fields to choose from, and writes no file that looks complete."""
    rows = [{"actor": {"who": f"w{n % 9}"}, "itemId": f"i{n % 7}", "time": 1_741_078_800_000 + n} for n in range(60)]
    log, out = tmp_path / "log.jsonl", tmp_path / "shop.toml"
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = run("--file", log, "--out", out)
    assert isinstance(result.exception, ConfigError)
    assert "no field of 60 events looks like the user_id" in str(result.exception)
    assert "actor.who (100%, 'w0', 'w1', 'w2')" in str(result.exception)
    assert not out.exists()


@pytest.mark.parametrize(
    ("kafka_config", "form", "more"),
    [
        ("", "json", ""),
        ("eddy.properties", "json", " --kafka-config eddy.properties"),
        ("", "avro", " --schema-registry http://r"),
    ],
)
def test_init_of_a_topic_ends_with_where_a_log_comes_from(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kafka_config: str, form: str, more: str
) -> None:
    """`eddy train` reads no topic. The lines that are printed can be typed: every option of them exists."""
    monkeypatch.setattr("export.init._of_topic", lambda *_: (list(rows(SAMPLE)), [None] * 5, KeySample(1), [], form))
    monkeypatch.setattr("export.init.read_kafka_config", lambda *_: None)
    given = ("--kafka-config", kafka_config) if kafka_config else ()
    out = tmp_path / "shop.toml"
    words = ("--topic", "shop events", "--broker", "k:9092", "--schema-registry", "http://r", "--out", out)
    result = run(*words, *given)
    assert result.exception is None, result.exception
    next_, then = result.output.strip().splitlines()[-2:]
    line = f"eddy record events.jsonl --topic 'shop events' --broker k:9092 --mapping {out}{more}"
    assert next_ == f"wrote {out}. Next: {line}"
    assert then == f"Then: eddy train events.jsonl --mapping {out} --out models/mine/1"
    flags = {flag for parameter in record.params for flag in parameter.opts}
    assert {word for word in shlex.split(line) if word.startswith("--")} <= flags
