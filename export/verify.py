"""python -m export verify BUNDLE [--images DIR]: is the bundle complete, and does it give the same answers here?

    checksums, schema --> model loads --> pictures --> the original's stored logits; a detector's own stored detections
                                      --> probe --> the graph's own stored answer

Bundles with attention maps must also have the outputs in the manifest, with the stored maps.

Needs no torch.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from aaserve.bundle.bundle import REFERENCES_FILE, open_bundle, sha256_of
from aaserve.bundle.detections import detections_of
from aaserve.bundle.errors import BundleError, ImageError
from aaserve.bundle.files.shipped import PHOTOGRAPHS
from aaserve.bundle.manifest import Manifest
from aaserve.bundle.model_input import pixels_input, read_input
from aaserve.bundle.references.probe import PROBE, probe_pixels, probe_tolerance
from aaserve.bundle.references.references import (
    Reference,
    attention_difference,
    detection_difference,
    difference,
    read_references,
)
from aaserve.export.errors import ExportError
from aaserve.export.judgement.pictures import MAX_PIXELS

SUM_TOLERANCE = 1e-2  # float16 rounds each weight


def main(argv: Sequence[str], prog: str = "python -m export verify") -> int:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Check a bundle: checksums, schema, and its answers to known pictures.",
    )
    parser.add_argument("bundle", type=Path, help="NAME/VERSION folder")
    parser.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="the pictures (default: --parity-images of the export, or those that ship)",
    )
    arguments = parser.parse_args(argv)
    try:
        opened = open_bundle(arguments.bundle.resolve())
        references = read_references(opened.folder / REFERENCES_FILE)
        session = onnxruntime.InferenceSession(opened.model_path, providers=["CPUExecutionProvider"])
        images = arguments.images or _images_of(opened.manifest)
        worst = max(check(session, opened.manifest, reference, images) for reference in references)
    except (BundleError, ExportError, ImageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(
        f"{arguments.bundle}: whole; {len(references)} pictures answered as when it was made, "
        f"{'scores' if opened.manifest.task == 'detection' else 'logits'} within {worst:.1e}"
    )
    return 0


def _images_of(manifest: Manifest) -> Path:
    """The folder of pictures that the export used."""
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("--parity-images", type=Path, default=PHOTOGRAPHS)
    try:
        return parser.parse_known_args(shlex.split(manifest.provenance.command))[0].parity_images
    except (ValueError, argparse.ArgumentError):  # the recorded command cannot be parsed
        return PHOTOGRAPHS


def check(session: onnxruntime.InferenceSession, manifest: Manifest, reference: Reference, images: Path) -> float:
    """Largest difference of the answer: of any logit, relative to the largest one or 1; of a detector, of any score.

    Raises:
        ExportError: the picture is missing or differs, or the answer or an attention map differs from the stored one.
    """
    is_probe = reference.picture == PROBE
    if is_probe:
        row = pixels_input(probe_pixels(manifest.preprocessing.crop), manifest)
    else:
        row = _read(images / reference.picture, reference, manifest)
    names = [output.name for output in manifest.all_outputs]
    given = [output.name for output in session.get_outputs()]
    if missing := [name for name in names if name not in given]:
        raise ExportError(f"expected the output {missing[0]} in the graph, found {', '.join(given)}")
    answers = session.run(names, {manifest.input.name: row[None]})
    outputs = {name: values[0] for name, values in zip(names, answers, strict=True)}
    if manifest.task == "detection":
        return _check_detections(outputs, manifest, reference)
    worst = _check_logits(outputs[names[0]], manifest, reference, is_probe=is_probe)
    _check_maps({one.layer: outputs[one.output] for one in manifest.attention}, manifest, reference)
    return worst


def _check_detections(outputs: dict[str, NDArray[Any]], manifest: Manifest, reference: Reference) -> float:
    tolerance = probe_tolerance(manifest)
    worst = detection_difference(detections_of(outputs), reference, manifest, tolerance=tolerance)
    if not worst <= tolerance:
        raise ExportError(
            f"{reference.picture}: expected the stored detections, scores within {tolerance:.0e}, found {worst:.1e}"
        )
    return worst


def _check_logits(found: NDArray[np.float32], manifest: Manifest, reference: Reference, *, is_probe: bool) -> float:
    worst = difference(found, reference)
    if is_probe:  # noise looks like nothing: nearly a tie
        tolerance, any_class = probe_tolerance(manifest), True
    else:
        tolerance, any_class = manifest.parity.tolerance, manifest.parity.top_1_agreement < 1
    same_class = any_class or found.argmax() == np.argmax(reference.logits)
    if not worst <= tolerance or not same_class:
        raise ExportError(
            f"{reference.picture}: expected the stored logits within {tolerance:.0e}"
            f"{'' if same_class else ' and the same best class'}, found {worst:.1e}"
        )
    return worst


def _check_maps(maps: dict[str, NDArray[Any]], manifest: Manifest, reference: Reference) -> None:
    tolerance = manifest.parity.attention_tolerance
    if tolerance is None:
        return
    if reference.picture == PROBE:
        tolerance = max(tolerance, probe_tolerance(manifest))
    for attention in manifest.attention:
        found = maps[attention.layer]
        if (
            found.shape != attention.shape
            or not np.abs(found.sum(axis=-1, dtype=np.float64) - 1).max() <= SUM_TOLERANCE
        ):
            raise ExportError(
                f"{reference.picture}: expected {attention.output} {attention.shape}, the shares of each query with "
                f"a sum of 1, found {found.shape} or another sum"
            )
    difference = attention_difference(maps, reference, manifest)
    if not difference <= tolerance:
        raise ExportError(
            f"{reference.picture}: expected heads to look where they did within {tolerance:.0e}, found {difference:.1e}"
        )


def _read(path: Path, reference: Reference, manifest: Manifest) -> NDArray[Any]:
    try:
        image_bytes = path.read_bytes()
    except OSError as error:
        raise ExportError(
            f"{path}: expected a picture that the bundle was compared on, found: {error.strerror or error}; "
            "give their folder with --images; it was --parity-images of the export"
        ) from error
    if sha256_of(image_bytes) != reference.sha256:
        raise ExportError(f"{path}: expected sha256 {reference.sha256}, found {sha256_of(image_bytes)}")
    return read_input(image_bytes, manifest, max_pixels=MAX_PIXELS, reproducible=True)
