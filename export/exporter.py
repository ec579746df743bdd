"""One export, from a checkpoint to a bundle that is whole or absent.

checkpoint --load_weights--> network --convert--> ONNX bytes --check_parity--> manifest --write_bundle--> NAME/VERSION/
                                                      `--lower, check_parity--^  (--precision fp16, int8)
"""

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bundle.attention import gaze
from bundle.bundle import MODEL_FILE, REFERENCES_FILE, check_absent, sha256_of, write_bundle
from bundle.manifest import AttentionMap, Input, Manifest, Output, Precision, Provenance
from bundle.preprocessing import Preprocessing, normalise
from bundle.probe import PROBE, probe_pixels
from bundle.references import Reference, references_json
from export.attention_outputs import output_name
from export.checkpoint import Checkpoint, read_checkpoint
from export.convert import INPUT_NAME, OPSET, OUTPUT_NAME, convert
from export.errors import ExportError
from export.graph import Graph
from export.image_size import preprocessing_at
from export.normalisation import PixelInput
from export.parity import check_parity
from export.pictures import Picture, read_pictures
from export.precision import find_calibration, lower
from export.presets import choose_preprocessing
from export.request import Request
from export.speed import Speed
from export.weights import head_classes, load_weights
from models import create_model
from models.attention import AttentionAugmentedConv2d
from models.attention_maps import attention_layers, attention_maps
from models.relative_tables import resize_relative_tables

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
    check_absent(request.repository / request.name / request.version, replace=request.replace)
    report(f"reading {request.checkpoint}")
    checkpoint = read_checkpoint(request.checkpoint, nested_key=request.nested_key)
    architecture, labels, preprocessing = _described(request, checkpoint)
    samples = find_calibration(request, labels)
    report(f"preprocessing: {preprocessing.model_dump_json()}")

    report(f"building {architecture} for {preprocessing.crop[0]}x{preprocessing.crop[1]} pixels")
    _check_classes(request, architecture, labels, checkpoint)
    options = _options(architecture, checkpoint)
    network = create_model(architecture, num_classes=len(labels), image_size=preprocessing.crop, **options).eval()
    weights = checkpoint.weights
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
    model = convert(traced, example, metadata, layers)
    attention = _described_maps(layers, request.precision)

    batch_sizes = sorted({1, 2, request.max_batch_size})
    report(f"comparing PyTorch and ONNX Runtime at batch {', '.join(map(str, batch_sizes))}")
    pictures = read_pictures(request.parity_images, preprocessing)
    pixels = np.stack([picture.pixels for picture in pictures])  # (N, H, W, 3)
    parity = check_parity(network, model, pixels, preprocessing, batch_sizes=batch_sizes, attention=attention)
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
        )
    _check_measurement(request, model)

    report("writing the bundle")
    references = references_json(
        (
            *_references(network, pictures, pixels, preprocessing, attention),
            _probe(Graph(model, preprocessing), preprocessing, attention),
        )
    )
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
        opset=OPSET,
        files={MODEL_FILE: sha256_of(model), REFERENCES_FILE: sha256_of(references)},
        provenance=Provenance(
            checkpoint_sha256=checkpoint.sha256,
            command=request.command,
            versions={"python": platform.python_version(), **{name: version(name) for name in VERSIONS_OF}},
        ),
        parity=parity,
        accuracy=request.accuracy.accuracy if request.accuracy else None,
        lowered=cost,
    )
    files = {MODEL_FILE: model, REFERENCES_FILE: references}
    folder = write_bundle(request.repository, manifest, files, replace=request.replace)
    return Exported(folder, manifest, {name: len(content) for name, content in files.items()}, speed)


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


def _references(
    network: nn.Module,
    pictures: list[Picture],
    pixels: NDArray[np.uint8],
    preprocessing: Preprocessing,
    attention: Sequence[AttentionMap],
) -> Iterator[Reference]:
    for picture, content in zip(pictures, pixels, strict=True):
        row = torch.from_numpy(normalise(content[np.newaxis], preprocessing))  # (1, 3, H, W)
        with torch.inference_mode():
            logits = network(row)[0].tolist()
            maps = attention_maps(network, row) if attention else {}
        yield _reference(
            picture.name, picture.sha256, logits, {layer: found.numpy() for layer, found in maps.items()}, attention
        )


def _probe(graph: Graph, preprocessing: Preprocessing, attention: Sequence[AttentionMap]) -> Reference:
    pixels = probe_pixels(preprocessing.crop)
    row = pixels[np.newaxis]
    return _reference(PROBE, sha256_of(pixels.tobytes()), graph(row)[0].tolist(), graph.maps(row, attention), attention)


def _reference(
    picture: str,
    sha256: str,
    logits: list[float],
    maps: Mapping[str, NDArray[np.floating]],
    attention: Sequence[AttentionMap],
) -> Reference:
    """One answer; `maps` are (1, heads, queries, keys)."""
    gazes = {one.layer: tuple(map(tuple, gaze(maps[one.layer][0], one.grid).round(6).tolist())) for one in attention}
    return Reference(picture=picture, sha256=sha256, logits=tuple(round(logit, 6) for logit in logits), attention=gazes)


def _described(request: Request, checkpoint: Checkpoint) -> tuple[str, tuple[str, ...], Preprocessing]:
    """What was typed, or else what python -m training wrote into the checkpoint; never a guess."""
    recipe = checkpoint.metadata.get("recipe", {})
    architecture = request.architecture or recipe.get("network", {}).get("architecture")
    labels = request.labels or tuple(checkpoint.metadata.get("labels", ()))
    for value, option in ((architecture, "--arch"), (labels, "--labels")):
        if not value:
            raise ExportError(f"{checkpoint.path} does not say it, so {option} is needed")
    recorded = recipe.get("preprocessing")
    preprocessing = choose_preprocessing(request.preprocessing, recorded, request.preprocessing_fields)
    if request.image_size:
        preprocessing = preprocessing_at(preprocessing, request.image_size)
    return architecture, labels, preprocessing


def _options(architecture: str, checkpoint: Checkpoint) -> dict[str, Any]:
    """Further arguments of create_model that the network was trained with."""
    recorded = checkpoint.metadata.get("recipe", {}).get("network", {})
    return recorded.get("options", {}) if recorded.get("architecture") == architecture else {}


def _check_classes(request: Request, architecture: str, labels: tuple[str, ...], checkpoint: Checkpoint) -> None:
    found = head_classes(architecture, checkpoint.weights)
    for expected, whose in ((len(labels), "labels"), (request.num_classes, "--num-classes")):
        if expected is not None and expected != found:
            raise ExportError(f"{checkpoint.path}: expected a head of {expected} classes ({whose}), found {found}")


def _check_measurement(request: Request, model: bytes) -> None:
    if request.accuracy and request.accuracy.model_sha256 != sha256_of(model):
        raise ExportError(
            f"accuracy: expected a measurement of this model ({sha256_of(model)}), "
            f"found one of {request.accuracy.model_sha256}"
        )
