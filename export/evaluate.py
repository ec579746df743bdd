"""python -m export evaluate BUNDLE DIR: top-1 and top-5 on labelled pictures, DIR/LABEL/*, into the manifest.

    pictures --read like the service--> rows --ONNX Runtime on the CPU--> ranks of the right classes

Needs no torch.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from aaserve.bundle.bundle import Bundle, open_bundle, replace_manifest
from aaserve.bundle.errors import BundleError, ImageError
from aaserve.bundle.manifest import Accuracy
from aaserve.bundle.model_input import read_input
from aaserve.export.errors import ExportError
from aaserve.export.judgement.pictures import MAX_PIXELS
from aaserve.export.judgement.samples import BATCH_SIZE, Sample, find_samples

TOP = 5


def main(argv: Sequence[str], prog: str = "python -m export evaluate") -> int:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Measure top-1 and top-5 on labelled pictures, and write them into the manifest.",
    )
    parser.add_argument("bundle", type=Path, help="NAME/VERSION folder")
    parser.add_argument("pictures", type=Path, help="folder with a folder of pictures per label")
    parser.add_argument("--dataset", help="what the pictures are, for the manifest (default: name of the folder)")
    parser.add_argument("--dry-run", action="store_true", help="print the accuracy and leave the manifest as it is")
    arguments = parser.parse_args(argv)
    console = Console(stderr=True, highlight=False)
    try:
        opened = open_bundle(arguments.bundle.resolve())
        manifest = opened.manifest

        def report(text: str) -> None:
            console.print(text, markup=False, soft_wrap=True)

        samples = find_samples(arguments.pictures, manifest.labels, report)
        if any(sample.class_index is None for sample in samples):
            raise ExportError(f"{arguments.pictures}: expected folders named as labels, found pictures without one")
        dataset = arguments.dataset or arguments.pictures.resolve().name
        if not arguments.dry_run:
            replace_manifest(opened.folder, manifest)  # find out before the evaluation if it cannot be written
        batches = _in_batches(samples, manifest.max_batch_size or BATCH_SIZE)
        accuracy = evaluate(opened, track(batches, "evaluating", console=console), dataset)
        if not arguments.dry_run:
            replace_manifest(opened.folder, manifest.model_copy(update={"accuracy": accuracy}))
    except (BundleError, ExportError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    before = f"; before: {told(manifest.accuracy)}" if manifest.accuracy else ""
    print(f"{told(accuracy)}{before}")
    return 0


def told(accuracy: Accuracy) -> str:
    return (
        f"top-1 {accuracy.top_1:.2%}, top-5 {accuracy.top_5:.2%} of {accuracy.images:,} pictures ({accuracy.dataset})"
    )


def evaluate(opened: Bundle, batches: Iterable[Sequence[Sample]], dataset: str) -> Accuracy:
    """Classify labelled pictures with the model of a bundle.

    Raises:
        ExportError: a picture does not decode, or the model fails or gives an answer that is not finite.
    """
    manifest = opened.manifest
    session = onnxruntime.InferenceSession(opened.model_path, providers=["CPUExecutionProvider"])
    ranks: list[int] = []
    with ThreadPoolExecutor() as pool:
        for batch in batches:
            rows = np.stack(list(pool.map(lambda sample: _read(sample.path, opened), batch)))
            try:
                [logits] = session.run([manifest.outputs[0].name], {manifest.input.name: rows})
            except Exception as error:  # ONNX Runtime raises many types
                raise ExportError(
                    f"{batch[0].path}: the model fails on its batch: {str(error).splitlines()[0]}"
                ) from error
            if not np.isfinite(logits).all():
                raise ExportError(f"{batch[0].path}: expected finite logits, found others in its batch")
            ranks += [_rank(row, sample.class_index) for row, sample in zip(logits, batch, strict=True)]
    found = np.array(ranks)
    return Accuracy(
        dataset=dataset,
        images=len(found),
        top_1=float((found < 1).mean()),
        top_5=float((found < TOP).mean()),
        measured="python -m export evaluate: every picture read as the service reads it, ONNX Runtime on the CPU",
    )


def _rank(logits: NDArray[np.float32], class_index: int) -> int:
    """Number of classes ranked before the right one; ties are ranked as in the service."""
    return int((logits > logits[class_index]).sum() + (logits[:class_index] == logits[class_index]).sum())


def _read(path: Path, opened: Bundle) -> NDArray[Any]:
    try:
        return read_input(path.read_bytes(), opened.manifest, max_pixels=MAX_PIXELS)
    except ImageError as error:
        raise ExportError(f"{path}: {error}") from error
    except OSError as error:
        raise ExportError(f"{path}: expected a readable file, found: {error.strerror or error}") from error


def _in_batches(samples: Sequence[Sample], size: int) -> list[Sequence[Sample]]:
    return [samples[start : start + size] for start in range(0, len(samples), size)]
