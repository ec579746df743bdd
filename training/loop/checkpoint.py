"""What a run leaves behind: `last.pt` to resume from, `model.safetensors` to export from."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

METADATA_KEY = "aaserve"  # export/sources/checkpoint.py reads it
STATE_KEYS = {  # keys of what `training.loop.run.Run.state` returns
    "recipe",
    "data",
    "machine",
    "step",
    "loss",
    "seconds",
    "history",
    "network",
    "average",
    "optimiser",
}


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write the whole state of a run. If that fails, the previous file stays."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def load_state(path: Path) -> dict[str, Any]:
    """Read what `save_state` wrote, tensors and plain values only.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch's unpickler raises almost any exception on damaged bytes
        raise ValueError(f"{path}: not a checkpoint of python -m training, or damaged") from error
    if not isinstance(state, dict) or STATE_KEYS - set(state):
        raise ValueError(f"{path}: not a checkpoint of python -m training; --resume needs the last.pt of a run")
    return state


def save_weights(path: Path, network: nn.Module, metadata: dict[str, Any]) -> None:
    """Write the weights as safetensors, with `metadata` (JSON) under the key "aaserve"."""
    weights = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    partial = path.with_suffix(".partial")
    save_file(weights, partial, metadata={METADATA_KEY: json.dumps(metadata, sort_keys=True)})
    partial.replace(path)
