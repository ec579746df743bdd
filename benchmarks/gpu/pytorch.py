"""The same networks in PyTorch, as somebody would run them who serves without ONNX: float16, channels last.

Pixels are normalised on the device, as in our graphs.
"""

import copy
from collections.abc import Callable

import torch

from benchmarks.gpu.bundles import network, pixels


def eager(name: str, device: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """uint8 pixels (B, H, W, 3) on the device to logits there."""
    half = torch.float16 if device == "cuda" else torch.float32
    model = copy.deepcopy(network(name)).to(device, half, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(image: torch.Tensor) -> torch.Tensor:
        x = image.permute(0, 3, 1, 2).to(half)
        return model.network(x * model.scale + model.shift)

    return forward


def call(forward: Callable[[torch.Tensor], torch.Tensor], name: str, rows: int, device: str) -> Callable[[], object]:
    """One call on random pictures."""
    batch = torch.from_numpy(pixels(name, rows)).to(device)

    def once() -> torch.Tensor:
        with torch.inference_mode():
            return forward(batch)

    return once
