"""Opens the traces of a worker, if it was given an endpoint. Without one no package of OpenTelemetry is imported."""

from typing import TYPE_CHECKING

from stream.settings import Settings

if TYPE_CHECKING:
    from stream.tracing.otlp import Traces


def open_traces(settings: Settings, worker_id: str, model: str, version: str) -> "Traces | None":
    """The traces of a worker, which are sent to the setting otlp_endpoint; None without an endpoint.

    model    NAME/VERSION
    version  of Eddy
    Raises ConfigError if a variable OTEL_... has a value that the SDK does not take, ImportError without the extra.
    """
    if not settings.otlp_endpoint:
        return None
    from stream.tracing.otlp import Traces  # the extra `otel` installs what it needs

    service = {"service.name": "eddy", "service.version": version, "service.instance.id": worker_id}
    same = {
        "messaging.system": "kafka",
        "messaging.operation.type": "process",
        "messaging.destination.name": settings.topics.clicks,
        "messaging.consumer.group.name": settings.group,
        "eddy.model": model,
        "eddy.worker_id": worker_id,
    }
    return Traces(settings.otlp_endpoint, service, same)
