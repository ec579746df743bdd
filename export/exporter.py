"""One export, from a checkpoint to a bundle that is whole or absent.

checkpoint --load_weights--> network --convert--> ONNX bytes --check_parity--> manifest --write_bundle--> NAME/VERSION/
                                                      `--lower, check_parity--^  (--precision fp16, int8)
"""

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bundle.bundle import MODEL_FILE, REFERENCES_FILE, check_absent, sha256_of, write_bundle
from bundle.manifest import AttentionMap, Input, Manifest, Output, Precision, Provenance
from bundle.preprocessing import Preprocessing
from bundle.references import references_json
from export import fuse
from export.answers import probe_answer, pytorch_answers, spread_of
from export.checkpoint import Checkpoint, read_checkpoint
from export.convert import INPUT_NAME, OPSET, OUTPUT_NAME, convert
from export.errors import ExportError
from export.expose import output_name
from export.graph import Graph
from export.image_size import preprocessing_at
from export.labels import check_labels
from export.lower import find_calibration, lower
from export.normalisation import PixelInput
from export.parity import check_parity
from export.pictures import find_parity_pictures, read_picture
from export.presets import choose_preprocessing
from export.recorded import Recorded, read_recorded
from export.request import Request
from export.speed import Speed
from export.weights import head_classes, load_weights, name_weights
from models import create_model
from models.attention import AttentionAugmentedConv2d
from models.attention_maps import attention_layers
from models.relative_tables import resize_relative_tables

# Untrained networks differ by a tenth and more between photographs and the probe; one that gets RGB in 0..1 with the
# mean and std of 0..255, by 0.0015.
ALIKE = 0.01
VERSIONS_OF = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy", "pillow")


@dataclass(frozen=True)
class Exported:
    """A bundle that was written, the bytes of its files, and below fp32 the speed won on this machine."""

    folder: Path
    manifest: Manifest
    sizes: dict[str, int]
    speed: tuple[Speed, ...]


def export(request: Request, report: Callable[[str], None] = lambda step: None) -> Exported:
    """Write the bundle; `report` is told each step as it begins.

    Raises:
        ExportError, BundleError, ValueError: nothing was written; the message says why.
    """
    _check_fused(request)
    check_absent(request.repository / request.name / request.version, replace=request.replace)
    report(f"reading {request.checkpoint}")
    checkpoint = read_checkpoint(request.checkpoint, nested_key=request.nested_key)
    recorded = read_recorded(checkpoint)
    architecture, labels, preprocessing = _described(request, checkpoint, recorded)
    samples = find_calibration(request, labels, report)
    paths = find_parity_pictures(request.parity_images, report)
    report(f"preprocessing: {preprocessing.model_dump_json()}")

    report(f"building {architecture} for {preprocessing.crop[0]}x{preprocessing.crop[1]} pixels")
    options = recorded.options(architecture)
    outline = _outline(architecture, preprocessing, options, checkpoint)
    weights = _named(request, checkpoint, outline, report)
    _check_classes(request, outline, labels, weights)
    network = create_model(architecture, num_classes=len(labels), image_size=preprocessing.crop, **options).eval()
    if request.image_size:
        weights = resize_relative_tables(weights, network)
    load_weights(network, weights)
    layers = _attention_layers(network, preprocessing) if request.with_attention else {}

    report("tracing and folding the graph")
    height, width = preprocessing.crop
    if request.pixel_input:
        form = Input(name=INPUT_NAME, dtype="uint8", layout="NHWC", shape=(height, width, 3))
        traced, example = PixelInput(network, preprocessing).eval(), torch.zeros(2, height, width, 3, dtype=torch.uint8)
    else:
        form = Input(name=INPUT_NAME, dtype="float32", layout="NCHW", shape=(3, height, width))
        traced, example = network, torch.zeros(2, 3, height, width)
    metadata = {
        "architecture": architecture,
        "labels": "\n".join(labels),
        "preprocessing": preprocessing.model_dump_json(),
        "precision": "fp32",
        "checkpoint_sha256": checkpoint.sha256,
    }
    model = convert(traced, example, metadata, layers, fused=request.fused_attention)
    attention = _described_maps(layers, request.precision)

    batch_sizes = sorted({1, 2, request.max_batch_size})
    report(f"comparing PyTorch and ONNX Runtime at batch {', '.join(map(str, batch_sizes))}")
    pictures = [read_picture(path, preprocessing) for path in paths]
    pixels = np.stack([picture.pixels for picture in pictures])  # (N, H, W, 3)
    parity = check_parity(
        network, model, pixels, preprocessing, batch_sizes=batch_sizes, attention=attention, report=report
    )
    cost, speed = None, ()
    if request.precision != "fp32":
        lowered = lower(model, request, preprocessing, samples, pixels, report)
        model, cost, speed = lowered.model, lowered.cost, lowered.speed
        report(f"comparing PyTorch and {request.precision} at batch {', '.join(map(str, batch_sizes))}")
        parity = check_parity(
            network,
            model,
            pixels,
            preprocessing,
            batch_sizes=batch_sizes,
            precision=request.precision,
            attention=attention,
            report=report,
        )
    _check_measurement(request, model)

    references = (
        *pytorch_answers(network, pictures, preprocessing, attention),
        probe_answer(Graph(model, preprocessing), preprocessing, attention),
    )
    if (spread := spread_of(references)) < ALIKE:
        report(
            f"warning: different pictures get nearly the same logits, {spread:.1e} apart as a share of the largest: "
            "check mean and std, and that the checkpoint is a trained one"
        )

    report("writing the bundle")
    references_file = references_json(references)
    manifest = Manifest(
        schema_version=1,
        name=request.name,
        version=request.version,
        architecture=architecture,
        input=form,
        output=Output(name=OUTPUT_NAME, dtype="float32", shape=(len(labels),)),
        attention=attention,
        preprocessing=preprocessing,
        labels=labels,
        precision=request.precision,
        opset=fuse.OPSET if request.fused_attention else OPSET,
        files={MODEL_FILE: sha256_of(model), REFERENCES_FILE: sha256_of(references_file)},
        provenance=Provenance(
            checkpoint_sha256=checkpoint.sha256,
            command=request.command,
            versions={"python": platform.python_version(), **{name: version(name) for name in VERSIONS_OF}},
        ),
        parity=parity,
        accuracy=request.accuracy.accuracy if request.accuracy else None,
        lowered=cost,
    )
    files = {MODEL_FILE: model, REFERENCES_FILE: references_file}
    folder = write_bundle(request.repository, manifest, files, replace=request.replace)
    return Exported(folder, manifest, {name: len(content) for name, content in files.items()}, speed)


def _check_fused(request: Request) -> None:
    if request.fused_attention and request.with_attention:
        raise ExportError("--with-attention: expected no --optimize cuda, whose attention never holds the maps")
    if request.fused_attention and request.precision == "int8":
        raise ExportError("--optimize cuda is for --precision fp32 and fp16, found int8")


def _attention_layers(network: nn.Module, preprocessing: Preprocessing) -> dict[str, AttentionAugmentedConv2d]:
    with torch.inference_mode():
        layers = attention_layers(network, torch.zeros(1, 3, *preprocessing.crop))
    if not layers:
        raise ExportError("--with-attention: expected a network with attention layers, found none in it")
    return layers


def _described_maps(layers: dict[str, AttentionAugmentedConv2d], precision: Precision) -> tuple[AttentionMap, ...]:
    return tuple(
        AttentionMap(
            layer=name,
            output=output_name(name),
            dtype="float16" if precision == "fp16" else "float32",
            num_heads=layer.num_heads,
            grid=layer.feature_size,
        )
        for name, layer in layers.items()
    )


def _described(
    request: Request, checkpoint: Checkpoint, recorded: Recorded
) -> tuple[str, tuple[str, ...], Preprocessing]:
    """What was typed, or else what python -m training wrote into the checkpoint; never a guess."""
    architecture = request.architecture or recorded.architecture
    labels = request.labels or check_labels(recorded.labels, checkpoint.path)
    stated = request.preprocessing or recorded.preprocessing or request.preprocessing_fields
    needed = [
        option
        for value, option in ((architecture, "--arch"), (labels, "--labels"), (stated, "--preprocessing"))
        if not value
    ]
    if needed or architecture is None:
        *others, last = needed
        options = f"{', '.join(others)} and {last} are" if others else f"{last} is"
        raise ExportError(f"{checkpoint.path} does not say {'them' if others else 'it'}, so {options} needed")
    preprocessing = choose_preprocessing(request.preprocessing, recorded.preprocessing, request.preprocessing_fields)
    if request.image_size:
        preprocessing = preprocessing_at(preprocessing, request.image_size)
    return architecture, labels, preprocessing


def _outline(
    architecture: str, preprocessing: Preprocessing, options: Mapping[str, Any], checkpoint: Checkpoint
) -> nn.Module:
    """The network without memory for its weights, with a head of one class."""
    try:
        with torch.device("meta"):
            return create_model(architecture, num_classes=1, image_size=preprocessing.crop, **options)
    except ValueError:
        raise
    except Exception as error:  # options in a checkpoint may be anything, and fail as they like
        raise ExportError(f"{checkpoint.path}: the options in it make no {architecture}: {error}") from error


def _named(
    request: Request, checkpoint: Checkpoint, outline: nn.Module, report: Callable[[str], None]
) -> dict[str, Tensor]:
    """The weights by the names that the network uses; `report` is told what was chosen and taken off."""
    weights, prefix, left_out = name_weights(checkpoint.weights, outline.state_dict(), request.key_prefix)
    if checkpoint.nested_key:
        report(f"weights are under {checkpoint.nested_key!r}")
    if prefix:
        without = f"; {left_out} weights without it are left out" if left_out else ""
        report(f"names of the weights begin with {prefix!r}, which is taken off{without}")
    return weights


def _check_classes(
    request: Request, outline: nn.Module, labels: tuple[str, ...], weights: Mapping[str, Tensor]
) -> None:
    found = head_classes(outline, weights)
    for expected, whose in ((len(labels), "labels"), (request.num_classes, "--num-classes")):
        if expected is not None and expected != found:
            raise ExportError(f"{request.checkpoint}: expected a head of {expected} classes ({whose}), found {found}")


def _check_measurement(request: Request, model: bytes) -> None:
    if request.accuracy and request.accuracy.model_sha256 != sha256_of(model):
        raise ExportError(
            f"accuracy: expected a measurement of this model ({sha256_of(model)}), "
            f"found one of {request.accuracy.model_sha256}"
        )
