"""python -m export evaluate BUNDLE DIR: accuracy on pictures whose right answers are known, into the manifest.

    pictures --read like the service--> rows --ONNX Runtime on the CPU--> top-1 and top-5 | average precision

DIR is DIR/LABEL/* for a classifier; for a detector it is as `bundle.coco.instances` has it. Needs no torch.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from aaserve.bundle.bundle import Bundle, open_bundle, replace_manifest
from aaserve.bundle.coco.instances import LAYOUT, check_boxes
from aaserve.bundle.errors import BundleError
from aaserve.bundle.manifest import Accuracy, DetectionAccuracy, Manifest
from aaserve.export.accuracy.answers import in_batches, on_the_cpu
from aaserve.export.accuracy.boxes import SPLITS, TEST_SPLITS, find_annotated, score_boxes
from aaserve.export.accuracy.top_k import find_labelled, top_k
from aaserve.export.errors import ExportError
from aaserve.export.summary import accuracy_text

MEASURED = "python -m export evaluate: every picture read as the service reads it, ONNX Runtime on the CPU"


def main(argv: Sequence[str], prog: str = "python -m export evaluate") -> int:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Measure top-1 and top-5, or a detector's average precision, and write them into the manifest.",
    )
    parser.add_argument("bundle", type=Path, help="NAME/VERSION folder")
    parser.add_argument(
        "pictures",
        type=Path,
        help=f"folder of folders of pictures, each named as a label; for a detector, folder with {LAYOUT}",
    )
    parser.add_argument("--split", choices=SPLITS, help="of a detector: which instances file (default: val, else test)")
    parser.add_argument("--dataset", help="what the pictures are, for the manifest (default: name of the folder)")
    parser.add_argument("--dry-run", action="store_true", help="print the accuracy and leave the manifest as it is")
    arguments = parser.parse_args(argv)
    console = Console(stderr=True, highlight=False)
    try:
        opened = open_bundle(arguments.bundle.resolve())
        manifest = opened.manifest

        def report(text: str) -> None:
            console.print(text, markup=False, soft_wrap=True)

        pictures, name = _find(arguments.pictures, arguments.split, manifest, report)
        if not arguments.dry_run:
            replace_manifest(opened.folder, manifest)  # what cannot be written is better known before than after
        batches = track(in_batches(pictures, manifest), "evaluating", console=console)
        accuracy = evaluate(opened, batches, arguments.dataset or name)
        if not arguments.dry_run:
            replace_manifest(opened.folder, manifest.model_copy(update={"accuracy": accuracy}))
    except (BundleError, ExportError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    before = f"; before: {accuracy_text(manifest.accuracy)}" if manifest.accuracy else ""
    print(f"{accuracy_text(accuracy)}{before}")
    return 0


def evaluate(opened: Bundle, batches: Iterable[Sequence[Any]], dataset: str) -> Accuracy | DetectionAccuracy:
    """Let the model of a bundle answer pictures that `_find` found.

    Raises:
        ExportError: a picture does not decode, or the model fails or gives an answer that is not finite.
    """
    if opened.manifest.task != "detection":
        return top_k(opened, batches, dataset, MEASURED)
    score = score_boxes(on_the_cpu(opened), opened.manifest, batches)
    return DetectionAccuracy(dataset=dataset, images=score.images, measured=MEASURED, **score.row())


def _find(
    folder: Path, split: str | None, manifest: Manifest, report: Callable[[str], None]
) -> tuple[Sequence[Any], str]:
    """The labelled or annotated pictures, and what they are called by default."""
    name = folder.resolve().name
    if manifest.task != "detection":
        if split:
            raise ExportError(f"--split: for detectors only, found a bundle of {manifest.task}")
        return find_labelled(folder, manifest.labels, report), name
    names = (split,) if split else (*TEST_SPLITS, "")
    if not (found := find_annotated(folder, names, manifest.labels, report)):
        wanted = f"instances_{split}.json" if split else LAYOUT
        raise ExportError(f"{folder}: expected the annotations of pictures ({wanted}), found none")
    check_boxes(found)
    return found.pictures, f"{name}, {found.file.stem.removeprefix('instances_')}"
