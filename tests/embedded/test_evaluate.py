"""`eddy evaluate` judges the lists that a worker with the same options writes, rules and all."""

import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from confluent_kafka import Consumer, TopicPartition

from export.dataset.sessions import sessions_of
from export.evaluate.baselines import FILE, save_baselines
from export.evaluate.vsknn import VsKnnSetting
from export.log.log import read_log
from export.model.untrained import write_untrained
from stream.demo.broker import EmbeddedBroker
from stream.events import Click, Recommendation, click_of
from stream.manifest import sha256, write_manifest
from stream.settings import Topics

ITEMS, CATEGORIES, CLICKS = 40, 5, 600
DEADLINE_S = 90.0


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """log.csv, items.csv and a model judged/1 of random weights; a third of the clicks name another category."""
    place = tmp_path_factory.mktemp("shop")
    rng = np.random.default_rng(0)
    rows = []
    for n in range(CLICKS):
        user, item = n % 23, int(rng.integers(ITEMS))
        named = (item + (n % 3 == 0)) % CATEGORIES
        rows.append(f"u{user},i{item},view,{1_700_000_000 + n},s{user}-{n // 200},c{named},{item}.5")
    header = "user_id,item_id,event_type,timestamp,session_id,category,price"
    (place / "log.csv").write_text("\n".join([header, *rows]) + "\n")
    items = [f"{name},c{n % CATEGORIES}" for n, name in enumerate(names())]
    (place / "items.csv").write_text("\n".join(["item_id,category", *items]) + "\n")
    model = place / "judged" / "1"
    manifest = write_untrained(model, names(), ["view"])
    save_baselines(model, sessions_of(read_log(place / "log.csv"), names()), VsKnnSetting())
    write_manifest(model, msgspec.structs.replace(manifest, files={**manifest.files, FILE: sha256(model / FILE)}))
    return place


def names() -> list[str]:
    return [f"i{n}" for n in range(ITEMS)]


def eddy(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "stream.ops.cli", *map(str, arguments)]


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("EDDY_")}


def run(*arguments: object) -> dict[str, Any]:
    """What an `eddy` command that prints one JSON object printed."""
    done = subprocess.run(eddy(*arguments), capture_output=True, text=True, check=False, env=environment())
    assert done.returncode == 0, done.stderr
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


def on_topics(place: Path, *options: object) -> tuple[list[Click], dict[str, list[str]]]:
    """The clicks as they lie on their topic, and the list of each from a worker with these options."""
    with EmbeddedBroker(dict.fromkeys(Topics().names(), 1)) as broker:
        replayed = run("replay", place / "log.csv", "--broker", broker.address, "--speed", "max", "--json")
        assert replayed["clicks"] == CLICKS
        log = (place / "worker.log").open("wb")
        started = ("worker", "--model", place / "judged" / "1", "--broker", broker.address, "--worker-id", "1")
        with log, subprocess.Popen(eddy(*started, *options), env=environment(), stdout=log, stderr=log) as worker:
            try:
                clicks = [msgspec.json.decode(value, type=Click) for value in read(broker.address, "clicks")]
                found = read(broker.address, "recommendations")
            finally:
                worker.terminate()
    decisions = [msgspec.json.decode(value, type=Recommendation) for value in found]
    return clicks, {click_of(decision.id): decision.items for decision in decisions}


def read(broker: str, topic: str) -> list[bytes]:
    """The first CLICKS values of a topic with one partition, waiting for them."""
    consumer = Consumer({"bootstrap.servers": broker, "group.id": "t", "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, 0, 0)])
    found: list[bytes] = []
    deadline = time.monotonic() + DEADLINE_S
    while len(found) < CLICKS:
        assert time.monotonic() < deadline, f"{len(found)} of {CLICKS} on {topic}"
        found += [message.value() or b"" for message in consumer.consume(CLICKS, 0.2)]
    consumer.close()
    return found


def test_the_lists_judged_are_those_of_the_topic(place: Path) -> None:
    """With --same-category and all else by default, hits, ranks and coverage are those of the topic's lists."""
    rules = ("--catalogue", place / "items.csv", "--same-category")
    figures = run("evaluate", place / "judged" / "1", place / "log.csv", *rules, "--json")
    clicks, lists = on_topics(place, *rules)
    last: dict[str, list[str]] = {}
    ranks, shown = [], []
    training: defaultdict[str, int] = defaultdict(int)
    for offset, click in enumerate(clicks):
        training[click.item_id] += 1
        before = last.get(str(click.session_id))
        if before is not None:
            ranks.append(before.index(click.item_id) + 1 if click.item_id in before else 0)
            shown += before
        last[str(click.session_id)] = lists[f"clicks-0-{offset}"]
    assert figures["exclude_recent"] == 1
    assert figures["judged"] == len(ranks)
    ours = figures["eddy"]
    assert 0 < ours["recall20"] == pytest.approx(np.mean([rank > 0 for rank in ranks]))
    assert ours["mrr20"] == pytest.approx(np.mean([1 / rank if rank else 0 for rank in ranks]))
    assert ours["coverage20"] == pytest.approx(len(set(shown)) / ITEMS)
    assert ours["popularity20"] == pytest.approx(np.mean([training[item] for item in shown]))
    named = {f"clicks-0-{offset}": click.category for offset, click in enumerate(clicks)}
    assert all(f"c{int(item[1:]) % CATEGORIES}" == named[id_] for id_, items in lists.items() for item in items)
