"""A checkpoint file --> weights in a network. Nothing in a checkpoint is ever executed."""

import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from bundle.bundle import sha256_of
from export.errors import ExportError

METADATA_KEY = "aaserve"  # what python -m training writes into a safetensors header
LISTED_KEYS = 10


@dataclass(frozen=True)
class Checkpoint:
    """Weights, the sha256 of their file and what the trainer wrote beside them (empty for others' checkpoints)."""

    path: Path
    sha256: str
    weights: dict[str, Tensor]
    metadata: dict[str, Any]


def read_checkpoint(path: Path) -> Checkpoint:
    """Read `.safetensors`, or `.pt`/`.pth` that hold a plain state dict.

    Raises:
        ExportError: no such file, not one of these, or a pickle that wants to run code.
    """
    if not path.is_file():
        raise ExportError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        weights, metadata = _read_safetensors(path)
    elif path.suffix in (".pt", ".pth"):
        weights, metadata = _read_pickle(path), {}
    else:
        raise ExportError(f"{path}: expected .safetensors, .pt or .pth")
    return Checkpoint(path, sha256_of(path.read_bytes()), weights, metadata)


def load_weights(network: nn.Module, checkpoint: Checkpoint) -> None:
    """Put the weights into the network, every one of them.

    Raises:
        ExportError: missing, unexpected or mis-shaped keys; the message lists the first ten of each.
    """
    wanted = network.state_dict()
    missing = [key for key in wanted if key not in checkpoint.weights]
    unexpected = [key for key in checkpoint.weights if key not in wanted]
    misshapen = [
        f"{key} (expected {tuple(wanted[key].shape)}, found {tuple(value.shape)})"
        for key, value in checkpoint.weights.items()
        if key in wanted and wanted[key].shape != value.shape
    ]
    problems = [
        f"{len(keys)} {kind}: {', '.join(keys[:LISTED_KEYS])}{', …' if len(keys) > LISTED_KEYS else ''}"
        for kind, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
        if keys
    ]
    if problems:
        raise ExportError(f"{checkpoint.path}: does not fit the network: {'; '.join(problems)}")
    network.load_state_dict(checkpoint.weights)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (no mapping)
            return weights, json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
    except (SafetensorError, ValueError) as error:
        raise ExportError(f"{path}: not a readable safetensors file") from error


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ExportError(
            f"{path}: not a file of plain tensors; it is damaged or would run code when loaded, which is refused. "
            "Where it was made, save the state dict alone: safetensors.torch.save_file(network.state_dict(), FILE)"
        ) from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ExportError(f"{path}: expected a state dict (names to tensors)")
    return content
