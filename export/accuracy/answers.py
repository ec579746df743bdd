"""What the model of a bundle answers to pictures that are read as the service reads them. Needs no torch."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from aaserve.bundle.bundle import Bundle
from aaserve.bundle.manifest import Manifest
from aaserve.export.errors import ExportError, first_line
from aaserve.export.judgement.pictures import read_row

BATCH_SIZE = 8
# Rows of the model's input (B, ...) --> the outputs that the task needs, by name.
Run = Callable[[NDArray[Any]], Mapping[str, NDArray[Any]]]
Pictured = TypeVar("Pictured")  # with a `path`


def on_the_cpu(opened: Bundle) -> Run:
    """The model in ONNX Runtime."""
    manifest = opened.manifest
    session = onnxruntime.InferenceSession(opened.model_path, providers=["CPUExecutionProvider"])
    names = list(manifest.output_names)
    return lambda rows: dict(zip(names, session.run(names, {manifest.input.name: rows}), strict=True))


def in_batches(pictures: Sequence[Pictured], manifest: Manifest) -> list[Sequence[Pictured]]:
    """As many at a time as the model takes, BATCH_SIZE at most."""
    size = manifest.max_batch_size or BATCH_SIZE
    return [pictures[start : start + size] for start in range(0, len(pictures), size)]


def answers(
    run: Run, manifest: Manifest, batches: Iterable[Sequence[Pictured]]
) -> Iterator[tuple[Sequence[Pictured], list[tuple[int, int]], Mapping[str, NDArray[Any]]]]:
    """Yield each batch: the pictures, (width, height) of each as it is seen, and the outputs (B, ...) by name.

    Raises:
        ExportError: a picture does not decode, or the model fails or gives an answer that is not finite.
    """
    with ThreadPoolExecutor() as pool:
        for batch in batches:
            read = list(pool.map(lambda picture: read_row(picture.path, manifest), batch))
            try:
                outputs = run(np.stack([row for row, _ in read]))
            except Exception as error:  # of ONNX Runtime and others, of many kinds
                raise ExportError(f"{batch[0].path}: the model fails on its batch: {first_line(error)}") from error
            for name, values in outputs.items():
                if not np.isfinite(values).all():
                    raise ExportError(f"{batch[0].path}: expected finite {name}, found others in its batch")
            yield batch, [size for _, size in read], outputs
