"""One export, from a checkpoint to a complete bundle, or to nothing.

checkpoint --build_network--> network --convert--> ONNX bytes --check_parity--> manifest --write_bundle--> NAME/VERSION/
                                                      `--lower, check_parity--^  (--precision fp16, int8)
"""

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import nn

from aaserve.bundle.bundle import MODEL_FILE, REFERENCES_FILE, check_absent, sha256_of, write_bundle
from aaserve.bundle.manifest import AttentionMap, Input, Lowered, Manifest, Output, Parity, Precision, Provenance
from aaserve.bundle.preprocessing import Preprocessing
from aaserve.bundle.references import Reference, references_json
from aaserve.export.errors import ExportError
from aaserve.export.graph.attention_outputs import output_name
from aaserve.export.graph.convert import INPUT_NAME, OPSET, OUTPUT_NAME, convert
from aaserve.export.graph.normalisation import PixelInput
from aaserve.export.graph.runtime import Graph
from aaserve.export.judgement.parity import check_parity
from aaserve.export.judgement.pictures import find_parity_pictures, read_picture
from aaserve.export.judgement.references import picture_references, probe_reference, spread
from aaserve.export.judgement.speed import Speed
from aaserve.export.precision import find_calibration, lower
from aaserve.export.request import Request
from aaserve.export.sources.checkpoint import Checkpoint, read_checkpoint
from aaserve.export.sources.description import Description, describe
from aaserve.export.sources.network import build_network
from aaserve.models.attention import AttentionAugmentedConv2d
from aaserve.models.attention_maps import attention_layers

# Smallest spread of the references without a warning. Untrained networks have 0.1 and more, a network that gets RGB in
# 0..1 with the mean and std of 0..255 has 0.0015.
ALIKE = 0.01
VERSIONS_OF = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy", "pillow")


@dataclass(frozen=True)
class Exported:
    """A bundle that was written, the bytes of its files, and for fp16 and int8 the speed compared with fp32."""

    folder: Path
    manifest: Manifest
    sizes: dict[str, int]
    speed: tuple[Speed, ...]


def export(request: Request, report: Callable[[str], None] = lambda step: None) -> Exported:
    """Write the bundle; `report` is told each step as it begins.

    Raises:
        ExportError, BundleError, ValueError: nothing was written; the message says why.
    """
    check_absent(request.repository / request.name / request.version, replace=request.replace)

    report(f"reading {request.checkpoint}")
    checkpoint = read_checkpoint(request.checkpoint, nested_key=request.nested_key)
    description = describe(request, checkpoint)
    preprocessing = description.preprocessing
    calibration = find_calibration(request, description.labels, report)
    paths = find_parity_pictures(request.parity_images, report)
    report(f"preprocessing: {preprocessing.model_dump_json()}")

    report(f"building {description.architecture} for {preprocessing.crop[0]}x{preprocessing.crop[1]} pixels")
    network = build_network(request, description, checkpoint, report)
    layers = _attention_layers(network, preprocessing) if request.with_attention else {}
    attention = _attention_maps(layers, request.precision)

    report("tracing and folding the graph")
    model = _convert(network, layers, request, description, checkpoint)

    batch_sizes = sorted({1, 2, request.max_batch_size})
    at_batch = f"at batch {', '.join(map(str, batch_sizes))}"
    report(f"comparing PyTorch and ONNX Runtime {at_batch}")
    pictures = [read_picture(path, preprocessing) for path in paths]
    pixels = np.stack([picture.pixels for picture in pictures])  # (N, H, W, 3)
    compare = partial(
        check_parity,
        network,
        pixels=pixels,
        preprocessing=preprocessing,
        batch_sizes=batch_sizes,
        attention=attention,
        report=report,
    )
    parity = compare(model)
    cost, speed = None, ()
    if request.precision != "fp32":
        lowered = lower(model, request, preprocessing, calibration, pixels, report)
        model, cost, speed = lowered.model, lowered.cost, lowered.speed
        report(f"comparing PyTorch and {request.precision} {at_batch}")
        parity = compare(model, precision=request.precision)
    _check_measurement(request, model)

    references = (
        *picture_references(network, pictures, preprocessing, attention),
        probe_reference(Graph(model, preprocessing), preprocessing, attention),
    )
    _warn_if_alike(references, report)

    report("writing the bundle")
    files = {MODEL_FILE: model, REFERENCES_FILE: references_json(references)}
    manifest = _manifest(request, description, checkpoint, attention, files, parity, cost)
    folder = write_bundle(request.repository, manifest, files, replace=request.replace)
    return Exported(folder, manifest, {name: len(content) for name, content in files.items()}, speed)


def _attention_layers(network: nn.Module, preprocessing: Preprocessing) -> dict[str, AttentionAugmentedConv2d]:
    with torch.inference_mode():
        layers = attention_layers(network, torch.zeros(1, 3, *preprocessing.crop))
    if not layers:
        raise ExportError("--with-attention: expected a network with attention layers, this one has none")
    return layers


def _attention_maps(layers: Mapping[str, AttentionAugmentedConv2d], precision: Precision) -> tuple[AttentionMap, ...]:
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


def _convert(
    network: nn.Module,
    layers: Mapping[str, AttentionAugmentedConv2d],
    request: Request,
    description: Description,
    checkpoint: Checkpoint,
) -> bytes:
    """The fp32 graph, with the input that was asked for and with metadata for people who find the file alone."""
    height, width = description.preprocessing.crop
    example = torch.zeros(2, 3, height, width)
    if request.pixel_input:
        network = PixelInput(network, description.preprocessing).eval()
        example = torch.zeros(2, height, width, 3, dtype=torch.uint8)
    metadata = {
        "architecture": description.architecture,
        "labels": "\n".join(description.labels),
        "preprocessing": description.preprocessing.model_dump_json(),
        "precision": "fp32",
        "checkpoint_sha256": checkpoint.sha256,
    }
    return convert(network, example, metadata, layers)


def _check_measurement(request: Request, model: bytes) -> None:
    if request.accuracy and request.accuracy.model_sha256 != sha256_of(model):
        raise ExportError(
            f"--accuracy: expected a measurement of this model ({sha256_of(model)}), "
            f"found one of {request.accuracy.model_sha256}"
        )


def _warn_if_alike(references: Sequence[Reference], report: Callable[[str], None]) -> None:
    if (found := spread(references)) < ALIKE:
        report(
            f"warning: different pictures get nearly the same logits, {found:.1e} apart as a share of the largest: "
            "check mean and std, and that the checkpoint is a trained one"
        )


def _manifest(
    request: Request,
    description: Description,
    checkpoint: Checkpoint,
    attention: tuple[AttentionMap, ...],
    files: Mapping[str, bytes],
    parity: Parity,
    cost: Lowered | None,
) -> Manifest:
    height, width = description.preprocessing.crop
    if request.pixel_input:
        form = Input(name=INPUT_NAME, dtype="uint8", layout="NHWC", shape=(height, width, 3))
    else:
        form = Input(name=INPUT_NAME, dtype="float32", layout="NCHW", shape=(3, height, width))
    return Manifest(
        schema_version=1,
        name=request.name,
        version=request.version,
        architecture=description.architecture,
        input=form,
        output=Output(name=OUTPUT_NAME, dtype="float32", shape=(len(description.labels),)),
        attention=attention,
        preprocessing=description.preprocessing,
        labels=description.labels,
        precision=request.precision,
        opset=OPSET,
        files={name: sha256_of(content) for name, content in files.items()},
        provenance=Provenance(
            checkpoint_sha256=checkpoint.sha256,
            command=request.command,
            versions={"python": platform.python_version(), **{name: version(name) for name in VERSIONS_OF}},
        ),
        parity=parity,
        accuracy=request.accuracy.accuracy if request.accuracy else None,
        lowered=cost,
    )
