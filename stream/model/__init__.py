"""Runs the ONNX graphs of a model directory; see runtime."""

import os

# onnxruntime >= 1.29 for Linux opens ~/.cache/Microsoft/DeveloperTools/.onnxruntime/onnxruntime.db when it is imported,
# and sends events about the loaded models to a collector. Only this variable, set before the import, prevents both;
# disable_telemetry_events() comes too late for the file.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
