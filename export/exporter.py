"""One export: from a checkpoint or an ONNX file to a complete bundle, or an error and no bundle.

file --open_checkpoint | open_file--> source --convert--> ONNX bytes --check_parity--> manifest --write_bundle--> folder
                                                              `--lower, check_parity--^  (--precision fp16, int8)
"""

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx

from aaserve.bundle.bundle import MODEL_FILE, REFERENCES_FILE, check_absent, sha256_of, write_bundle
from aaserve.bundle.manifest import DetectionLowered, DetectionParity, Input, Lowered, Manifest, Parity, Provenance
from aaserve.bundle.references.pictures import stored_pictures
from aaserve.bundle.references.references import references_json
from aaserve.export.errors import ExportError
from aaserve.export.graph.convert import INPUT_NAME
from aaserve.export.graph.quantise import quantisable
from aaserve.export.judgement.pictures import find_parity_pictures, read_picture
from aaserve.export.judgement.samples import check_readable
from aaserve.export.judgement.speed import Speed
from aaserve.export.opened import Converted, Source, open_checkpoint, open_file
from aaserve.export.precision import find_calibration, lower
from aaserve.export.request import Request
from aaserve.export.sources.onnx_file import is_onnx

VERSIONS_OF = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy", "pillow")


@dataclass(frozen=True)
class Exported:
    """A written bundle, the bytes of its files, and for fp16 and int8 the speed compared with fp32."""

    folder: Path
    manifest: Manifest
    sizes: dict[str, int]
    speed: tuple[Speed, ...]


def export(request: Request, report: Callable[[str], None] = lambda step: None) -> Exported:
    """Write the bundle; `report` is called at the start of each step.

    Raises:
        ExportError, BundleError, ValueError: nothing was written; the message says why.
    """
    check_absent(request.repository / request.name / request.version, replace=request.replace)
    if request.stored_weights != "float32" and request.precision != "fp32":
        raise ExportError(f"--store-weights is for --precision fp32, found {request.precision}")

    report(f"reading {request.checkpoint}")
    source = open_file(request) if is_onnx(request.checkpoint) else open_checkpoint(request)
    description = source.description
    preprocessing = description.preprocessing
    calibrating, judging = find_calibration(request, description, report)
    if calibrating or judging:
        report(f"reading the pictures in {request.calibration}")
        check_readable([*calibrating, *judging], preprocessing)
    paths = find_parity_pictures(request.parity_images, report)
    report(f"preprocessing: {preprocessing.model_dump_json()}")
    pictures = [read_picture(path, preprocessing) for path in paths]
    pixels = np.stack([picture.pixels for picture in pictures])  # (N, H, W, 3)
    converted = source.convert(pixels, report)
    network, task = converted.network, converted.task
    if request.precision == "int8":
        quantisable(onnx.load_model_from_string(network).graph)  # before what takes long

    largest = converted.max_batch_size or request.max_batch_size
    batch_sizes = sorted({1, min(2, largest), largest})
    at_batch = f"at batch {', '.join(map(str, batch_sizes))}"
    report(f"comparing {source.name} and ONNX Runtime {at_batch}")
    parity = task.check_parity(network, pixels, batch_sizes=batch_sizes, precision="fp32", report=report)
    cost, speed = None, ()
    if request.precision != "fp32":
        network, cost, speed = lower(network, task, request, preprocessing, calibrating, judging, pixels, report)
        report(f"comparing {source.name} and {request.precision} {at_batch}")
        parity = task.check_parity(network, pixels, batch_sizes=batch_sizes, precision=request.precision, report=report)
    model = task.finish(network)
    if request.accuracy and request.accuracy.model_sha256 != sha256_of(model):
        raise ExportError(
            f"--accuracy: expected a measurement of this model ({sha256_of(model)}), "
            f"found one of {request.accuracy.model_sha256}"
        )
    references = task.references(network, pictures, report)

    report("writing the bundle")
    files = {MODEL_FILE: model, REFERENCES_FILE: references_json(references)}
    if request.store_reference_pictures:
        files |= stored_pictures([picture.pixels for picture in pictures])
    manifest = _manifest(request, source, converted, files, parity, cost)
    folder = write_bundle(request.repository, manifest, files, replace=request.replace)
    return Exported(folder, manifest, {name: len(content) for name, content in files.items()}, speed)


def _manifest(
    request: Request,
    source: Source,
    converted: Converted,
    files: Mapping[str, bytes],
    parity: Parity | DetectionParity,
    cost: Lowered | DetectionLowered | None,
) -> Manifest:
    description = source.description
    height, width = description.preprocessing.crop
    if request.pixel_input:
        form = Input(name=INPUT_NAME, dtype="uint8", layout="NHWC", shape=(height, width, 3))
    else:
        form = Input(name=INPUT_NAME, dtype="float32", layout="NCHW", shape=(3, height, width))
    return Manifest(
        schema_version=1,
        name=request.name,
        version=request.version,
        task=converted.task.name,
        architecture=description.architecture,
        input=form,
        outputs=converted.task.outputs,
        attention=converted.task.attention,
        suppression=converted.task.suppression,
        preprocessing=description.preprocessing,
        labels=description.labels,
        precision=request.precision,
        stored_weights=request.stored_weights,
        max_batch_size=converted.max_batch_size,
        opset=converted.opset,
        files={name: sha256_of(content) for name, content in files.items()},
        provenance=Provenance(
            checkpoint_sha256=source.sha256,
            command=request.command,
            versions={"python": platform.python_version(), **{name: version(name) for name in VERSIONS_OF}},
        ),
        parity=parity,
        accuracy=request.accuracy.accuracy if request.accuracy else None,
        lowered=cost,
    )
