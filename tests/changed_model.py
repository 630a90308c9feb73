"""Puts a changed step.onnx into a model directory, with the hash in the manifest that a loader expects."""

from pathlib import Path

import onnx

from stream.manifest import Manifest, read_manifest, sha256, write_manifest


def save_step(directory: Path, graph: onnx.ModelProto) -> None:
    """Replace step.onnx in the model directory."""
    manifest = read_manifest(directory)  # before the change, because it compares the hashes
    onnx.save(graph, directory / "step.onnx")
    fields = {name: getattr(manifest, name) for name in manifest.__struct_fields__}
    fields["files"] = {**manifest.files, "step.onnx": sha256(directory / "step.onnx")}
    write_manifest(directory, Manifest(**fields))
