"""manifest.json: what a model directory promises, and the check that its files are those it was written with.

A directory holds step.onnx, score.onnx, items.json, calibration.npz, whatever else the manifest lists, and
manifest.json itself. The engine treats the state as opaque: which tensors there are, with shape and dtype, stands here.
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
    """One state tensor of one user; `shape` leaves the batch out."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"


class Manifest(Struct, frozen=True):
    """What stands in manifest.json.

    state          the tensors of one user's state
    event_types    index -> name; an unknown type has index len(event_types)
    gap_edges_ms   ascending; bucket 0 = the user's first click, bucket 1 + searchsorted(edges, gap, "right") else
    batch_multiple both graphs take batches of a multiple of this: sums of fewer rows are formed in another order
    calibration    pool names in the order of the arrays in calibration.npz
    files          file name -> sha256
    training       period, clicks, settings, seed ...: facts for people
    quality        figures measured at the end of training: for people
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
        return f"{self.name}/{self.version}"

    @property
    def identity(self) -> int:
        """64 bits that change when any served file does; they mark each state row with the model that wrote it."""
        joined = "\n".join(f"{name} {self.files[name]}" for name in sorted(self.files))
        return int.from_bytes(hashlib.sha256(joined.encode()).digest()[:8], "little")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(directory: Path) -> Manifest:
    """The manifest of a model directory whose files are all there and unchanged.

    Raises ArtifactError with one line that says what is wrong and what to do.
    """
    if not directory.is_dir():
        raise ArtifactError(f"model {directory}: no such directory; train one with `eddy train LOG --out {directory}`")
    path = directory / "manifest.json"
    if not path.is_file():
        raise ArtifactError(f"model {directory}: no manifest.json; is this a directory written by `eddy train`?")
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise ArtifactError(f"model {directory}: manifest.json is not one of Eddy's ({exc}); train it again") from exc
    if manifest.format != FORMAT:
        raise ArtifactError(
            f"model {directory}: format {manifest.format}, this Eddy reads format {FORMAT}; train it again or upgrade"
        )
    for name in sorted({*FILES, *manifest.files}):
        if not (directory / name).is_file():
            raise ArtifactError(f"model {directory}: {name} is missing; copy the whole directory again")
        if sha256(directory / name) != manifest.files.get(name):
            raise ArtifactError(f"model {directory}: {name} is not the file it was written with; copy it again")
    return manifest


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write manifest.json last: a directory without it is not a model."""
    encoded = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    (directory / "manifest.json").write_bytes(encoded + b"\n")
