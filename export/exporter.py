"""One export, from a checkpoint to a bundle that is whole or absent.

checkpoint --load--> network --convert--> ONNX bytes --check_parity--> manifest --write_bundle--> NAME/VERSION/
"""

import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from bundle.bundle import MODEL_FILE, sha256_of, write_bundle
from bundle.manifest import Accuracy, Input, Manifest, Output, Provenance
from bundle.preprocessing import Preprocessing
from export.checkpoint import load_weights, read_checkpoint
from export.convert import INPUT_NAME, OPSET, OUTPUT_NAME, convert
from export.errors import ExportError
from export.image_size import checkpoint_at, preprocessing_at
from export.parity import check_parity
from export.pictures import read_pictures
from models import create_model

VERSIONS_OF = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy", "pillow")


@dataclass(frozen=True)
class Measurement:
    """Accuracy, and the sha256 of the model file it was measured with."""

    accuracy: Accuracy
    model_sha256: str


@dataclass(frozen=True)
class Request:
    """What to export, as typed. `preprocessing` and `labels` may come from the checkpoint's own metadata instead."""

    checkpoint: Path
    architecture: str | None
    labels: tuple[str, ...] | None
    preprocessing: Preprocessing | None
    image_size: tuple[int, int] | None
    name: str
    version: str
    repository: Path
    parity_images: Path
    max_batch_size: int
    accuracy: Measurement | None
    command: str


def export(request: Request) -> Path:
    """Write the bundle and return its folder.

    Raises:
        ExportError, BundleError, ValueError: nothing was written; the message says why.
    """
    checkpoint = read_checkpoint(request.checkpoint)
    recipe = checkpoint.metadata.get("recipe", {})
    architecture = request.architecture or recipe.get("network", {}).get("architecture")
    labels = request.labels or tuple(checkpoint.metadata.get("labels", ()))
    preprocessing = request.preprocessing or _recorded_preprocessing(recipe)
    for value, option in ((architecture, "--arch"), (labels, "--labels"), (preprocessing, "--preprocessing")):
        if not value:
            raise ExportError(f"{request.checkpoint} does not say it, so {option} is needed")

    if request.image_size:
        preprocessing = preprocessing_at(preprocessing, request.image_size)
    network = create_model(architecture, num_classes=len(labels), image_size=preprocessing.crop).eval()
    if request.image_size:
        checkpoint = checkpoint_at(checkpoint, network)
    load_weights(network, checkpoint)
    model = convert(
        network,
        preprocessing.crop,
        {
            "architecture": architecture,
            "labels": "\n".join(labels),
            "preprocessing": preprocessing.model_dump_json(),
            "checkpoint_sha256": checkpoint.sha256,
        },
    )
    if request.accuracy and request.accuracy.model_sha256 != sha256_of(model):
        raise ExportError(
            f"accuracy: expected a measurement of this model ({sha256_of(model)}), "
            f"found one of {request.accuracy.model_sha256}"
        )
    parity = check_parity(
        network,
        model,
        read_pictures(request.parity_images, preprocessing),
        batch_sizes=sorted({1, 2, request.max_batch_size}),
    )
    manifest = Manifest(
        schema_version=1,
        name=request.name,
        version=request.version,
        architecture=architecture,
        input=Input(name=INPUT_NAME, dtype="float32", layout="NCHW", shape=(3, *preprocessing.crop)),
        output=Output(name=OUTPUT_NAME, dtype="float32", shape=(len(labels),)),
        preprocessing=preprocessing,
        labels=labels,
        precision="fp32",
        opset=OPSET,
        files={MODEL_FILE: sha256_of(model)},
        provenance=Provenance(
            checkpoint_sha256=checkpoint.sha256,
            command=request.command,
            versions={"python": platform.python_version(), **{name: version(name) for name in VERSIONS_OF}},
        ),
        parity=parity,
        accuracy=request.accuracy.accuracy if request.accuracy else None,
    )
    return write_bundle(request.repository, manifest, model)


def _recorded_preprocessing(recipe: dict) -> Preprocessing | None:
    return Preprocessing.model_validate(recipe["preprocessing"]) if "preprocessing" in recipe else None
