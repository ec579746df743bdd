"""A checkpoint file --> a flat state dict. Nothing in a checkpoint is ever executed.

    first bytes --safetensors | torch.save--> content, maybe nested --choose--> {"module.conv1.weight": tensor, …}
                --anything else--> refused, with its file type

The name of the file does not matter. `weights.py`, which knows the network, removes prefixes of names.
"""

import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from aaserve.bundle.bundle import sha256_of
from aaserve.bundle.files.kinds import HEAD_BYTES, kind_of
from aaserve.export.errors import ExportError, first_line

METADATA_KEY = "aaserve"  # what python -m training writes into a safetensors header
NESTED = ("state_dict", "model_state_dict", "model", "state_dict_ema", "ema")  # preferred names
KEYS_SHOWN = 10
_ZIP = b"PK\3\4"
_OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch.save before 1.6: a pickled magic number
_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_HEADER_LIMIT = 100_000_000  # bytes; the limit of safetensors itself
_SAVE = "where it was made, save the weights alone: torch.save(model.state_dict(), FILE)"


@dataclass(frozen=True)
class Checkpoint:
    """Weights, the sha256 of their file, and the trainer's metadata (empty for checkpoints from elsewhere).

    `nested_key` is the key of the weights in the file, None if the file contains nothing else.
    """

    path: Path
    sha256: str
    weights: dict[str, Tensor]
    metadata: dict[str, Any]
    nested_key: str | None


def read_checkpoint(path: Path, *, nested_key: str | None = None) -> Checkpoint:
    """Read a safetensors file, or a file of torch.save with tensors and plain values only.

    Args:
        nested_key: which of several state dicts in the file, such as "state_dict_ema".

    Raises:
        ExportError: no such file, another format, a pickle that would run code, or several state dicts.
    """
    content, metadata = _read(path)
    weights, found_key = _choose(content, nested_key, path)
    return Checkpoint(path, sha256_of(path.read_bytes()), weights, metadata, found_key)


def _read(path: Path) -> tuple[Any, dict[str, Any]]:
    if path.is_dir():
        raise ExportError(f"{path}: expected a checkpoint, found a folder; name the file in it")
    if not path.is_file():
        raise ExportError(f"{path}: {'expected a plain file' if path.exists() else 'no such file'}")
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        raise ExportError(f"{path}: expected a readable file, found: {error.strerror or error}") from error
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < _HEADER_LIMIT:
        return _read_safetensors(path)
    if head.startswith(_ZIP):
        _check_zip(path)
    if head.startswith((_ZIP, _OLD_TORCH)):
        return _read_torch(path), {}
    if head[257:262] == b"ustar" and b"sys_info" in head[:100]:
        raise ExportError(f"{path}: expected a checkpoint, found one of PyTorch before 0.2 (a tar archive); {_SAVE}")
    is_pickle = _PICKLE.match(head)
    raise _no_checkpoint(
        path, f"a plain pickle, which would run code when loaded; {_SAVE}" if is_pickle else kind_of(head)
    )


def _no_checkpoint(path: Path, kind: str) -> ExportError:
    return ExportError(f"{path}: expected a checkpoint (safetensors, or a state dict of torch.save), found {kind}")


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (no mapping)
            text = (file.metadata() or {}).get(METADATA_KEY, "{}")
    except Exception as error:  # a damaged header makes it raise its own exceptions and torch's
        raise ExportError(
            f"{path}: not a readable safetensors file, damaged or cut off: {first_line(error)}"
        ) from error
    try:
        metadata = json.loads(text, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise ExportError(f"{path}: expected JSON as {METADATA_KEY!r} in its header, found something else") from error
    if not isinstance(metadata, dict):
        raise ExportError(f"{path}: expected a JSON object as {METADATA_KEY!r} in its header, found something else")
    return weights, metadata


def _finite(text: str) -> float:
    """Refuse NaN and Infinity, which are not JSON, and 1e999, which Python reads as infinite."""
    if not isfinite(value := float(text)):
        raise ValueError
    return value


def _check_zip(path: Path) -> None:
    """Refuse a zip archive that torch.save did not write."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        raise ExportError(
            f"{path}: not a readable file of torch.save: it is damaged or cut off; fetch it again"
        ) from error
    ends = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in ends:
        kind = f"a TorchScript archive, which holds code; {_SAVE}"
    elif "data.pkl" in ends:
        return
    elif "model.weights.h5" in ends:
        kind = "a Keras model"
    elif any(name.startswith("serialized_exported_program") for name in ends):
        kind = f"a program of torch.export; {_SAVE}"
    elif any(name.endswith(".npy") for name in names):
        kind = "a NumPy archive (.npz)"
    else:
        kind = f"a zip archive of {', '.join(names[:3]) or 'nothing'}{', …' if len(names) > 3 else ''}; unpack it"
    raise _no_checkpoint(path, kind)


def _read_torch(path: Path) -> Any:
    try:
        with path.open("rb") as file:  # given a path, torch.load would check the suffix
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's unpickler raises almost any exception on damaged bytes
        if blocked := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise ExportError(
                f"{path}: holds {blocked[1]}, not only tensors and plain values; it would run code when loaded, which "
                f"is refused; {_SAVE}"
            ) from error
        raise ExportError(
            f"{path}: not a readable file of torch.save: it is damaged or would run code when loaded, which is "
            f"refused; fetch it again, or {_SAVE}"
        ) from error


def _choose(content: Any, nested_key: str | None, path: Path) -> tuple[dict[str, Tensor], str | None]:
    """The only state dict in a file, or the chosen one, and its key if it is nested."""
    if nested_key is not None:
        if not isinstance(content, Mapping) or not _is_state_dict(content.get(nested_key)):
            raise ExportError(f"{path}: expected a state dict under {nested_key!r}, found {_described(content)}")
        return dict(content[nested_key]), nested_key
    if _is_state_dict(content):
        return dict(content), None
    candidates = [key for key, value in content.items() if _is_state_dict(value)] if _is_mapping(content) else []
    found = [key for key in NESTED if key in candidates] or candidates
    if len(found) != 1:
        raise ExportError(
            f"{path}: expected a state dict (names to tensors), "
            + (
                f"found {', '.join(found[:KEYS_SHOWN])}: choose one with --nested-key"
                if found
                else f"found {_described(content)}"
            )
        )
    return dict(content[found[0]]), found[0]


def _is_mapping(content: Any) -> bool:
    return isinstance(content, Mapping) and all(isinstance(key, str) for key in content)


def _is_state_dict(content: Any) -> bool:
    return _is_mapping(content) and len(content) > 0 and all(isinstance(value, Tensor) for value in content.values())


def _described(content: Any) -> str:
    """A short description of a file without a state dict."""
    if not _is_mapping(content):
        return f"a {type(content).__name__}"
    if not content:
        return "nothing"
    kinds = [f"{key[:40]!r} ({type(value).__name__})" for key, value in list(content.items())[:KEYS_SHOWN]]
    return f"{', '.join(kinds)}{', …' if len(content) > KEYS_SHOWN else ''}"
