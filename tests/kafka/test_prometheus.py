"""A real Prometheus scrapes a worker on a real Kafka: every query of the dashboard returns data, and every rule works.

It needs the programs `prometheus` and `promtool` (the package `prometheus` of Debian and Ubuntu).
"""

import json
import math
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kafka.lane import NOW_MS, ROOT, Lane, bot, clicks, trigger_file, wait_until
from tests.kafka.scrape import free_port, wait_for_phase

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="THE TEST WITH A REAL PROMETHEUS DID NOT RUN: install prometheus"
)

DEPLOY = ROOT / "deploy"
INTERVAL = "30s"
"""What Grafana would insert for $__rate_interval."""


class Prometheus:
    """A server that scrapes one worker every second, with the rules of deploy/."""

    def __init__(self, directory: Path, worker_port: int) -> None:
        config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
        [job] = config["scrape_configs"]
        job["static_configs"] = [{"targets": [f"127.0.0.1:{worker_port}"]}]
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        shutil.copy(DEPLOY / "prometheus" / "rules.yml", directory)
        (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.port = free_port()
        self.log = directory / "prometheus.log"
        words = [f"--config.file={directory / 'prometheus.yml'}", f"--storage.tsdb.path={directory / 'data'}"]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                ["prometheus", *words, f"--web.listen-address=127.0.0.1:{self.port}"], stdout=log, stderr=log
            )

    def ask(self, page: str, **query: str) -> Any:
        """The data of an answer of its API."""
        address = f"http://127.0.0.1:{self.port}/api/v1/{page}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(address, timeout=10) as answer:
            found = json.load(answer)
        assert found["status"] == "success", found
        return found["data"]

    def values(self, query: str) -> list[float]:
        """The values of a query now, one for each series."""
        return [float(series["value"][1]) for series in self.ask("query", query=query)["result"]]

    def is_up(self) -> bool:
        assert self._process.poll() is None, self.log.read_text()
        try:
            return self.values("count_over_time(eddy_clicks_total[1m]) > 1") != []
        except OSError:
            return False

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def worker_port(lane: Lane) -> int:
    """The port of a worker that has recovered states."""
    lane.produce(clicks(1_000))
    first = lane.start()
    lane.wait_for_clicks()
    first.process.kill()
    first.process.wait()
    port = free_port()
    lane.start(http_port=port, alpha=0.01, triggers=trigger_file(lane.directory))
    wait_for_phase(port, "assigned")
    return port


@pytest.fixture
def prometheus(tmp_path: Path, worker_port: int) -> Iterator[Prometheus]:
    server = Prometheus(tmp_path, worker_port)
    yield server
    server.end()


def odd() -> list[tuple[bytes | None, bytes | None]]:
    """A dead letter, and clicks with a field that is left out."""
    event = {"user_id": "ann", "item_id": "i1", "timestamp": NOW_MS, "price": "cheap"}
    return [(b"ann", b"{"), *[(b"ann", json.dumps(event).encode())] * 3]


def test_every_query_of_the_dashboard_and_the_rules_returns_data(lane: Lane, prometheus: Prometheus) -> None:
    """Two rounds of clicks, so that a rate has two ends. A query of the dashboard has a number for each of its series;
    a rule is evaluated without an error, and none fires."""
    wait_until(prometheus.is_up, "Prometheus has two scrapes")
    for seed in (1, 2):
        lane.produce([*clicks(1_500, users=200, seed=seed), *odd(), *bot()])
        sent = seed * (1_500 + len(odd()) + len(bot()))
        wait_until(
            lambda sent=sent: prometheus.values("eddy_messages_total") == [sent], "the latest figures are scraped"
        )
    board = json.loads((DEPLOY / "grafana" / "dashboards" / "eddy.json").read_text())
    queries = {
        target["expr"].replace("$__rate_interval", INTERVAL): panel["title"]
        for panel in board["panels"]
        for target in panel.get("targets", [])
    }
    assert len(queries) > 35
    for query, title in queries.items():
        found = prometheus.values(query)
        assert found, f"{title}: no data for {query}"
        assert any(map(math.isfinite, found)), f"{title}: {found} for {query}"
    clicks_per_s = prometheus.values(f"sum(rate(eddy_clicks_total[{INTERVAL}]))")
    assert clicks_per_s[0] > 10

    [group] = prometheus.ask("rules")["groups"]
    assert len(group["rules"]) == 12
    wait_until(
        lambda: all(rule["health"] == "ok" for rule in prometheus.ask("rules")["groups"][0]["rules"]),
        "all rules are evaluated",
    )
    for rule in prometheus.ask("rules")["groups"][0]["rules"]:
        assert rule["state"] != "firing" or rule["name"] == "EddyManyUsersAtOnce", rule
