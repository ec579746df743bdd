"""python -m export CHECKPOINT|MODEL.onnx --name NAME --version V [--arch NAME] [--labels FILE] …"""

import argparse
import ast
import json
import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from pydantic import ValidationError

from aaserve.bundle.errors import BundleError
from aaserve.bundle.files.shipped import PHOTOGRAPHS
from aaserve.bundle.files.text import NotText, read_text
from aaserve.bundle.manifest import Accuracy
from aaserve.bundle.preprocessing import Preprocessing
from aaserve.export.errors import ExportError
from aaserve.export.exporter import Exported, export
from aaserve.export.preprocessing.presets import (
    PRESETS,
    parse_image_size,
    parse_resize,
    parse_three,
    read_preprocessing,
)
from aaserve.export.progress import Progress
from aaserve.export.request import Measurement, Request, Selection
from aaserve.export.sources.labels import read_labels

_MESSAGE_CHARACTERS = 2000


def main(argv: Sequence[str], prog: str = "python -m export") -> int:
    arguments = _parser(prog).parse_args(argv)
    try:
        with Progress() as progress:
            exported = export(_request(arguments, [*prog.split(), *argv]), progress.begin)
    except ValidationError as error:
        return _failed(
            "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_url=False)),
            arguments.json,
        )
    except (ExportError, BundleError, ValueError, OSError) as error:
        return _failed(str(error), arguments.json)
    except (MemoryError, RuntimeError) as error:  # PyTorch has no exception class for CPU memory
        if isinstance(error, RuntimeError) and "can't allocate memory" not in str(error):
            raise
        return _failed("not enough memory for this network at this image size", arguments.json)
    print(_document(exported, progress) if arguments.json else exported.folder)
    return 0


def _document(exported: Exported, progress: Progress) -> str:
    content = {
        "folder": str(exported.folder),
        "bytes": exported.sizes,
        "seconds": progress.seconds(),
        "speed": [asdict(row) for row in exported.speed],
        "manifest": exported.manifest.model_dump(mode="json"),
    }
    return json.dumps(content, indent=2, ensure_ascii=False)


def _failed(message: str, as_json: bool) -> int:
    """Print one line on stderr; with --json also a document on stdout, so that a script always finds one.

    Names in a file may be long and contain line breaks and terminal codes, which are printed as question marks.
    """
    if len(message) > _MESSAGE_CHARACTERS:
        message = f"{message[:_MESSAGE_CHARACTERS]}…"
    message = "".join(letter if letter.isprintable() else "?" for letter in message)
    print(f"error: {message}", file=sys.stderr)
    if as_json:
        print(json.dumps({"error": message}, ensure_ascii=False))
    return 1


def _request(arguments: argparse.Namespace, command: Sequence[str]) -> Request:
    typed = {name: value for name, value in vars(arguments).items() if value is not None}
    selection = {field.name: typed[field.name] for field in fields(Selection) if field.name in typed}
    return Request(
        checkpoint=arguments.checkpoint,
        name=arguments.name,
        version=arguments.version,
        repository=arguments.repository,
        command=shlex.join(command),
        architecture=arguments.arch,
        architecture_options=dict(arguments.arch_option),
        labels=read_labels(arguments.labels) if arguments.labels else None,
        preprocessing=read_preprocessing(arguments.preprocessing) if arguments.preprocessing else None,
        preprocessing_fields={name: typed[name] for name in Preprocessing.model_fields if name in typed},
        num_classes=arguments.num_classes,
        nested_key=arguments.nested_key,
        key_prefix=arguments.key_prefix,
        image_size=arguments.image_size,
        pixel_input=arguments.input == "uint8",
        with_attention=arguments.with_attention,
        selection=Selection(**selection),
        selection_options=tuple(f"--{name.replace('_', '-')}" for name in selection),
        precision=arguments.precision,
        stored_weights=arguments.store_weights,
        calibration=arguments.calibration,
        allowed_drop=arguments.allow_drop,
        parity_images=arguments.parity_images,
        max_batch_size=arguments.max_batch_size,
        store_reference_pictures=arguments.store_reference_pictures,
        accuracy=_measurement(arguments.accuracy) if arguments.accuracy else None,
        replace=arguments.force,
    )


def _parser(prog: str = "python -m export") -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Turn a PyTorch checkpoint, or a classifier in ONNX, into a verified bundle, or write nothing.",
        epilog="aaserve inspect BUNDLE shows a bundle; aaserve verify BUNDLE checks it; "
        "aaserve evaluate BUNDLE DIR measures its accuracy.",
    )
    add = parser.add_argument
    add("checkpoint", type=Path, help="safetensors, a state dict of torch.save, or an ONNX model")
    add("--name", required=True, help="name of the served model")
    add("--version", required=True, help="whole number; the highest is served by default")
    add(
        "--repository",
        type=Path,
        metavar="DIR",
        default=Path("model_repository"),
        help="folder to write NAME/VERSION into (default: %(default)s)",
    )
    add("--force", action="store_true", help="replace the version if it exists")
    add("--json", action="store_true", help="print one JSON document instead of the folder")

    add = parser.add_argument_group("network, unless python -m training wrote it into the checkpoint").add_argument
    add(
        "--arch",
        metavar="NAME|MODULE:FUNCTION",
        help="network: a name that python -m models lists, or a function of your own that returns one",
    )
    add(
        "--arch-option",
        type=_option,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="argument of the network, a Python literal or text; may be repeated",
    )
    add("--labels", metavar="FILE", help="text file (one label per line), JSON list, or imagenet-1k (built in)")
    add("--num-classes", type=_positive, metavar="N", help="expected size of the head (default: any)")
    add("--nested-key", metavar="KEY", help="which of several state dicts in the file, such as state_dict_ema")
    add(
        "--key-prefix",
        metavar="PREFIX",
        help="use only weights with this prefix, and remove it (default: a prefix shared by all)",
    )
    add(
        "--image-size",
        type=parse_image_size,
        metavar="N|HxW",
        help="image size, if it differs from the training; resizes relative embeddings",
    )

    group = parser.add_argument_group(
        "preprocessing, unless python -m training wrote it into the checkpoint",
        "The single options replace fields of --preprocessing or of the checkpoint.",
    )
    add = group.add_argument
    add(
        "--preprocessing",
        metavar=f"FILE|{'|'.join(PRESETS)}|NAME",
        help="TOML as in training/recipes/, HuggingFace's preprocessor_config.json, timm's config.json; torchvision's "
        "for ImageNet, or for weights by name, such as ResNet50_Weights.IMAGENET1K_V2",
    )
    add(
        "--fit",
        choices=("crop", "stretch", "letterbox"),
        help="crop: resize and crop. stretch, letterbox: keep the whole picture, as detectors need it",
    )
    add("--resize", type=parse_resize, metavar="N|HxW", help="shorter side, or both, in pixels")
    add(
        "--crop",
        type=parse_image_size,
        metavar="N|HxW",
        help="centre crop after that, in pixels: the size of the input",
    )
    add("--interpolation", choices=("nearest", "bilinear", "bicubic", "lanczos"), help="of the resize")
    add("--mean", type=parse_three, metavar="R,G,B", help="subtracted from RGB in 0..1")
    add("--std", type=parse_three, metavar="R,G,B", help="divides the result")
    add("--background", type=parse_three, metavar="R,G,B", help="0..255, shown behind transparent pixels")
    add("--exif-orientation", action=argparse.BooleanOptionalAction, help="apply the EXIF orientation")
    add(
        "--jpeg-reducing-gap",
        type=float,
        metavar="TIMES",
        help="decode JPEG at 1/2, 1/4 or 1/8 of its size, but at least this many times the resize (default: full size)",
    )

    add = parser.add_argument_group("graph").add_argument
    add(
        "--input",
        choices=("uint8", "float32"),
        default="uint8",
        help="pixels NHWC, or normalised NCHW (default: %(default)s)",
    )
    add("--with-attention", action="store_true", help="add the attention maps as outputs, for POST /explain")
    add(
        "--precision",
        choices=("fp32", "fp16", "int8"),
        default="fp32",
        help="fp16 is for GPUs, int8 for CPUs (default: %(default)s)",
    )
    add(
        "--store-weights",
        choices=("float32", "float16", "int8"),
        default="float32",
        help="float16 rounds large weights and halves the file; int8 also rounds the weights of Linear layers to "
        "int8; the arithmetic stays fp32 (default: %(default)s)",
    )
    add(
        "--calibration",
        type=Path,
        metavar="DIR",
        help="pictures, or folders of pictures named by label: some calibrate int8, the others judge int8 or fp16",
    )
    add(
        "--allow-drop",
        type=_points,
        metavar="POINTS",
        default=1.0,
        help="top-1 that int8 or fp16 may lose, of accuracy, or without labels of agreement; of a detector, "
        "detections that agree (default: %(default)s)",
    )

    add = parser.add_argument_group("detections, of detectors").add_argument
    defaults = Selection()
    add(
        "--score-threshold",
        type=_share,
        metavar="SHARE",
        help=f"of detections with lower scores, none; clients may ask for a higher one ({defaults.score_threshold})",
    )
    add(
        "--iou-threshold",
        type=_share,
        metavar="SHARE",
        help=f"of two boxes of a class that overlap by more, the better one ({defaults.iou_threshold})",
    )
    add(
        "--max-detections",
        type=_positive,
        metavar="N",
        help=f"the most of a picture, of all classes ({defaults.max_detections})",
    )

    add = parser.add_argument_group("checks").add_argument
    add(
        "--parity-images",
        type=Path,
        metavar="DIR",
        default=PHOTOGRAPHS,
        help="pictures for the comparison with PyTorch or with the ONNX file (default: the examples)",
    )
    add(
        "--max-batch-size",
        type=_positive,
        metavar="N",
        default=32,
        help="largest batch of that comparison, in rows (default: %(default)s)",
    )
    add(
        "--store-reference-pictures",
        action="store_true",
        help="store the first 8 of them in the bundle, so that a server can compare precisions on them",
    )
    add("--accuracy", type=Path, metavar="FILE", help="result of python -m benchmarks.accuracy, for the manifest")
    return parser


def _option(text: str) -> tuple[str, object]:
    """Read "NAME=VALUE"."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, found {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, found {text!r}")
    return int(text)


def _share(text: str) -> float:
    if not 0 <= _number(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to below 1, found {text!r}")
    return float(text)


def _points(text: str) -> float:
    if not 0 <= _number(text) <= 100:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 100, found {text!r}")
    return float(text)


def _number(text: str) -> float:
    """The number, or NaN, which is in no range."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _measurement(path: Path) -> Measurement:
    try:
        content = json.loads(read_text(path))
        return Measurement(Accuracy.model_validate(content["accuracy"]), content["model"]["sha256"])
    except OSError as error:
        raise ExportError(f"{path}: expected a readable file, found: {error.strerror or error}") from error
    except NotText as error:
        raise ExportError(str(error)) from error
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        raise ExportError(
            f"{path}: expected a result of python -m benchmarks.accuracy, found something else"
        ) from error
