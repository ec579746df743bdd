"""python -m export inspect BUNDLE: a readable summary of a bundle."""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import onnx

from aaserve.bundle.bundle import Bundle, open_bundle
from aaserve.bundle.errors import BundleError
from aaserve.bundle.manifest import (
    Accuracy,
    DetectionAccuracy,
    DetectionLowered,
    DetectionParity,
    Lowered,
    Manifest,
    Parity,
)
from aaserve.bundle.preprocessing import Preprocessing

LABELS_SHOWN = 8


def main(argv: Sequence[str], prog: str = "python -m export inspect") -> int:
    parser = argparse.ArgumentParser(prog=prog, description="Show the content of a bundle.")
    parser.add_argument("bundle", type=Path, help="NAME/VERSION folder")
    parser.add_argument("--json", action="store_true", help="print the manifest, after checking it")
    arguments = parser.parse_args(argv)
    try:
        opened = open_bundle(arguments.bundle.resolve())
    except BundleError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(opened.manifest.model_dump_json(indent=2) if arguments.json else summary(opened))
    return 0


def summary(opened: Bundle) -> str:
    """About twenty lines of text."""
    manifest, spec = opened.manifest, opened.manifest.preprocessing
    graph = onnx.load(opened.model_path, load_external_data=False).graph
    operators = Counter(node.op_type for node in graph.node)
    size = opened.model_path.stat().st_size
    accuracy, cost = manifest.accuracy, manifest.lowered
    stored = "" if manifest.stored_weights == "float32" else f"weights stored as {manifest.stored_weights}, "
    batch = manifest.max_batch_size or "batch"
    rows = {
        "what": f"{manifest.name} version {manifest.version}: {manifest.architecture}, {manifest.precision}",
        "input": f"{manifest.input.name}, {manifest.input.dtype} {manifest.input.layout} ({batch}, "
        f"{', '.join(map(str, manifest.input.shape))})",
        "task": manifest.task,
        "output": ", ".join(
            f"{one.name}, {one.dtype} ({', '.join(map(str, (batch, *one.shape)))})" for one in manifest.outputs
        ),
        **({"attention": _attention(manifest)} if manifest.attention else {}),
        "labels": f"{len(manifest.labels)}: {', '.join(manifest.labels[:LABELS_SHOWN])}"
        + (", …" if len(manifest.labels) > LABELS_SHOWN else ""),
        "pixels": f"{_placed(spec)}, {spec.interpolation}, {spec.colour}, "
        f"EXIF {'applied' if spec.exif_orientation else 'ignored'}, transparent on {spec.background}"
        + (f", JPEG decoded at {spec.jpeg_reducing_gap:g} times that or more" if spec.jpeg_reducing_gap else ""),
        "normalised": f"mean {spec.mean}, std {spec.std}",
        **({"suppression": _suppression(manifest)} if manifest.suppression else {}),
        "parity": f"{_parity(manifest.parity)}, batch {', '.join(map(str, manifest.parity.batch_sizes))}",
        "accuracy": accuracy_text(accuracy) if accuracy else "not measured",
        **({"precision": _cost(cost)} if cost else {}),
        "size": f"{size / 2**20:.1f} MiB, {stored}opset {manifest.opset}",
        "operators": ", ".join(f"{count} {name}" for name, count in operators.most_common()),
        "checkpoint": manifest.provenance.checkpoint_sha256,
        "made by": manifest.provenance.command,
        "with": ", ".join(f"{name} {number}" for name, number in manifest.provenance.versions.items()),
    }
    return "\n".join(f"{name:<12}{text}" for name, text in rows.items())


def _attention(manifest: Manifest) -> str:
    """The attention maps among the outputs, as one line."""
    maps = [f"{one.layer} ({one.num_heads} heads, {one.grid[0]}x{one.grid[1]})" for one in manifest.attention]
    return f"{', '.join(maps)}; shares within {manifest.parity.attention_difference:.1e} of the original's"


def accuracy_text(accuracy: Accuracy | DetectionAccuracy) -> str:
    """Accuracy as one line."""
    if isinstance(accuracy, DetectionAccuracy):
        shares = f"AP {accuracy.ap:.2%}, AP50 {accuracy.ap_50:.2%}, AP75 {accuracy.ap_75:.2%}"
    else:
        shares = f"top-1 {accuracy.top_1:.2%}, top-5 {accuracy.top_5:.2%}"
    return f"{shares} of {accuracy.images:,} pictures ({accuracy.dataset})"


def _placed(spec: Preprocessing) -> str:
    if spec.fit == "crop":
        return f"resize {spec.resize}, centre crop {spec.crop}"
    return f"{spec.fit} {spec.crop}"


def _suppression(manifest: Manifest) -> str:
    most, chosen = manifest.outputs[0].shape[0], manifest.suppression
    return (
        f"up to {most} detections with scores above {chosen.score_threshold:g}; of two of a class that overlap by more "
        f"than {chosen.iou_threshold:g}, the better one"
    )


def _parity(parity: Parity | DetectionParity) -> str:
    """How far the graph is from the original, as one line."""
    if isinstance(parity, DetectionParity):
        return (
            f"{parity.detections:,} detections of {parity.images} pictures as the original's, scores within "
            f"{parity.max_difference:.1e}, IoU {parity.least_iou:.3f} or more"
        )
    return (
        f"logits within {parity.max_difference:.1e} of the original's, top-1 equal on {parity.top_1_agreement:.0%} "
        f"of {parity.images} pictures"
    )


def _cost(cost: Lowered | DetectionLowered) -> str:
    """What fp16 or int8 loses against fp32, as one line."""
    if isinstance(cost, DetectionLowered):
        text = f"{cost.agreement:.2%} of the certain detections agree with fp32 on {cost.judged} pictures"
        if cost.ap is not None:
            text += f", AP {cost.ap:.2%}, fp32 {cost.ap_fp32:.2%}"
    else:
        text = f"top-1 agrees with fp32 on {cost.top_1_agreement:.2%} of {cost.judged} pictures"
        if cost.top_1 is not None:
            text += f", accuracy {cost.top_1:.2%}, fp32 {cost.top_1_fp32:.2%}"
    if cost.quantised:
        operators = ", ".join(f"{count} {name}" for name, count in cost.quantised.items())
        text += f"; calibrated with {cost.calibrated} others; in 8 bits {operators}"
    return text
