"""The answers that a bundle keeps, so that `verify` and the service can check it without PyTorch.

PyTorch's answers to the parity pictures, the graph's answer to the probe --> references.json
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bundle.attention import gaze
from bundle.bundle import sha256_of
from bundle.manifest import AttentionMap
from bundle.preprocessing import Preprocessing, normalise
from bundle.probe import PROBE, probe_pixels
from bundle.references import Reference
from export.graph import Graph
from export.pictures import Picture
from models.attention_maps import attention_maps


def picture_reference(
    network: nn.Module, picture: Picture, preprocessing: Preprocessing, attention: Sequence[AttentionMap]
) -> Reference:
    """PyTorch's answer to one picture."""
    row = torch.from_numpy(normalise(picture.pixels[np.newaxis], preprocessing))  # (1, 3, H, W)
    with torch.inference_mode():
        logits = network(row)[0].tolist()
        maps = attention_maps(network, row) if attention else {}
    return _reference(
        picture.name, picture.sha256, logits, {name: found.numpy() for name, found in maps.items()}, attention
    )


def probe_reference(graph: Graph, preprocessing: Preprocessing, attention: Sequence[AttentionMap]) -> Reference:
    """The graph's own answer to the probe."""
    pixels = probe_pixels(preprocessing.crop)
    row = pixels[np.newaxis]
    return _reference(PROBE, sha256_of(pixels.tobytes()), graph(row)[0].tolist(), graph.maps(row, attention), attention)


def _reference(
    picture: str,
    sha256: str,
    logits: list[float],
    maps: Mapping[str, NDArray[np.floating]],
    attention: Sequence[AttentionMap],
) -> Reference:
    """`maps` are (1, heads, queries, keys), by layer."""
    gazes = {one.layer: tuple(map(tuple, gaze(maps[one.layer][0], one.grid).round(6).tolist())) for one in attention}
    return Reference(picture=picture, sha256=sha256, logits=tuple(round(logit, 6) for logit in logits), attention=gazes)
