"""The documents' code blocks, run as a reader would run them: page by page, in order, in an empty directory.

A page finds the files that it names: a small click log of the demo's shop, a catalogue and, unless the page trains it
itself, a model. `localhost:9092` stands for a real Kafka that lasts as long as the page.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import polars as pl
import pytest

from bench.apache_kafka import ApacheKafka, KafkaUnavailable
from stream.behaviour import Behaviour
from stream.demo.shop import build_shop
from stream.demo.simulate import DAY_MS, simulate_clean
from stream.events import Anomaly, Click, DeadLetter, Recommendation
from stream.trigger import Trigger
from tests.docs.blocks import PAGES, ROOT, RUN, SHOWN, Block, blocks

KAFKA = "localhost:9092"
MODEL = "models/mine/1"
SMALLER = {
    "--replication 3": "--replication 1",
    "--seconds 30": "--seconds 2",
    "--out models/retailrocket/1": "--out models/retailrocket/1 --epochs 1 --hidden 16",
    "--out models/mine/1": "--out models/mine/1 --epochs 1 --hidden 16",
}
"""Values that a test cannot use, and their replacements: fewer brokers, less time."""
RETAILROCKET = {"view": "view", "cart": "addtocart", "purchase": "transaction"}
WITH_COMMANDS = [page for page in PAGES if any(b.language in RUN and not b.skipped for b in blocks(page))]
TUTORIAL = "tutorial.md"
OF_THIS_LOG = re.compile("the model does not know")
"""In the outputs of the tutorial: what the log of the test does not have."""
INSTALLS = "they install packages"
BLOCK_S = 300.0
START_MS = 1_735_689_600_000


class Endless(NamedTuple):
    """A block that runs until Ctrl-C, and the file with what it has printed."""

    block: Block
    process: subprocess.Popen[bytes]
    output: Path


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the files that the documents name: two days of clicks of a few users, the first day also as
    events of another shape, both days with RetailRocket's columns, and a catalogue."""
    directory = tmp_path_factory.mktemp("inputs")
    stream = simulate_clean(build_shop(), 10, 1, START_MS)
    until_ms = START_MS + 2 * DAY_MS
    clicks = [msgspec.structs.asdict(s.click) for s in takewhile(lambda s: s.timestamp < until_ms, stream)]
    log = pl.DataFrame(clicks)
    first = pl.col("timestamp") < START_MS + DAY_MS
    log.filter(first).write_parquet(directory / "clicks.parquet")
    log.filter(~first).write_parquet(directory / "next-day.parquet")
    with (directory / "events.jsonl").open("w") as file:
        file.writelines(f"{json.dumps(segment(click))}\n" for click in log.filter(first).iter_rows(named=True))
    log.select(
        "timestamp",
        visitorid=pl.col("user_id").str.extract(r"(\d+)").cast(pl.Int64),
        event=pl.col("event_type").replace(RETAILROCKET),
        itemid=pl.col("item_id").rank("dense").cast(pl.Int64),
        transactionid=pl.lit(None, pl.Int64),
    ).write_csv(directory / "events.csv")
    log.select("item_id", "category").unique("item_id").write_ndjson(directory / "items.jsonl")
    return directory


def segment(click: dict[str, Any]) -> dict[str, Any]:
    """A click as an event of Segment, whose user is known or not."""
    known = int(click["user_id"][-1]) % 2
    return {
        "type": "track",
        "userId": click["user_id"] if known else None,
        "anonymousId": f"a {click['user_id']}" if known else click["user_id"],
        "event": {"view": "Product Viewed", "cart": "Product Added"}.get(click["event_type"], click["event_type"]),
        "timestamp": click["timestamp"],
        "properties": {"product_id": click["item_id"], "category": click["category"]},
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_runs_or_says_why_not(page: Path) -> None:
    """Every block has a language, and one that is not run has a reason and names the test that does what it shows.

    Only an installation is in no test: it would change the environment of the tests.
    """
    for block in blocks(page):
        assert block.language in (*RUN, *SHOWN), f"{page.name}:{block.line}: fence it as one of {(*RUN, *SHOWN)}"
        assert block.language in RUN or not block.mark or block.file, f"{page.name}:{block.line}: is no command"
        named = re.findall(r"tests/[\w/]+\.py", block.mark)
        assert all((ROOT / name).is_file() for name in named), f"{page.name}:{block.line}: {named}"
        if block.skipped:
            assert named or INSTALLS in block.mark, f"{page.name}:{block.line}: name the test that runs it or checks it"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_json_blocks_are_messages(page: Path) -> None:
    """A JSON block has only fields of an event."""
    for block in blocks(page):
        for shown in messages(block.text) if block.language == "json" else []:
            fits = [
                e
                for e in (Click, Recommendation, Anomaly, DeadLetter, Trigger, Behaviour)
                if set(shown) <= set(e.__struct_fields__)
            ]
            assert fits, f"{page.name}:{block.line}"
            msgspec.convert(shown, fits[0])


@pytest.mark.parametrize(
    "page",
    [p for p in PAGES if any(b.language in RUN and not b.skipped for b in blocks(p))],
    ids=lambda page: page.name,
)
def test_the_commands_of_a_page_run(page: Path, inputs: Path, tmp_path: Path) -> None:
    """All commands of a page succeed in order; a program that runs until Ctrl-C prints something and exits without an
    error."""
    todo = [block for block in blocks(page) if block.language in RUN and not block.skipped]
    text = "".join(block.text for block in todo)
    shutil.copytree(inputs, tmp_path, dirs_exist_ok=True)
    shutil.copytree(ROOT / "models", tmp_path / "models")
    if f"--out {MODEL}" not in text:
        shutil.copytree(tmp_path / "models" / "shop" / "1", tmp_path / MODEL)
    for block in blocks(page):
        if block.file:
            (tmp_path / block.file).write_text(block.text)
    with ExitStack() as stack:
        address = stack.enter_context(kafka()) if KAFKA in text else KAFKA
        running: list[Endless] = []
        printed: dict[Block, str] = {}
        for block in todo:
            command = arguments(block, address)
            if block.endless:
                running.append(stack.enter_context(started(block, command, tmp_path)))
            else:
                done = subprocess.run(
                    command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=BLOCK_S
                )
                assert done.returncode == 0, f"{page.name}:{block.line}\n{done.stdout}\n{done.stderr}"
                printed[block] = done.stderr + done.stdout
        for endless in reversed(running):
            stop(page, endless)
            printed[endless.block] = endless.output.read_text()
    if page.name == TUTORIAL:
        assert not_printed(page, printed) == []


def not_printed(page: Path, printed: Mapping[Block, str]) -> list[str]:
    """The lines of a page's outputs that its commands no longer print, whatever the numbers are.

    printed  block -> what it has printed; the text block after it shows a part of that
    """
    found, last = [], None
    for block in blocks(page):
        if block.language == "text":
            assert last is not None
            lines = {skeleton(line) for line in printed[last].splitlines()}
            shown = [line for line in block.text.splitlines() if line != "..." and not OF_THIS_LOG.search(line)]
            found += [line for line in shown if not fits(skeleton(line), lines)]
        last = block if block in printed else last
    return found


def fits(line: str, lines: set[str]) -> bool:
    """Whether a line, in which `...` stands for anything, is one of those that were printed."""
    wanted = re.compile(".*".join(map(re.escape, line.split("..."))))
    return any(wanted.fullmatch(one) for one in lines)


def skeleton(line: str) -> str:
    """A line without its numbers, ids and the widths of its columns."""
    line = re.sub(r"[+-]?\b\d[\d.,:]*\b%?", "#", line)
    line = re.sub(r"^eddy - \w+", "eddy - RIVAL", line)  # the best method on the log
    return re.sub(r"#( #)+", "#", re.sub(r"[─═]+", "─", " ".join(line.split())))


def test_a_line_that_is_printed_no_longer_is_found() -> None:
    """Numbers may differ, and words may not."""
    printed = {
        skeleton(line) for line in ("published 7 clicks to clicks in 0.1 s (1,680/s)", "eddy - markov: -0.1", "a b")
    }
    for line in ("published 939 clicks to clicks in 1.4 s (680/s)", "eddy - vsknn: +0.02", "...b"):
        assert fits(skeleton(line), printed), line
    for line in ("sent 939 clicks to clicks in 1.4 s (680/s)", "published 939 clicks to clicks", "eddy - vsknn: ?"):
        assert not fits(skeleton(line), printed), line


def messages(text: str) -> Iterator[dict[str, object]]:
    """The JSON objects of a block, one after the other."""
    start = 0
    while text[start:].strip():
        shown, start = json.JSONDecoder().raw_decode(text, start + len(text[start:]) - len(text[start:].lstrip()))
        yield shown


def arguments(block: Block, address: str) -> list[str]:
    """The command line that runs a block against the broker at `address`."""
    text = block.text.replace(KAFKA, address)
    for asked, smaller in SMALLER.items():
        text = text.replace(asked, smaller)
    return [sys.executable, "-c", text] if block.language == "python" else ["bash", "-euo", "pipefail", "-c", text]


def environment() -> dict[str, str]:
    """The test's environment without settings of Eddy, with the tested `eddy` first on the path and unbuffered
    output."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("EDDY_")}
    return {**ours, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{ours['PATH']}", "PYTHONUNBUFFERED": "1"}


@contextmanager
def kafka() -> Iterator[str]:
    """A real Kafka with no topics. Without one the page is skipped, or fails where the Kafka lane must run."""
    try:
        broker = ApacheKafka()
    except KafkaUnavailable as exc:
        if os.environ.get("EDDY_REQUIRE_KAFKA") == "1":
            pytest.fail(f"EDDY_REQUIRE_KAFKA=1, but there is no real Kafka: {exc}", pytrace=False)
        pytest.skip(f"THE PAGE'S COMMANDS DID NOT RUN: {exc}. Install Java and Maven")
    with broker:
        yield broker.address


@contextmanager
def started(block: Block, command: list[str], directory: Path) -> Iterator[Endless]:
    """Run a block in its own process group, so that Ctrl-C reaches all its processes, and end it at the end of the
    context."""
    output = directory / f"block-{block.line}.out"
    with output.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=directory, env=environment(), stdout=file, stderr=file, start_new_session=True
        )
    try:
        yield Endless(block, process, output)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def stop(page: Path, endless: Endless) -> None:
    """Send Ctrl-C once the block has printed something. A Python block without a handler dies of the signal."""
    deadline = time.monotonic() + BLOCK_S
    while not endless.output.stat().st_size and endless.process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)  # the polling interval; the deadline above decides
    printed, where = endless.output.read_text(errors="replace"), f"{page.name}:{endless.block.line}"
    assert printed, f"{where}: printed nothing in {BLOCK_S:.0f} s"
    assert endless.process.poll() is None, f"{where} ended by itself\n{printed}"
    os.killpg(endless.process.pid, signal.SIGINT)
    code = endless.process.wait(timeout=BLOCK_S)
    died = (-signal.SIGINT,) if endless.block.language == "python" else ()
    assert code in (0, *died), f"{where} ended with {code}\n{endless.output.read_text(errors='replace')}"
