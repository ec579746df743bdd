"""The answers stored in a bundle, so that `verify` and the service can check it without PyTorch.

The original's answers to the parity pictures, the graph's answer to the probe --> references.json
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from aaserve.bundle.attention import gaze
from aaserve.bundle.bundle import sha256_of
from aaserve.bundle.manifest import AttentionMap
from aaserve.bundle.preprocessing import Preprocessing
from aaserve.bundle.probe import PROBE, probe_pixels
from aaserve.bundle.references import Reference
from aaserve.export.graph.runtime import Graph
from aaserve.export.judgement.originals import Original
from aaserve.export.judgement.pictures import Picture


def picture_references(
    original: Original, pictures: Sequence[Picture], attention: Sequence[AttentionMap]
) -> Iterator[Reference]:
    """The original's answers, which the parity check compares with the graph's."""
    for picture in pictures:
        row = picture.pixels[np.newaxis]
        maps = original.maps(row) if attention else {}
        yield _reference(picture.name, picture.sha256, original.logits(row)[0].tolist(), maps, attention)


def probe_reference(graph: Graph, preprocessing: Preprocessing, attention: Sequence[AttentionMap]) -> Reference:
    """The graph's answer to the probe."""
    pixels = probe_pixels(preprocessing.crop)
    row = pixels[np.newaxis]
    return _reference(PROBE, sha256_of(pixels.tobytes()), graph(row)[0].tolist(), graph.maps(row, attention), attention)


def spread(references: Sequence[Reference]) -> float:
    """Largest difference of any logit between two pictures, relative to the largest logit or 1."""
    logits = np.array([reference.logits for reference in references])  # (N, num_classes)
    return float(np.ptp(logits, axis=0).max() / max(1.0, np.abs(logits).max()))


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
