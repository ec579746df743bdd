"""The reference for a graph's answers: a PyTorch network in float64, or the unchanged ONNX file."""

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from aaserve.bundle.preprocessing import Preprocessing
from aaserve.export.errors import ExportError, first_line
from aaserve.models.attention.maps import attention_maps

ROUNDINGS = 4  # networks with differently rounded weights; a single run underestimates the error up to 27 times
BATCH = 2  # rows, in float64 and for attention maps: in PyTorch a large batch would fill the memory

Maps = dict[str, NDArray[np.floating]]


class Original(Protocol):
    """Answers pictures, uint8 (N, H, W, 3).

    Attributes:
        exact, inexact: names of its answers, and of its less exact answers, in messages.
    """

    exact: str
    inexact: str

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.floating]:
        """(N, num_classes)."""

    def maps(self, pixels: NDArray[np.uint8]) -> Maps:
        """The attention maps (N, heads, queries, keys) by layer."""

    def float32_errors(self, pixels: NDArray[np.uint8], *, with_maps: bool) -> tuple[float, float]:
        """The errors of its own answers in float32: of logits and of maps."""


class PyTorch:
    """A network in float64, with pixels that are normalised in float64.

    If the network's code requires float32, it answers in float32, and `report` gets a warning.
    """

    exact = "PyTorch's in float64"
    inexact = "PyTorch's own in float32"

    def __init__(
        self, network: nn.Module, preprocessing: Preprocessing, report: Callable[[str], None] = lambda text: None
    ) -> None:
        self._network, self._preprocessing = network, preprocessing
        try:
            self._exact = copy.deepcopy(network).double().eval()
            _run(self._exact, _inputs(np.zeros((1, *preprocessing.crop, 3), np.uint8), preprocessing, torch.float64))
        except Exception as error:  # a user's network may raise any exception
            report(
                f"warning: the network does not compute in float64 ({first_line(error)}); "
                "its float32 answers are compared"
            )
            self._exact, self.exact = network, "PyTorch's in float32"
            self.inexact = "PyTorch's own with weights rounded otherwise"

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.floating]:
        """A few pictures at a time."""
        return logits_of(self._exact, pixels, self._preprocessing)

    def maps(self, pixels: NDArray[np.uint8]) -> Maps:
        return self._maps(self._exact, pixels)

    def float32_errors(self, pixels: NDArray[np.uint8], *, with_maps: bool) -> tuple[float, float]:
        """The largest error of several runs with differently rounded weights."""
        expected = self.logits(pixels)
        error, map_error = 0.0, 0.0
        for seed in range(ROUNDINGS + 1):
            rounded = _rounded_otherwise(self._network, seed) if seed else self._network
            error = max(error, difference(logits_of(rounded, pixels, self._preprocessing), expected))
            for picture in pixels[:, np.newaxis] if with_maps else ():
                map_error = max(map_error, map_difference(self._maps(rounded, picture), self.maps(picture)))
        return error, map_error

    def _maps(self, network: nn.Module, pixels: NDArray[np.uint8]) -> Maps:
        with torch.inference_mode():
            found = attention_maps(network, _inputs(pixels, self._preprocessing, _dtype(network)))
        return {layer: maps.numpy() for layer, maps in found.items()}


def in_batches(pixels: NDArray[np.uint8], size: int) -> Iterator[NDArray[np.uint8]]:
    """Yield `size` of them at a time."""
    for start in range(0, len(pixels), size):
        yield pixels[start : start + size]


def difference(found: NDArray[np.floating], expected: NDArray[np.floating]) -> float:
    """Largest difference of any logit, as a share of the largest logit or of 1."""
    return float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))


def map_difference(found: Mapping[str, NDArray[np.floating]], expected: Mapping[str, NDArray[np.floating]]) -> float:
    """Largest difference of any weight in any map."""
    if list(found) != list(expected):
        raise ExportError(f"parity: expected attention maps of {list(expected)}, found {list(found)}")
    if not all(np.isfinite(maps).all() for maps in found.values()):
        raise ExportError("parity: attention maps are not finite")
    return max(float(np.abs(maps - expected[layer]).max()) for layer, maps in found.items())


def logits_of(network: nn.Module, pixels: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.floating]:
    """PyTorch's logits (N, num_classes), a few pictures at a time, in the precision of `network`."""
    rows = (_inputs(some, preprocessing, _dtype(network)) for some in in_batches(pixels, BATCH))
    return np.concatenate([_run(network, some).numpy() for some in rows])


def _inputs(pixels: NDArray[np.uint8], preprocessing: Preprocessing, dtype: torch.dtype) -> Tensor:
    """Like `bundle.preprocessing.normalise`, in float64 and then rounded to `dtype`: (N, 3, H, W)."""
    scaled = (pixels / 255 - np.array(preprocessing.mean)) / np.array(preprocessing.std)
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(scaled, -1, -3))).to(dtype)


def _run(network: nn.Module, inputs: Tensor) -> Tensor:
    with torch.inference_mode():
        return network(inputs)


def _dtype(network: nn.Module) -> torch.dtype:
    return next(network.parameters(), torch.zeros(())).dtype


def _rounded_otherwise(network: nn.Module, seed: int) -> nn.Module:
    """A copy of `network` with weights that differ by at most one rounding of float32."""
    random = torch.Generator().manual_seed(seed)
    changed = copy.deepcopy(network)
    for weight in changed.state_dict().values():
        if weight.is_floating_point():
            weight.mul_(1 + (2 * torch.rand(weight.shape, generator=random) - 1) * 2**-23)
    return changed
