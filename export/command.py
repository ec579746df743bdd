"""python -m export CHECKPOINT --name NAME --version V [--arch NAME] [--labels FILE] …"""

import argparse
import json
import shlex
import sys
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console

from bundle.errors import BundleError
from bundle.manifest import Accuracy
from bundle.preprocessing import Preprocessing
from export.errors import ExportError
from export.exporter import Measurement, Request, export
from export.image_size import parse_image_size
from export.labels import read_labels


def main(argv: Sequence[str]) -> int:
    arguments = _parser().parse_args(argv)
    console = Console(stderr=True, highlight=False)
    try:
        with console.status("") as status:

            def report(step: str) -> None:
                status.update(step)
                console.print(f"[{time.monotonic() - started:5.1f} s] {step}", markup=False, soft_wrap=True)

            started = time.monotonic()
            folder = export(_request(arguments, argv), report)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        print(f"error: {'.'.join(map(str, first['loc']))}: {first['msg']}", file=sys.stderr)
        return 1
    except (ExportError, BundleError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(folder)
    return 0


def _request(arguments: argparse.Namespace, argv: Sequence[str]) -> Request:
    return Request(
        checkpoint=arguments.checkpoint,
        name=arguments.name,
        version=arguments.version,
        repository=arguments.repository,
        command=shlex.join(["python", "-m", "export", *argv]),
        architecture=arguments.arch,
        labels=read_labels(arguments.labels) if arguments.labels else None,
        preprocessing=_preprocessing(arguments.preprocessing) if arguments.preprocessing else None,
        num_classes=arguments.num_classes,
        nested_key=arguments.nested_key,
        image_size=arguments.image_size,
        pixel_input=arguments.input == "uint8",
        parity_images=arguments.parity_images,
        max_batch_size=arguments.max_batch_size,
        accuracy=_measurement(arguments.accuracy) if arguments.accuracy else None,
        replace=arguments.force,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export",
        description="Turn a PyTorch checkpoint into a verified ONNX bundle, whole or not at all.",
        epilog="python -m export inspect BUNDLE shows what a bundle is; python -m export verify BUNDLE checks it.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("checkpoint", type=Path, help=".safetensors, or .pt/.pth holding a state dict")
    add("--name", required=True, help="name of the served model")
    add("--version", required=True, help="whole number; the highest is served by default")
    add("--arch", metavar="NAME", help="network, as python -m models lists them")
    add(
        "--labels", metavar="FILE", help="text file (a label a line), JSON list, or imagenet-1k for the names that ship"
    )
    add("--num-classes", type=_positive, metavar="N", help="what the head must have; inferred from it otherwise")
    add("--nested-key", metavar="KEY", help="which of several state dicts in the file, such as state_dict_ema")
    add("--preprocessing", type=Path, metavar="FILE", help="TOML with a [preprocessing] table, as in training/recipes/")
    add(
        "--image-size",
        type=parse_image_size,
        metavar="N|HxW",
        help="other pixels than trained with; resizes embeddings",
    )
    add("--input", choices=("uint8", "float32"), default="uint8", help="pixels NHWC, or normalised NCHW")
    add("--repository", type=Path, default=Path("model_repository"), help="folder the bundle goes into")
    add("--parity-images", type=Path, default=Path("examples"), help="pictures for the comparison with PyTorch")
    add("--max-batch-size", type=_positive, default=32, help="largest batch of that comparison, in rows")
    add("--accuracy", type=Path, metavar="FILE", help="JSON of python -m benchmarks.accuracy, for the manifest")
    add("--force", action="store_true", help="replace the version if it exists")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def _preprocessing(path: Path) -> Preprocessing:
    table = tomllib.loads(path.read_text(encoding="utf-8")).get("preprocessing")
    if table is None:
        raise ExportError(f"{path}: expected a [preprocessing] table, found none")
    return Preprocessing.model_validate(table)


def _measurement(path: Path) -> Measurement:
    content = json.loads(path.read_bytes())
    return Measurement(Accuracy.model_validate(content["accuracy"]), content["model"]["sha256"])
