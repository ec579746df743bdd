"""PyTorch takes seconds to trace a network; tests that export the same network share its trace.

Only `torch.onnx.export` is replaced, so all of our own code runs in every test. A trace is kept in a file named by
everything that it depends on: the network's code, structure and weights, the example input, our sources, and the
versions of the libraries. Workers of pytest share the files, and so does the next run.
"""

import hashlib
import io
import os
import pickle
import re
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import onnx_ir
import torch
from torch import Tensor, nn

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / ".pytest_cache" / "traces"  # git ignores it, and `make clean` removes it
SOURCES = ("bundle", "export", "models")
LIBRARIES = ("torch", "onnx", "onnx-ir", "onnxscript")
LARGEST = 8_000_000  # bytes; larger networks are exported once a run anyway, and would fill the disk


class Traces:
    """`export` replaces torch.onnx.export; `folder` holds the traces."""

    def __init__(self, folder: Path = FOLDER) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._trace = torch.onnx.export
        self._folder = folder
        self._prefix = _digest([*_our_sources(), *(version(name).encode() for name in LIBRARIES)])[:16]
        for path in folder.glob("*.onnx"):
            if not path.name.startswith(self._prefix):  # made from other sources
                path.unlink(missing_ok=True)

    def export(self, network: nn.Module, example: tuple[Tensor, ...], *file: Any, **options: Any) -> Any:
        if file:  # not our exporter's call, but one in a script of a document
            return self._trace(network, example, *file, **options)
        said = re.sub(" at 0x[0-9a-f]+", "", repr(options)).encode()  # a function's address changes with each process
        name = _digest([_pickled(network, example), said, *_code(network)])
        path = self._folder / f"{self._prefix}-{name}.onnx"
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            content = self._trace(network, example, **options).model_proto.SerializeToString()
            if len(content) <= LARGEST:
                unfinished = path.with_suffix(f".{os.getpid()}")
                unfinished.write_bytes(content)
                unfinished.rename(path)  # whole or absent, even if another process writes it too
        return torch.onnx.ONNXProgram(onnx_ir.from_proto(onnx.load_model_from_string(content)), None)


class _Pickler(pickle.Pickler):
    """The same for the same content: PyTorch's own contain addresses, and sets have another order in each process."""

    def reducer_override(self, value: object) -> Any:
        if isinstance(value, Tensor):
            return str, (str(value.dtype), tuple(value.shape), value.detach().numpy().tobytes())
        if isinstance(value, nn.Module):
            made, arguments, state = value.__reduce_ex__(2)[:3]  # type: ignore[misc]
            return made, arguments, {name: _sorted(attribute) for name, attribute in state.items()}  # type: ignore[attr-defined]
        return NotImplemented


def _sorted(attribute: object) -> object:
    return sorted(attribute, key=repr) if isinstance(attribute, set) else attribute


def _pickled(*values: object) -> bytes:
    file = io.BytesIO()
    _Pickler(file).dump(values)
    return file.getvalue()


def _our_sources() -> Iterable[bytes]:
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield f"{path.relative_to(ROOT)}".encode()
            yield path.read_bytes()


def _code(network: nn.Module) -> Iterable[bytes]:
    """The files that define the network's classes, unless they are PyTorch's: tests have networks of their own."""
    modules = {type(module).__module__ for module in network.modules()}
    for name in sorted(modules):
        if not name.startswith("torch."):
            yield Path(str(sys.modules[name].__file__)).read_bytes()


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()
