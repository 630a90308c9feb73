"""manifest.json: describes a model directory, with a checksum of each file.

A model directory has step.onnx, score.onnx, items.json, calibration.npz, any other files that the manifest lists, and
manifest.json itself. The engine does not interpret the state: the manifest lists its tensors with shape and dtype.
"""

import hashlib
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from stream.errors import ArtifactError

FORMAT = 1
FILES = ("step.onnx", "score.onnx", "items.json", "calibration.npz")


class Tensor(Struct, frozen=True):
    """One state tensor of one user; `shape` has no batch dimension."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"


class Manifest(Struct, frozen=True):
    """The fields of manifest.json.

    state           the tensors of one user's state
    event_types     index -> name; an unknown type has the index len(event_types)
    gap_edges_ms    ascending; bucket 0 is the user's first click, every other click has bucket
                    1 + searchsorted(edges, gap, "right")
    batch_multiple  the batch size of both graphs must be a multiple of this: with fewer rows the runtime adds in a
                    different order, so that the results differ in the last bits
    calibration     names of the pools, in the order of the arrays in calibration.npz
    files           file name -> sha256
    training        period, clicks, settings, seed ...; for information only
    quality         metrics at the end of the training; for information only
    """

    format: int
    name: str
    version: str
    cell: str
    state: tuple[Tensor, ...]
    event_types: tuple[str, ...]
    gap_edges_ms: tuple[int, ...]
    items: int
    batch_multiple: int
    calibration: tuple[str, ...]
    files: dict[str, str]
    training: dict[str, Any] = {}
    quality: dict[str, Any] = {}

    @property
    def label(self) -> str:
        """NAME/VERSION, as in the `model` field of the output events."""
        return f"{self.name}/{self.version}"

    @property
    def identity(self) -> int:
        """A 64-bit hash of the files. Each state row stores it, to show which model wrote the row."""
        joined = "\n".join(f"{name} {self.files[name]}" for name in sorted(self.files))
        return int.from_bytes(hashlib.sha256(joined.encode()).digest()[:8], "little")


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(directory: Path) -> Manifest:
    """Read the manifest of a model directory and check that no file is missing or changed.

    Raises ArtifactError; its one line names the problem and the remedy.
    """
    if not directory.is_dir():
        raise ArtifactError(f"model {directory}: no such directory; make it with `eddy train LOG --out {directory}`")
    path = directory / "manifest.json"
    if not path.is_file():
        raise ArtifactError(f"model {directory}: no manifest.json; is this a directory written by `eddy train`?")
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise ArtifactError(f"model {directory}: manifest.json is not Eddy's format ({exc}); train it again") from exc
    if manifest.format != FORMAT:
        raise ArtifactError(
            f"model {directory}: it has format {manifest.format}, but this Eddy reads format {FORMAT}; train it again "
            "or upgrade Eddy"
        )
    for name in sorted({*FILES, *manifest.files}):
        if not (directory / name).is_file():
            raise ArtifactError(f"model {directory}: {name} is missing; copy the whole directory again")
        if sha256(directory / name) != manifest.files.get(name):
            raise ArtifactError(
                f"model {directory}: {name} is not the file that was written; copy the whole directory again"
            )
    return manifest


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write manifest.json. Call it after all other files are written: a directory without a manifest is no model."""
    encoded = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    (directory / "manifest.json").write_bytes(encoded + b"\n")
