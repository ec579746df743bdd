"""A checkpoint file --> a flat state dict. Nothing in a checkpoint is ever executed.

.safetensors | .pt, .pth --read--> maybe nested --choose--> maybe prefixed --strip--> {"conv1.weight": tensor, …}
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bundle.bundle import sha256_of
from export.errors import ExportError

METADATA_KEY = "aaserve"  # what python -m training writes into a safetensors header
NESTED = ("state_dict", "model_state_dict", "model", "state_dict_ema", "ema")
PREFIXES = ("module.", "model.", "_orig_mod.")  # of DataParallel, of Lightning and the like, of torch.compile


@dataclass(frozen=True)
class Checkpoint:
    """Weights, the sha256 of their file and what the trainer wrote beside them (empty for others' checkpoints)."""

    path: Path
    sha256: str
    weights: dict[str, Tensor]
    metadata: dict[str, Any]


def read_checkpoint(path: Path, *, nested_key: str | None = None) -> Checkpoint:
    """Read `.safetensors`, or `.pt`/`.pth` that hold tensors and plain values only.

    Args:
        nested_key: which of several state dicts in the file, such as "state_dict_ema".

    Raises:
        ExportError: no such file, not one of these, a pickle that wants to run code, or a choice that is not clear.
    """
    if not path.is_file():
        raise ExportError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        content, metadata = _read_safetensors(path)
    elif path.suffix in (".pt", ".pth"):
        content, metadata = _read_pickle(path), {}
    else:
        raise ExportError(f"{path}: expected .safetensors, .pt or .pth")
    weights = _strip_prefixes(_choose(content, nested_key, path))
    return Checkpoint(path, sha256_of(path.read_bytes()), weights, metadata)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (no mapping)
            metadata = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
    except (SafetensorError, ValueError, RecursionError) as error:
        raise ExportError(f"{path}: not a readable safetensors file") from error
    if not isinstance(metadata, dict):
        raise ExportError(f"{path}: expected a JSON object as {METADATA_KEY!r} in its header, found something else")
    return weights, metadata


def _read_pickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's unpickler raises nearly anything on damaged bytes
        raise ExportError(
            f"{path}: not a file of plain tensors; it is damaged or would run code when loaded, which is refused. "
            "Where it was made, save the state dict alone: safetensors.torch.save_file(network.state_dict(), FILE)"
        ) from error


def _choose(content: Any, nested_key: str | None, path: Path) -> dict[str, Tensor]:
    """The one state dict in a file, or the one that was asked for."""
    if nested_key is not None:
        if not isinstance(content, Mapping) or not _is_state_dict(content.get(nested_key)):
            raise ExportError(f"{path}: expected a state dict under {nested_key!r}, found none")
        return dict(content[nested_key])
    if _is_state_dict(content):
        return dict(content)
    found = [key for key in NESTED if isinstance(content, Mapping) and _is_state_dict(content.get(key))]
    if len(found) != 1:
        raise ExportError(
            f"{path}: expected a state dict (names to tensors), plain or under {', '.join(NESTED)}; "
            + (f"found {', '.join(found)}: choose one with --nested-key" if found else "found none")
        )
    return dict(content[found[0]])


def _is_state_dict(content: Any) -> bool:
    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items())
    )


def _strip_prefixes(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take off wrappers' prefixes that every name has, several layers of them."""
    while prefix := next((prefix for prefix in PREFIXES if all(key.startswith(prefix) for key in weights)), None):
        weights = {key.removeprefix(prefix): value for key, value in weights.items()}
    return weights
