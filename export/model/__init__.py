"""Makes and checks model directories."""

import stream.model  # noqa: F401, it turns onnxruntime's telemetry off, before the modules of this room import that
