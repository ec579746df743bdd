"""The official `cifar-100-python/` and `cifar-10-batches-py/` folders (Krizhevsky 2009) --> uint8 images and labels."""

import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_PICKLED = {  # allowed names: those in the official pickles and in pickles of numpy 2; a pickle could call anything
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.numeric", "_frombuffer"),
    ("_codecs", "encode"),
}


@dataclass(frozen=True)
class Form:
    """The layout of one of the two data sets on disk."""

    folder: str
    splits: dict[str, tuple[str, ...]]
    classes_key: bytes
    names_file: str
    names_key: bytes


FORMS = (
    Form("cifar-100-python", {"train": ("train",), "test": ("test",)}, b"fine_labels", "meta", b"fine_label_names"),
    Form(
        "cifar-10-batches-py",
        {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)},
        b"labels",
        "batches.meta",
        b"label_names",
    ),
)


@dataclass(frozen=True)
class Split:
    """Images uint8 (N, 32, 32, 3), RGB; labels int64 (N,)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


def read_split(folder: Path, split: str) -> Split:
    """Read "train" or "test" of the folder with one of the two official data sets.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is not a CIFAR pickle, or would run code.
    """
    form = _form(folder)
    images, labels = [], []
    for file in form.splits[split]:
        content = _unpickle(folder / form.folder / file)
        try:
            images.append(content[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
            labels.append(np.asarray(content[form.classes_key], dtype=np.int64))
        except (KeyError, ValueError, AttributeError, TypeError) as error:
            raise ValueError(f"{folder / form.folder / file}: not a file of CIFAR images") from error
        if len(images[-1]) != len(labels[-1]):
            raise ValueError(
                f"{folder / form.folder / file}: expected a label for each of {len(images[-1])} images, "
                f"found {len(labels[-1])}"
            )
    return Split(np.ascontiguousarray(np.concatenate(images)), np.concatenate(labels))


def read_labels(folder: Path) -> list[str]:
    """The (fine) class names, in the order of their indices.

    Raises:
        FileNotFoundError, ValueError: as `read_split`.
    """
    form = _form(folder)
    names = _unpickle(folder / form.folder / form.names_file).get(form.names_key, ())
    if not names:
        raise ValueError(f"{folder / form.folder / form.names_file}: expected class names, found none")
    return [name.decode() for name in names]


def as_png(image: NDArray[np.uint8]) -> bytes:
    """An (H, W, 3) picture as the bytes of a PNG file."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", compress_level=0)
    return file.getvalue()


def _form(folder: Path) -> Form:
    found = [form for form in FORMS if (folder / form.folder).is_dir()]
    if len(found) != 1:
        expected = " or ".join(f"{form.folder}/" for form in FORMS)
        raise FileNotFoundError(f"{folder}: expected {expected}, found {'both' if found else 'neither'}")
    return found[0]


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _PICKLED:
            raise pickle.UnpicklingError(f"refused {module}.{name}: a CIFAR pickle holds arrays, lists and bytes only")
        return super().find_class(module, name)


def _unpickle(path: Path) -> dict[bytes, Any]:
    with path.open("rb") as file:
        try:
            content = _ArraysOnly(file, encoding="bytes").load()
        # A damaged pickle can raise any exception.
        except Exception as error:
            raise ValueError(f"{path}: not a CIFAR pickle: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: not a CIFAR pickle: expected a dictionary, found {type(content).__name__}")
    return content
