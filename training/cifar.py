"""The official `cifar-100-python/` folder (Krizhevsky 2009) --> uint8 images and labels."""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CLASSES = 100
_PICKLED = {  # what the official pickles and those that numpy 2 writes refer to; a pickle could call anything else
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.numeric", "_frombuffer"),
    ("_codecs", "encode"),
}


@dataclass(frozen=True)
class Split:
    """Images uint8 (N, 32, 32, 3), RGB; labels int64 (N,)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


def read_split(folder: Path, split: str) -> Split:
    """Read "train" or "test" of the folder that holds `cifar-100-python/`."""
    content = _unpickle(folder / "cifar-100-python" / split)
    images = content[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Split(np.ascontiguousarray(images), np.asarray(content[b"fine_labels"], dtype=np.int64))


def read_labels(folder: Path) -> list[str]:
    """The 100 fine class names, in the order of their indices."""
    names = _unpickle(folder / "cifar-100-python" / "meta")[b"fine_label_names"]
    return [name.decode() for name in names]


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _PICKLED:
            raise pickle.UnpicklingError(f"refused {module}.{name}: a CIFAR pickle holds arrays, lists and bytes only")
        return super().find_class(module, name)


def _unpickle(path: Path) -> dict[bytes, Any]:
    with path.open("rb") as file:
        return _ArraysOnly(file, encoding="bytes").load()
