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

from export.arrays import F32
from export.log.log import Vocabulary
from export.model.graph import BATCH_MULTIPLE
from export.network import weights
from export.network.network import Network
from stream.manifest import FILES, FORMAT, GRAPHS, SHORTLIST, Manifest, Shortlist, sha256, write_manifest
from stream.model.external import external_files

Pools = dict[str, F32]


class Facts(NamedTuple):
    """Facts in the manifest for people: training settings and times, and quality figures."""

    training: dict[str, Any]
    quality: dict[str, Any]


def write_model(
    directory: Path,
    network: Network,
    vocabulary: Vocabulary,
    pools: Pools,
    extra: tuple[str, ...],
    facts: Facts,
    shortlist: Shortlist | None = None,
) -> Manifest:
    """Write items, calibration, weights and, last, the manifest, into a directory that already has the graphs.

    pools      name -> ascending surprises (float32, nats), in the order of the manifest
    extra      names of further files in the directory that belong to the model
    shortlist  what the directory's shortlist.onnx is, if it has one
    """
    (directory / "items.json").write_text(json.dumps(vocabulary.items, ensure_ascii=False, separators=(",", ":")))
    arrays: dict[str, Any] = {f"pool_{i}": pool for i, pool in enumerate(pools.values())}
    np.savez(directory / "calibration.npz", **arrays)
    graphs = GRAPHS if shortlist is None else (*GRAPHS, SHORTLIST)
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
        calibration=tuple(pools),
        files={name: sha256(directory / name) for name in (*FILES, *graphs, *tables, *extra)},
        training={**facts.training, weights.FILE: weights.save_weights(directory, network)},
        quality=facts.quality,
        shortlist=UNSET if shortlist is None else shortlist,
    )
    write_manifest(directory, manifest)
    return manifest


def name_and_version(directory: Path) -> tuple[str, str]:
    """NAME and VERSION of a path .../NAME/VERSION, which may be relative."""
    whole = directory.absolute()
    return whole.parent.name, whole.name
