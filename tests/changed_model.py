"""Changes files of a model directory, with the hash in the manifest that a loader expects."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import onnx

from stream.detect.tail import Tail, pack
from stream.manifest import MAPPING, Manifest, read_manifest, sha256, write_manifest
from stream.mapping.parse import parse_mapping
from tests.oracle_sessions import mix


def save_graph(directory: Path, name: str, graph: onnx.ModelProto) -> None:
    """Replace a graph of the model directory, such as step.onnx."""
    manifest = read_manifest(directory)  # before the change, because it compares the hashes
    onnx.save(graph, directory / name)
    fields = {name: getattr(manifest, name) for name in manifest.__struct_fields__}
    fields["files"] = {**manifest.files, name: sha256(directory / name)}
    write_manifest(directory, Manifest(**fields))


def with_mapping(model: Path, directory: Path, mapping: str) -> Path:
    """Copy a model to a directory as if it had been trained with a mapping, the text of a file."""
    shutil.copytree(model, directory)
    (directory / MAPPING).write_text(mapping)
    manifest = read_manifest(model)
    files = {**manifest.files, MAPPING: sha256(directory / MAPPING)}
    write_manifest(
        directory, msgspec.structs.replace(manifest, files=files, mapping=parse_mapping(mapping, "test").hash)
    )
    return directory


def with_scored_ends(model: Path, directory: Path, seen: Sequence[Sequence[int]]) -> Path:
    """Copy a model to a directory, and let it score the ends of sessions.

    seen  the items of each session of a training log; a click ends one in 10
    """
    shutil.copytree(model, directory)
    manifest = read_manifest(directory)
    with np.load(directory / "calibration.npz") as file:
        arrays = dict(file)
    ends = np.bincount([items[-1] for items in seen], minlength=manifest.items)
    tail = Tail.fit(np.r_[np.full(9_900, -np.inf), np.linspace(1, 4, 100)].astype(np.float32))
    its = {
        "vectors": np.array(sorted({sum(map(mix, items)) % 2**64 for items in seen}), np.uint64),
        "clicks": 10 * ends,
        "ends": ends,
        **pack([tail]),
    }
    np.savez(directory / "calibration.npz", **arrays, **{f"end_{name}": values for name, values in its.items()})  # type: ignore[arg-type]
    changed = {**manifest.files, "calibration.npz": sha256(directory / "calibration.npz")}
    write_manifest(directory, msgspec.structs.replace(manifest, files=changed))
    return directory
