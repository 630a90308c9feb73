"""What a worker answers on its HTTP port, read as Prometheus and Kubernetes read it."""

import json
import socket
import urllib.error
import urllib.request
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.kafka.lane import wait_until

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def get(port: int, path: str) -> tuple[int, bytes]:
    """Status and body; (0, b"") if nothing listens there yet."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as exc:
        return exc.code, exc.read()
    except (urllib.error.URLError, ConnectionError):
        return 0, b""


def health(port: int, path: str) -> tuple[int, dict[str, Any]]:
    """Status and facts of /livez or /readyz."""
    status, body = get(port, path)
    return status, json.loads(body) if body else {}


def scrape(port: int) -> Samples:
    """(name, sorted labels) -> value."""
    status, body = get(port, "/metrics")
    assert status == 200
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def value(port: int, name: str, **labels: str) -> float | None:
    """One sample now; None if there is none."""
    return scrape(port).get((name, tuple(sorted(labels.items()))))


def wait_for_phase(port: int, phase: str, deadline_s: float = 60.0) -> tuple[int, dict[str, Any]]:
    """Wait until /readyz names this phase, and return its answer."""
    seen: list[tuple[int, dict[str, Any]]] = []

    def reached() -> bool:
        seen.append(health(port, "/readyz"))
        return seen[-1][1].get("phase") == phase

    wait_until(reached, f"phase {phase}; the latest answer: {seen[-1:]}", deadline_s)
    return seen[-1]
