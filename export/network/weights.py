"""weights.npz: the PyTorch weights of a model, to start another training from it or to compare its graphs with torch.

A worker does not need the file: the manifest does not list it among the files that a worker checks, so a model can be
deployed without it. The manifest's training facts contain its sha256, so weights of another model are rejected. The
file contains arrays only, never pickles.
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
    """Write all parameters and buffers of the network, by their PyTorch names. Returns the sha256 of the file, hex."""
    np.savez(directory / FILE, **{name: value.detach().numpy() for name, value in network.state_dict().items()})
    return sha256(directory / FILE)


def load_network(directory: Path) -> Network:
    """The PyTorch network of a model directory, in evaluation mode, on the CPU.

    Raises ArtifactError if the directory is not a complete model, has no weights or has the weights of another model.
    """
    manifest = read_manifest(directory)
    path = directory / FILE
    if not path.is_file():
        raise ArtifactError(f"model {directory}: no {FILE}; copy the file too, or train the model again")
    if sha256(path) != manifest.training.get(FILE):
        raise ArtifactError(f"model {directory}: {FILE} is not the file that was written with the model; copy it again")
    try:
        with np.load(path, allow_pickle=False) as file:
            weights = {name: torch.from_numpy(file[name]) for name in file.files}
        events, gaps = len(weights["event_rows"]) - 1, len(weights["gap_rows"])
        hidden, remembered = manifest.state[0].shape[0], manifest.state[-1].shape[0]
        network = Network(Sizes(manifest.items, events, gaps, hidden, manifest.cell))
        known = weights["item_rows"][:-1], weights["item_bias"][:-1]
        none = np.zeros((manifest.items + 2, NEIGHBOURS))
        empty = Neighbours(none.astype(np.int32), none.astype(np.float32), none[:, 0].astype(np.float32))
        network.mixture = Mixture(Counted(empty, empty, np.zeros(manifest.items)), remembered)
        network.surprise = SurpriseHead(weights["surprise.cluster"][:-1].numpy(), *known, new_items=1)
        network.load_state_dict(weights)
    except (KeyError, ValueError, RuntimeError, zipfile.BadZipFile) as exc:
        raise ArtifactError(
            f"model {directory}: {FILE} does not match the network of this Eddy version; train the model again"
        ) from exc
    return network.eval()
