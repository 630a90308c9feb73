"""weights.npz beside a model's graphs: the network as PyTorch had it, to train on from, or to compare the graphs with.

A worker needs no weights: the manifest does not list the file among those it checks, and a model may be deployed
without it. Its hash stands among the manifest's facts, so weights of another model are refused. Arrays, never pickles.
"""

import zipfile
from pathlib import Path

import numpy as np
import torch

from export.dataset.cooccurrence import NEIGHBOURS, Counted, Neighbours
from export.network.mixture import Mixture
from export.network.network import Network, Sizes
from export.network.surprise import SurpriseHead
from stream.errors import ArtifactError
from stream.manifest import read_manifest, sha256

FILE = "weights.npz"


def save_weights(directory: Path, network: Network) -> str:
    """Write every parameter and buffer of the network under its PyTorch name; returns the file's sha256."""
    np.savez(directory / FILE, **{name: value.detach().numpy() for name, value in network.state_dict().items()})
    return sha256(directory / FILE)


def load_network(directory: Path) -> Network:
    """The network that a model directory was converted from, ready for evaluation.

    Raises ArtifactError if the directory is no whole model, has no weights, or those of another model.
    """
    manifest = read_manifest(directory)
    path = directory / FILE
    if not path.is_file():
        raise ArtifactError(f"model {directory}: no {FILE}; it was copied without or trained before there was one")
    if sha256(path) != manifest.training.get(FILE):
        raise ArtifactError(f"model {directory}: {FILE} is not the file it was written with; copy it again")
    try:
        with np.load(path, allow_pickle=False) as file:
            weights = {name: torch.from_numpy(file[name]) for name in file.files}
        events, gaps = len(weights["event_rows"]) - 1, len(weights["gap_rows"])
        hidden = manifest.state[0].shape[0]
        network = Network(Sizes(manifest.items, events, gaps, hidden, manifest.cell))
        known = weights["item_rows"][:-1], weights["item_bias"][:-1]
        none = np.zeros((manifest.items + 2, NEIGHBOURS))
        empty = Neighbours(none.astype(np.int32), none.astype(np.float32), none[:, 0].astype(np.float32))
        network.mixture = Mixture(Counted(empty, empty, np.zeros(manifest.items)))
        network.surprise = SurpriseHead(weights["surprise.cluster"][:-1].numpy(), *known, new_items=1)
        network.load_state_dict(weights)
    except (KeyError, ValueError, RuntimeError, zipfile.BadZipFile) as exc:
        raise ArtifactError(f"model {directory}: {FILE} does not hold this Eddy's network; train it again") from exc
    return network.eval()
