"""Puts a changed graph into a model directory, with the hash in the manifest that a loader expects."""

from pathlib import Path

import onnx

from stream.manifest import Manifest, read_manifest, sha256, write_manifest


def save_graph(directory: Path, name: str, graph: onnx.ModelProto) -> None:
    """Replace a graph of the model directory, such as step.onnx."""
    manifest = read_manifest(directory)  # before the change, because it compares the hashes
    onnx.save(graph, directory / name)
    fields = {name: getattr(manifest, name) for name in manifest.__struct_fields__}
    fields["files"] = {**manifest.files, name: sha256(directory / name)}
    write_manifest(directory, Manifest(**fields))
