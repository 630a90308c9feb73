"""The spans that a collector gets, and what a worker does without one."""

import logging
import re
import socket
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from stream.errors import ConfigError
from stream.settings import Settings
from stream.tracing.open import open_traces
from stream.tracing.otlp import REMIND_S, Errors, Traces
from tests.collector import Collector, attributes, running
from tests.docs.blocks import ROOT

NOW_NS = 1_760_000_000_000_000_000
SECONDS = {"decode": 0.002, "engine": 0.03, "commit": 0.008}
CLICKS = [SimpleNamespace(headers=[("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")])]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A short time limit of the exporter; and the logger of the SDK, which the process has once, as it was."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    yield
    sdk = logging.getLogger("opentelemetry")
    sdk.handlers.clear()
    sdk.propagate = True


def traces(url: str) -> Traces:
    return Traces(url, {"service.name": "eddy", "service.version": "1"}, {"eddy.model": "m/1"}, lambda: NOW_NS)


@pytest.mark.parametrize("path", ["", "/", "/v1/traces"])
def test_a_transaction_is_a_span_with_one_for_each_stage(path: str) -> None:
    """The stages follow on each other, in the time of the transaction, and the clicks' traces are linked."""
    with running() as collector:
        sent = traces(collector.url + path)
        sent.transaction(SECONDS, CLICKS, {"eddy.clicks": 3, "eddy.partitions": ["clicks-0", "clicks-3"]})
        sent.close()
        [whole] = collector.named("transaction")
        parts = [span for span in collector.spans if span.name != "transaction"]
    assert (whole.start_time_unix_nano, whole.end_time_unix_nano) == (NOW_NS - 40_000_000, NOW_NS)
    assert whole.parent_span_id == b""
    assert attributes(whole) == {"eddy.model": "m/1", "eddy.clicks": 3, "eddy.partitions": ["clicks-0", "clicks-3"]}
    [link] = whole.links
    assert (link.trace_id.hex(), link.span_id.hex()) == ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
    at = whole.start_time_unix_nano
    for name, part in zip(SECONDS, parts, strict=True):
        assert (part.name, part.parent_span_id, part.trace_id) == (name, whole.span_id, whole.trace_id)
        assert part.start_time_unix_nano == at
        at += int(SECONDS[name] * 1e9)
        assert part.end_time_unix_nano == at


def test_the_variables_of_the_sdk_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Name and attributes of the service, and the share of the transactions that is kept."""
    monkeypatch.setenv("OTEL_SERVICE_NAME", "shop")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test,service.version=9")
    with running() as collector:
        sent = traces(collector.url)
        sent.transaction(SECONDS, [], {})
        sent.close()
        named = {name: collector.resource[name] for name in ("service.name", "service.version")}
        assert named == {"service.name": "shop", "service.version": "9"}
        assert collector.resource["deployment.environment.name"] == "test"
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
        collector.spans.clear()
        none = traces(collector.url)
        none.transaction(SECONDS, [], {})
        none.close()
        assert collector.spans == []


def test_without_a_collector_nothing_waits_and_the_log_says_it_once(caplog: pytest.LogCaptureFixture) -> None:
    """More spans than the queue of the SDK takes are dropped."""
    gone = Collector()
    gone.serve()
    gone.leave()
    sent = traces(gone.url)
    began_s = time.monotonic()
    for _ in range(600):
        sent.transaction(SECONDS, CLICKS, {})
    assert time.monotonic() - began_s < 10  # 2,400 spans: each would wait for a second
    sent.close()
    lines = [one.getMessage() for one in caplog.records if one.name.startswith(("stream", "opentelemetry"))]
    [lost] = [line for line in lines if "traces are sent" not in line]
    assert lost.startswith(f"traces are lost, clicks are decided as before: endpoint={gone.url}/v1/traces errors=1 ")


def test_a_collector_that_does_not_answer_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that gets SIGTERM ends, however long the exporter would wait for its answer."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "20")
    monkeypatch.setattr("stream.tracing.otlp.CLOSE_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        sent = traces(f"http://127.0.0.1:{silent.getsockname()[1]}")
        sent.transaction(SECONDS, CLICKS, {})
        began_s = time.monotonic()
        sent.close()
        assert time.monotonic() - began_s < 10


def test_errors_are_counted_and_logged_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    """One line every five minutes, with the number of errors so far and the latest reason."""
    now_s = 0.0
    Errors("http://c:4318", lambda: now_s)
    sdk = logging.getLogger("opentelemetry.exporter")
    for n in range(10):
        now_s = n * REMIND_S / 4
        sdk.error("Failed to export: %s\nand more", n)
    sdk.warning("Transient error, retrying")
    lines = [one.getMessage().partition("errors=")[2] for one in caplog.records if one.name == "stream.tracing.otlp"]
    assert lines == [f"{n + 1} reason=Failed to export: {n} and more" for n in (0, 4, 8)]


def test_a_value_that_the_sdk_does_not_take_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator sees which variables to look at."""
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "-1")
    with pytest.raises(
        ConfigError, match=r"--otlp-endpoint \(max_queue_size must be .*\); check the OTEL_\* variables"
    ):
        traces("http://127.0.0.1:1")


def test_without_the_setting_no_package_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but the one file imports it, and that file is imported only with an endpoint."""
    imports = re.compile(r"^(from|import) (opentelemetry|stream\.tracing\.otlp)", re.MULTILINE)
    found = [path.name for path in (ROOT / "stream").rglob("*.py") if imports.search(path.read_text())]
    assert found == ["otlp.py"]
    monkeypatch.setitem(sys.modules, "stream.tracing.otlp", None)
    assert open_traces(Settings(model="m"), "0", "m/1", "1") is None
    with pytest.raises(ImportError):
        open_traces(Settings(model="m", otlp_endpoint="http://c:4318"), "0", "m/1", "1")


def test_an_endpoint_is_a_url_without_a_password() -> None:
    """All users of the machine see the options of a process, so the error does not repeat it either."""
    for wrong in ("collector:4318", "grpc://c:4317", "http://user:secret@c:4318"):
        with pytest.raises(ConfigError, match=r"otlp_endpoint must be http\(s\)://host") as refused:
            Settings(model="m", otlp_endpoint=wrong)
        assert "secret" not in str(refused.value)


def test_settings_reach_the_spans() -> None:
    """Which worker, group, topic and model a transaction is of."""
    settings: Any = {"group": "g", "otlp_endpoint": ""}
    with running() as collector:
        settings["otlp_endpoint"] = collector.url
        sent = open_traces(Settings(model="m", **settings), "7", "shop/2", "1")
        assert sent is not None
        sent.transaction(SECONDS, [], {})
        sent.close()
        found = attributes(collector.named("transaction")[0])
        assert (found["eddy.worker_id"], found["eddy.model"]) == ("7", "shop/2")
        assert (found["messaging.consumer.group.name"], found["messaging.destination.name"]) == ("g", "clicks")
        assert (collector.resource["service.name"], collector.resource["service.instance.id"]) == ("eddy", "7")
