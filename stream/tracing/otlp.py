"""Traces of OpenTelemetry: a span for each transaction of the worker, and under it one for each stage.

The stages are those of the metric `eddy_stage_seconds`, with the times that were measured for it. They are put one
after the other, so that the last one ends when the span is made: pauses between them, such as changes of threads, are
not shown.

The rule that must not break: no click waits for a trace. The SDK's thread sends the spans, drops what is too much, and
its errors become one line of the log now and then.
"""

import atexit
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags, set_span_in_context

from stream.errors import ConfigError
from stream.tracing.links import links

PATH = "/v1/traces"
"""What OTLP over HTTP has behind the address of a collector."""

CLOSE_S = 2.0
"""How long the end of the process waits for the last spans."""

REMIND_S = 300.0
"""How often the log says that spans are lost."""

SDK = "opentelemetry"
"""Name of the logger of the SDK and its exporter."""

log = logging.getLogger(__name__)


class Traces:
    """Sends the spans of one worker until the process ends."""

    def __init__(
        self,
        endpoint: str,
        service: Mapping[str, str],
        same: Mapping[str, str],
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """
        endpoint  http(s)://host:port[/path] of a collector, with or without PATH
        service   attributes of the process. OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES precede them
        same      attributes that each span of a transaction has
        clock_ns  the time now, ns since the epoch
        Raises ConfigError if a variable OTEL_... has a value that the SDK does not take.
        """
        url = endpoint.strip().rstrip("/").removesuffix(PATH) + PATH
        self._same, self._clock_ns = same, clock_ns
        try:
            resource = Resource.create(dict(service)).merge(OTELResourceDetector().detect())
            self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
            self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(url)))
        except (ValueError, OSError) as exc:
            raise ConfigError(f"traces cannot be sent to --otlp-endpoint ({exc}); check the OTEL_* variables") from exc
        Errors(url)  # from here on: what the SDK says of its variables above are lines of the log
        self._tracer = self._provider.get_tracer("eddy", service["service.version"])
        self._closing, self._closed = threading.Event(), threading.Event()
        # The SDK waits up to half a minute for its last spans, and no thread may be started while Python ends.
        threading.Thread(target=self._shut_down, name="end of traces", daemon=True).start()
        atexit.register(self.close)
        log.info("traces are sent: endpoint=%s", url)

    def transaction(self, seconds: Mapping[str, float], records: Iterable[Any], facts: Mapping[str, Any]) -> None:
        """Add the span of a transaction that ends now.

        seconds  stage -> how long it took, in order
        records  of aiokafka; their sampled traces are linked
        facts    attributes
        """
        times = [(stage, int(took * 1e9)) for stage, took in seconds.items()]
        at = self._clock_ns() - sum(took for _, took in times)
        attributes = {**self._same, **facts}
        span = self._tracer.start_span("transaction", Context(), SpanKind.CONSUMER, attributes, start_time=at)
        if not span.is_recording():  # OTEL_TRACES_SAMPLER has left it out
            return
        for trace_id, span_id in links(records):
            flags = TraceFlags(TraceFlags.SAMPLED)
            span.add_link(SpanContext(trace_id, span_id, is_remote=True, trace_flags=flags))
        within = set_span_in_context(span, Context())
        for stage, took in times:
            part = self._tracer.start_span(stage, within, start_time=at)
            at += took
            part.end(at)
        span.end(at)

    def close(self) -> None:
        """Send what is left, for CLOSE_S at most."""
        atexit.unregister(self.close)
        self._closing.set()
        self._closed.wait(CLOSE_S)

    def _shut_down(self) -> None:
        self._closing.wait()
        self._provider.shutdown()
        self._closed.set()


class Errors(logging.Handler):
    """Counts the errors of the SDK, and logs one line for all of them, at most every REMIND_S.

    The SDK would log each of them, with a stack trace, every few seconds while a collector is away.
    """

    def __init__(self, url: str, clock_s: Callable[[], float] = time.monotonic) -> None:
        super().__init__(logging.ERROR)
        self._url, self._clock_s = url, clock_s
        self._count = 0
        self._said_s: float | None = None
        sdk = logging.getLogger(SDK)
        sdk.addHandler(self)
        sdk.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        self._count += 1
        now_s = self._clock_s()
        if self._said_s is not None and now_s - self._said_s < REMIND_S:
            return
        self._said_s = now_s
        reason = " ".join(record.getMessage().split())[:200]
        text = "traces are lost, clicks are decided as before: endpoint=%s errors=%d reason=%s"
        facts = self._url, self._count, reason
        # not log.warning: Python 3.13.4 and later drop what is logged while another record is handled
        log.callHandlers(log.makeRecord(log.name, logging.WARNING, __file__, 0, text, facts, None))
