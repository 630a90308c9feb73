"""The files for Prometheus and Grafana: each rule fires on the series that it is for, and every metric that is named
exists. The rules are run by Prometheus's own promtool.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from stream.environment import from_environment
from stream.meter import Meter
from stream.web.health import Doing, Health
from stream.web.metrics import registry
from stream.web.routes import worker_routes
from stream.web.server import Server, listen

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yml"

promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="THE ALERT RULES WERE NOT RUN: no promtool; install prometheus"
)


def series(metric: str, values: str, **labels: str) -> dict[str, str]:
    """A series of promtool: one value a minute. `0+5x60` begins with 0 and adds 5, sixty times."""
    inside = ",".join(f'{name}="{value}"' for name, value in (labels | {"instance": "w:1", "job": "eddy"}).items())
    return {"series": f"{metric}{{{inside}}}", "values": values}


def calm() -> dict[str, dict[str, str]]:
    """A worker with 600 clicks a minute: metric and label -> series. No rule fires."""
    return {
        "up": series("up", "1x120"),
        "ready": series("eddy_ready", "1x120"),
        "kafka": series("eddy_kafka_up", "1x120"),
        "lag": series("eddy_lag", "20x120", partition="0"),
        "messages": series("eddy_messages_total", "0+600x120"),
        "clicks": series("eddy_clicks_total", "0+600x120"),
        "dead": series("eddy_dead_letters_total", "0+2x120", reason="not_json"),
        "unknown": series("eddy_unknown_items_total", "0+30x120"),
        "lost": series("eddy_clicks_lost_total", "0x120"),
        "committed": series("eddy_transactions_total", "0+60x120", outcome="committed"),
        "rolled": series("eddy_transactions_total", "0x30 1x90", outcome="rolled_back"),
        "rebalances": series("eddy_rebalances_total", "0+1x120"),
        "alpha": series("eddy_alpha", "0.0001x120"),
        "sessions": series("eddy_sessions_total", "0+100x120"),
        "episodes": series("eddy_episodes_total", "0x60 1x60"),
        "system": series("eddy_system_alerts_total", "0x120", sign="twins"),
    }


TROUBLE = {
    "EddyWorkerDown": {"up": series("up", "1x60 0x60")},
    "EddyWorkerNotReady": {"ready": series("eddy_ready", "1x60 0x60")},
    "EddyKafkaDoesNotAnswer": {"kafka": series("eddy_kafka_up", "1x60 0x60")},
    "EddyNoTransactions": {
        "committed": series("eddy_transactions_total", "0+60x60 3600x60", outcome="committed"),
    },
    "EddyLagGrows": {"lag": series("eddy_lag", "20x60 100+100x60", partition="0")},
    "EddyDeadLetters": {"dead": series("eddy_dead_letters_total", "0+2x60 120+20x60", reason="not_json")},
    "EddyUnknownItems": {"unknown": series("eddy_unknown_items_total", "0+30x30 900+500x90")},
    "EddyClicksLost": {"lost": series("eddy_clicks_lost_total", "0x112 700x8")},
    "EddyRollBacks": {"rolled": series("eddy_transactions_total", "0x100 0+3x20", outcome="rolled_back")},
    "EddyRebalances": {"rebalances": series("eddy_rebalances_total", "0+1x60 60+6x60")},
    "EddyAlertRateFarAboveNominal": {"episodes": series("eddy_episodes_total", "0+1x120")},
    "EddyManyUsersAtOnce": {"system": series("eddy_system_alerts_total", "0x110 1x10", sign="twins")},
}
"""Alert -> the series of a calm worker that are different in the second hour, so that this alert fires and no other."""


def rules() -> list[dict[str, Any]]:
    loaded: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
    return loaded


def run_rules(directory: Path, given: dict[str, dict[str, str]], fires: str | None) -> subprocess.CompletedProcess[str]:
    """Run all rules on the series for two hours. At the end, this alert fires once, and no other does."""
    expected = []
    for rule in rules():
        one = {"eval_time": "119m", "alertname": rule["alert"], "exp_alerts": []}
        if rule["alert"] != fires:
            expected.append(one)
    test = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": list(given.values()),
                "alert_rule_test": expected,
                "promql_expr_test": [
                    {
                        "expr": f'count(ALERTS{{alertstate="firing", alertname="{fires or ""}"}}) or vector(0)',
                        "eval_time": "119m",
                        "exp_samples": [{"labels": "{}", "value": 0 if fires is None else 1}],
                    }
                ],
            }
        ],
    }
    file = directory / "test.yml"
    file.write_text(yaml.safe_dump(test))
    return subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True, text=True, timeout=60)


@promtool
def test_no_rule_fires_for_a_calm_worker(tmp_path: Path) -> None:
    """Two hours with a few dead letters, unknown items, rebalances, one roll-back and one alert."""
    done = run_rules(tmp_path, calm(), None)
    assert done.returncode == 0, done.stdout + done.stderr


@promtool
@pytest.mark.parametrize("alert", TROUBLE)
def test_each_rule_fires_for_its_trouble_and_no_other_does(alert: str, tmp_path: Path) -> None:
    """The series of the trouble begin like those of the calm worker."""
    done = run_rules(tmp_path, calm() | TROUBLE[alert], alert)
    assert done.returncode == 0, done.stdout + done.stderr


@promtool
def test_prometheus_accepts_the_files() -> None:
    """As `prometheus` itself reads them."""
    for words in (["check", "rules", str(RULES)], ["check", "config", str(DEPLOY / "prometheus" / "prometheus.yml")]):
        done = subprocess.run(["promtool", *words], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_rule_has_its_trouble() -> None:
    """So a new rule is tested, too."""
    assert [rule["alert"] for rule in rules()] == list(TROUBLE)


def test_dashboard_and_rules_name_only_metrics_of_a_worker() -> None:
    """And the dashboard shows every metric that a worker has of its own."""
    own = {family.name: family.type for family in registry(Meter(), Health()).collect()}
    known = {f"{name}_total" if kind == "counter" else name for name, kind in own.items()}
    known |= {
        f"{name}_{part}" for name, kind in own.items() if kind == "histogram" for part in ("bucket", "sum", "count")
    }
    board = json.loads((DEPLOY / "grafana" / "dashboards" / "eddy.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    named = set(re.findall(r"\b(?:eddy|process)_\w+", " ".join(queries)))
    alerts = set(re.findall(r"\b(?:eddy|process)_\w+", " ".join(rule["expr"] for rule in rules())))
    assert named | alerts <= known
    for name in own:
        if name.startswith("eddy"):
            assert any(one.startswith(name) for one in named), f"{name} is in no panel"


def test_panels_have_titles_descriptions_and_ids_of_their_own() -> None:
    """Grafana refuses or mixes up panels with one id."""
    board = json.loads((DEPLOY / "grafana" / "dashboards" / "eddy.json").read_text())
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in board["panels"]:
        assert panel["title"]
        if panel["type"] != "row":
            assert panel["description"]
            assert panel["datasource"]["uid"] == "${datasource}"
            assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24


def test_compose_uses_the_port_of_the_worker() -> None:
    """Prometheus scrapes it, what is mounted exists, and the host opens no port to a network."""
    services = yaml.safe_load((DEPLOY.parent / "docker-compose.yml").read_text())["services"]
    worker = from_environment(services["worker"]["environment"])
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    assert config["scrape_configs"][0]["static_configs"] == [{"targets": [f"worker:{worker.http_port}"]}]
    assert worker.http_host == "0.0.0.0"
    for name in ("prometheus", "grafana"):
        assert services[name]["profiles"] == ["monitoring"]
        assert all(port.startswith("127.0.0.1:") for port in services[name]["ports"])
        for volume in services[name]["volumes"]:
            assert list((DEPLOY.parent / volume.split(":")[0]).iterdir())


def check(port: str) -> int:
    """The exit status of the image's health check with this EDDY_HTTP_PORT."""
    [line] = re.findall(r"^HEALTHCHECK .* CMD (\[.*\])$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    _, *words = json.loads(line)
    return subprocess.run([sys.executable, *words], env={"EDDY_HTTP_PORT": port}, capture_output=True).returncode


def test_the_health_check_of_the_image_asks_the_worker() -> None:
    """Without a port it succeeds, because there is nothing to ask; with one it succeeds only if the worker lives."""
    listener = listen("127.0.0.1", 0)
    port, health = str(listener.getsockname()[1]), Health()
    server = Server(listener, worker_routes(Meter(), health))
    assert check("") == check("0") == check(port) == 0
    health.doing = lambda: Doing("assigned", 1, 301.0, slow=True, hangs=True)
    assert check(port) != 0
    server.close()
    assert check(port) != 0


def test_the_page_names_both_cases_in_which_the_health_check_does_not_see_the_port() -> None:
    """It reads no settings file, so it succeeds; and it asks only 127.0.0.1, so it fails."""
    page = (DEPLOY.parent / "docs" / "docker.md").read_text()
    [in_a_file, at_a_host] = page.split("| the port or its address |")[1].split("\n\n")[0].splitlines()[2:]
    assert "[settings file](settings.md)" in in_a_file
    assert "always succeeds" in in_a_file
    assert check("") == 0
    assert "`EDDY_HTTP_HOST`" in at_a_host
    assert "always fails" in at_a_host
    listener = listen("127.0.0.2", 0)
    server = Server(listener, worker_routes(Meter(), Health()))
    assert check(str(listener.getsockname()[1])) != 0
    server.close()
