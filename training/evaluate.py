"""Accuracy as a user would see it: every picture goes through the bundle's own preprocessing, as encoded bytes."""

import io
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from bundle.preprocessing import Preprocessing, preprocess


def preprocessed(images: Iterable[NDArray[np.uint8]], preprocessing: Preprocessing) -> Tensor:
    """Encode each (H, W, 3) picture as PNG and preprocess those bytes as the service does; (N, 3, H, W)."""
    return torch.from_numpy(np.stack([preprocess(png, preprocessing, max_pixels=10**8) for png in as_png(images)]))


def accuracy(network: nn.Module, inputs: Tensor, labels: Tensor, *, top_k: int = 1, batch_size: int = 250) -> float:
    """Share of the rows of (N, 3, H, W) whose label is among the `top_k` largest logits."""
    network.eval()
    hits = 0
    with torch.inference_mode():
        for batch, wanted in zip(inputs.split(batch_size), labels.split(batch_size), strict=True):
            hits += int((network(batch).topk(top_k).indices == wanted[:, None]).sum())
    return hits / len(labels)


def as_png(images: Iterable[NDArray[np.uint8]]) -> Iterator[bytes]:
    """Each (H, W, 3) picture as the bytes of a PNG file."""
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG", compress_level=0)
        yield file.getvalue()
