"""The figures that the page asks for: the same as the meter's, over the last seconds and minutes."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from stream.manifest import read_manifest
from stream.meter import Meter
from stream.web.display import POINTS, Display
from stream.web.files import HERE, KINDS, POLICY, page_routes, report_route
from stream.web.health import Doing, Health
from stream.web.server import Server, listen


@pytest.fixture
def display() -> Display:
    return Display(Meter(), Health(), True)


@pytest.fixture
def port(display: Display) -> Iterator[int]:
    listener = listen("127.0.0.1", 0)
    found = listener.getsockname()[1]
    running = Server(listener, [*page_routes(display), report_route(display)])
    yield found
    running.close()


def test_figures_are_those_of_the_last_seconds(display: Display) -> None:
    """Clicks in ten seconds by the clock, the latency of these alone, lag and counts of now."""
    meter = display.meter
    meter.observe("latency", [30.0] * 1_000)
    assert display.status()["clicks_per_s"] is None
    for second in range(0, 22, 2):
        display.note(lambda second=second: float(second))
        meter.count("clicks", 600 if second < 10 else 100)
        meter.observe("latency", [0.1])
        meter.observe("stage", [0.02], stage="commit")
    meter.levels("partition_lag", "partition", {"0": 5, "3": 2})
    meter.count("dead_letters", 4, reason="not_json")
    status = display.status()
    assert status["clicks_per_s"] == 50.0
    assert status["latency"]["p99_ms"] == pytest.approx(100, rel=0.1)
    assert status["stages"]["commit"]["p50_ms"] == pytest.approx(20, rel=0.1)
    assert (status["lag"], status["dead_letters"]) == ({"0": 5, "3": 2}, {"not_json": 4})
    assert status["counts"]["clicks"] == 3_600
    history = display.history()
    assert history["clicks_per_s"] == [300.0] * 5 + [50.0] * 5
    assert len(history["time"]) == len(history["latency_p99_ms"]) == len(history["lag"]) == 10


def test_the_history_has_a_limit_and_null_where_nothing_was_decided(display: Display) -> None:
    """A worker that runs for months does not grow."""
    for second in range(POINTS + 50):
        display.note(lambda second=second: float(second))
    history = display.history()
    assert history.pop("hours") is None
    assert {len(values) for values in history.values()} == {POINTS}
    assert set(history["latency_p50_ms"]) == {None}


def test_health_and_model_are_shown(display: Display, model_dir: Path, tmp_path: Path) -> None:
    """While a worker starts there is no model, and the reason is that of /readyz."""
    status = display.status()
    assert (status["ready"], status["model"], status["worker"]) == (False, None, None)
    assert "loads its model" in status["reason"]
    manifest = msgspec.structs.replace(read_manifest(model_dir), quality={"recall20": 0.5})
    display.model(manifest, tmp_path)
    display.health.doing = lambda: Doing("assigned", 2)
    display.health.kafka = SimpleNamespace(out=False, breaks=0)
    display.meter.level("info", 1, version="1", model="tiny/1", provider="CPU", group="g", worker_id="7")
    status = display.status()
    assert (status["ready"], status["partitions"], status["worker"]["worker_id"]) == (True, 2, "7")
    assert (status["model"]["label"], status["model"]["items"]) == ("tiny/1", 50)
    assert status["model"]["report"] is False
    assert status["model"]["held_out"] == {"recall@20": 0.5, "MRR@20": None}
    assert status["model"]["network"] == manifest.cell
    (tmp_path / "report.html").write_text("<p>fine")
    display.model(manifest, tmp_path)
    assert display.status()["model"]["report"] is True


def test_every_file_of_the_page_has_the_policy(port: int, display: Display, tmp_path: Path) -> None:
    """Nothing may be loaded from elsewhere, and no script may be in the HTML. What is no page is not served."""
    names = [path.name for path in HERE.iterdir() if path.suffix in KINDS]
    assert {"index.html", "page.css", "page.js", "uplot.js"} <= set(names)
    for path in ("/", *(f"/page/{name}" for name in names)):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            assert answer.headers["Content-Security-Policy"] == POLICY
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.read()
    assert "'unsafe" not in POLICY
    for path in ("/page/uplot.LICENSE", "/page/../display.py", "/page/", "/v1/report"):
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10)
    (tmp_path / "report.html").write_text("<p>fine")
    display.report = tmp_path / "report.html"
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/report", timeout=10) as answer:
        assert answer.read() == b"<p>fine"
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'unsafe-inline';")


def test_the_vendored_library_has_its_licence_and_version() -> None:
    """uPlot under the MIT licence."""
    assert "The MIT License" in (HERE / "uplot.LICENSE").read_text()
    assert (HERE / "uplot.js").read_text().startswith("/*! https://github.com/leeoniya/uPlot (v1.6.32) */")


def test_the_figures_are_json(port: int, display: Display) -> None:
    """Also with nothing to show."""
    for path, field in (("/v1/status", "ready"), ("/v1/history", "time")):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            assert field in json.loads(answer.read())
