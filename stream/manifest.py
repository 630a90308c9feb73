"""manifest.json: describes a model directory, with a checksum of each file.

A model directory has step.onnx, surprise.onnx, score.onnx, items.json, calibration.npz, any other files that the
manifest lists, and manifest.json itself. A model of 10,000 items or more can also have shortlist.onnx, and one that
predicts what a user does next has ahead.onnx. The engine does not interpret the state: the manifest lists its tensors
with shape and dtype.
"""

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from stream.errors import ArtifactError

FORMAT = 3

MOST_BYTES = 16 << 20
"""Of manifest.json. A normal one has a few thousand."""

MOST_ITEMS = 10_000_000
LARGEST_STATE = 1_000_000
"""Most elements of all state tensors of one user."""

DTYPES = ("float16", "float32", "float64", "int8", "int16", "int32", "int64")
"""What a state tensor may consist of."""

GRAPHS = ("step.onnx", "surprise.onnx", "score.onnx")
FILES = (*GRAPHS, "items.json", "calibration.npz")

MAPPING = "mapping.toml"
"""The copy of the mapping file by which the training log was read, if the manifest has a `mapping`."""

SHORTLIST = "shortlist.onnx"
"""The graph that makes the lists on a CPU instead of score.onnx, if the manifest has a `shortlist`."""


PURCHASE = "purchase"
"""The event type of a purchase, if the manifest names no other one."""

AHEAD = "ahead.onnx"
"""The graph that predicts what a user does next, if the manifest has an `ahead`."""


class Tensor(Struct, frozen=True):
    """One state tensor of one user; `shape` has no batch dimension."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"


class Shortlist(Struct, frozen=True):
    """How shortlist.onnx was chosen; for information only.

    ranked  the items that the network ranks, those with the most clicks
    lost    loss of recall@20 on held-out clicks, as a share of the recall of score.onnx; below 0 is a gain
    judged  count of these clicks; 0 = not measured
    """

    ranked: int
    lost: float
    judged: int


class Ahead(Struct, frozen=True):
    """What ahead.onnx predicts, beside the next event and leaving.

    returns  whether a user comes back within 7 days: the training log was long enough
    clicks   count of clicks on which it was fitted; for information only
    weights  of its networks beside a table of event types, for each output; for information only
    intent   the event type whether one of which follows in the session; None = it does not predict one
    """

    returns: bool
    clicks: int
    weights: dict[str, float]
    intent: str | None = None


class Manifest(Struct, frozen=True):
    """The fields of manifest.json.

    state           the tensors of one user's state
    event_types     index -> name; an unknown type has the index len(event_types)
    gap_edges_ms    ascending; bucket 0 is the user's first click, every other click has bucket
                    1 + searchsorted(edges, gap, "right")
    batch_multiple  the batch size of all graphs must be a multiple of this: with fewer rows the runtime adds in a
                    different order, so that the results differ in the last bits
    calibration     names of the pools, in the order of the arrays in calibration.npz
    files           file name -> sha256
    training        period, clicks, settings, seed ...; for information only
    quality         metrics at the end of the training; for information only
    shortlist       of a catalogue of 10,000 items or more: the model has shortlist.onnx
    ahead           of a model that predicts what a user does next: the model has ahead.onnx
    mapping         hash of the mapping by which the training log was read: the model has mapping.toml
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
    shortlist: Shortlist | UnsetType = UNSET
    ahead: Ahead | UnsetType = UNSET
    mapping: str | UnsetType = UNSET

    @property
    def label(self) -> str:
        """NAME/VERSION, as in the `model` field of the output events."""
        return f"{self.name}/{self.version}"

    @property
    def purchase(self) -> str:
        """The event type whose clicks make the value of a session: that of the intent, if the model predicts one."""
        intent = None if self.ahead is UNSET else self.ahead.intent
        return intent or PURCHASE

    @property
    def graphs(self) -> tuple[str, ...]:
        """The file names of all graphs."""
        shortlist = () if self.shortlist is UNSET else (SHORTLIST,)
        return (*GRAPHS, *shortlist, *(() if self.ahead is UNSET else (AHEAD,)))

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
    if directory.is_file():
        raise ArtifactError(f"model {directory}: a file, and no directory; give the directory that `eddy train` wrote")
    if not directory.is_dir():
        out = directory if len(directory.parts) > 1 else directory / "1"
        raise ArtifactError(f"model {directory}: no such directory; make it with `eddy train LOG --out {out}`")
    path = directory / "manifest.json"
    if not path.is_file():  # a FIFO is none, and reading it would wait for ever
        versions = sorted(str(found.parent) for found in directory.glob("*/manifest.json"))
        hint = (
            f"give one of {', '.join(versions)}"
            if versions
            else "is this a directory of `eddy train`, and has it ended?"
        )
        raise ArtifactError(f"model {directory}: no manifest.json; {hint}")
    if path.stat().st_size > MOST_BYTES:
        raise ArtifactError(f"model {directory}: manifest.json is larger than {MOST_BYTES:,} bytes; train it again")
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise ArtifactError(
            f"model {directory}: manifest.json is not Eddy's format ({exc}); copy the whole directory again, "
            "or train it again"
        ) from exc
    if manifest.format != FORMAT:
        raise ArtifactError(
            f"model {directory}: it has format {manifest.format}, but this Eddy reads format {FORMAT}; train it again "
            "or upgrade Eddy"
        )
    for field, wrong, must in _checks(manifest):
        if wrong:
            raise ArtifactError(f"model {directory}: the manifest's {field} must be {must}; train it again")
    copied = () if manifest.mapping is UNSET else (MAPPING,)
    for name in sorted({*FILES, *manifest.graphs, *copied, *manifest.files}):
        if not (directory / name).is_file():
            raise ArtifactError(f"model {directory}: {name} is missing; copy the whole directory again")
        if sha256(directory / name) != manifest.files.get(name):
            raise ArtifactError(
                f"model {directory}: {name} is not the file that was written; copy the whole directory again"
            )
    return manifest


def _checks(manifest: Manifest) -> Iterator[tuple[str, bool, str]]:
    """(field, whether it is wrong, what it must be), in an order in which no check needs a later one."""

    def word(text: str, longest: int = 256) -> bool:
        return 0 < len(text) <= longest and text.isprintable()

    names = [tensor.name for tensor in manifest.state]
    size = sum(math.prod(tensor.shape) for tensor in manifest.state)
    edges = manifest.gap_edges_ms
    yield "name and version", not (word(manifest.name) and word(manifest.version)), "words of 1 to 256 characters"
    yield "items", not 1 <= manifest.items <= MOST_ITEMS, f"between 1 and {MOST_ITEMS:,}"
    yield "batch_multiple", not 1 <= manifest.batch_multiple <= 1024, "between 1 and 1024"
    yield "state", not 1 <= len(names) == len(set(names)) <= 64, "1 to 64 tensors with different names"
    yield "state", not all(map(word, names)), "tensors with names of 1 to 256 characters"
    yield "state", any(tensor.dtype not in DTYPES for tensor in manifest.state), f"tensors of {', '.join(DTYPES)}"
    shapes = [tensor.shape for tensor in manifest.state]
    yield "state", any(len(shape) > 8 or min(shape, default=1) < 1 for shape in shapes), "tensors of positive sizes"
    yield "state", size > LARGEST_STATE, f"tensors of at most {LARGEST_STATE:,} elements in all"
    types = manifest.event_types
    yield "event_types", not len(set(types)) == len(types) <= 10_000, "at most 10,000 different names"
    yield "event_types", not all(map(word, types)), "names of 1 to 256 characters"
    yield "gap_edges_ms", len(edges) > 10_000 or list(edges) != sorted({*edges}), "ascending, at most 10,000"
    yield "gap_edges_ms", any(not 0 <= edge < 2**63 for edge in edges), "times of at least 0 ms"
    yield "calibration", not 1 <= len(manifest.calibration) <= 100_000, "1 to 100,000 names of pools"
    yield "files", len(manifest.files) > 1000, "at most 1,000 files"
    plain = all(word(name) and name == Path(name).name and name != ".." for name in manifest.files)
    yield "files", not plain, "names of files in this directory"


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write manifest.json. Call it after all other files are written: a directory without a manifest is no model."""
    encoded = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
    (directory / "manifest.json").write_bytes(encoded + b"\n")
