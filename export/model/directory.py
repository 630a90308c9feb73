"""Completes a model directory: network, vocabulary and calibration pools -> the files that a worker loads.

    step.onnx  surprise.onnx  score.onnx  tables.bin  items.json  calibration.npz  baselines.npz  weights.npz
    manifest.json (last)

The rule: manifest.json is written last, so a directory without it is not a model.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from msgspec import UNSET

from export.log.log import Vocabulary
from export.model.calibrate import Calibrated
from export.model.graph import BATCH_MULTIPLE
from export.network import weights
from export.network.network import Network
from stream.detect.tail import pack
from stream.manifest import (
    AHEAD,
    FILES,
    FORMAT,
    GRAPHS,
    MAPPING,
    SHORTLIST,
    Ahead,
    Manifest,
    Shortlist,
    sha256,
    write_manifest,
)
from stream.mapping.mapping import MappingFile
from stream.model.external import external_files


class Facts(NamedTuple):
    """Facts in the manifest for people: training settings and times, and quality figures."""

    training: dict[str, Any]
    quality: dict[str, Any]


def write_model(
    directory: Path,
    network: Network,
    vocabulary: Vocabulary,
    calibration: Calibrated,
    extra: tuple[str, ...],
    facts: Facts,
    shortlist: Shortlist | None = None,
    mapping: MappingFile | None = None,
    ahead: Ahead | None = None,
) -> Manifest:
    """Write items, calibration, weights and, last, the manifest, into a directory that already has the graphs.

    calibration  what the detector compares clicks with
    extra      names of further files in the directory that belong to the model
    shortlist  what the directory's shortlist.onnx is, if it has one
    ahead      what the directory's ahead.onnx predicts, if it has one
    mapping    how the training log was read; a copy of the file becomes part of the model
    """
    if mapping is not None:
        (directory / MAPPING).write_text(mapping.text, encoding="utf-8")
        extra = (*extra, MAPPING)
    (directory / "items.json").write_text(json.dumps(vocabulary.items, ensure_ascii=False, separators=(",", ":")))
    write_calibration(directory, calibration)
    graphs = (*GRAPHS, *(() if shortlist is None else (SHORTLIST,)), *(() if ahead is None else (AHEAD,)))
    tables = sorted(set().union(*(external_files(directory / graph) for graph in graphs)))
    name, version = name_and_version(directory)
    manifest = Manifest(
        format=FORMAT,
        name=name,
        version=version,
        cell=network.cell.name,
        state=network.state,
        event_types=vocabulary.event_types,
        gap_edges_ms=vocabulary.gap_edges_ms,
        items=len(vocabulary.items),
        batch_multiple=BATCH_MULTIPLE,
        calibration=tuple(calibration.pools),
        files={name: sha256(directory / name) for name in (*FILES, *graphs, *tables, *extra)},
        training={**facts.training, weights.FILE: weights.save_weights(directory, network)},
        quality=facts.quality,
        shortlist=UNSET if shortlist is None else shortlist,
        ahead=UNSET if ahead is None else ahead,
        mapping=UNSET if mapping is None else mapping.mapping.hash,
    )
    write_manifest(directory, manifest)
    return manifest


def write_calibration(directory: Path, calibration: Calibrated) -> None:
    """Write calibration.npz. The manifest has its hash and the names of the pools."""
    tails = [*calibration.pools.values(), *calibration.behaviour.tails()]
    arrays: dict[str, Any] = {**pack(tails), "category": calibration.category.astype(np.int32)}
    if calibration.ends is not None:
        arrays |= calibration.ends.arrays()
    np.savez(directory / "calibration.npz", **arrays)


def name_and_version(directory: Path) -> tuple[str, str]:
    """NAME and VERSION of a path .../NAME/VERSION, which may be relative."""
    whole = directory.absolute()
    return whole.parent.name, whole.name
