"""Preprocessing from the command line: a preset or a file, and options that replace single fields.

imagenet | ResNet50_Weights.IMAGENET1K_V2 | *.toml | preprocessor_config.json | config.json of timm
    --read_preprocessing--> the fields that it defines --choose_preprocessing--> Preprocessing, or missing fields
"""

import argparse
import difflib
import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aaserve.bundle.files.text import NotText, read_text
from aaserve.bundle.preprocessing import Preprocessing, normalisation_problem
from aaserve.export.errors import ExportError
from aaserve.export.preprocessing.huggingface import from_huggingface, is_huggingface
from aaserve.export.preprocessing.timm import from_timm

PRESETS = {
    # What torchvision's ResNet weights of IMAGENET1K_V1 were evaluated with (torchvision/models/networks/resnet.py:
    # ImageClassification, crop_size=224); EXIF and transparency, which those weights do not define, as in browsers.
    "imagenet": Preprocessing(
        colour="RGB",
        background=(255, 255, 255),
        exif_orientation=True,
        resize=256,
        interpolation="bilinear",
        crop=(224, 224),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )
}
FILES = (
    "a TOML file with a [preprocessing] table, preprocessor_config.json of HuggingFace, or config.json of timm "
    "with pretrained_cfg"
)
_TORCHVISION = re.compile(r"\w+_Weights\.\w+")
_KEYS_SHOWN = 5


def read_preprocessing(source: str) -> Mapping[str, object]:
    """Read the fields that a preset, the name of torchvision's weights, or a file defines.

    Raises:
        ExportError: none of these, or a step that the service does not have.
    """
    if source in PRESETS:
        return PRESETS[source].model_dump()
    if _TORCHVISION.fullmatch(source):
        return _from_torchvision(source)
    try:
        text = read_text(Path(source))
        content = json.loads(text) if text.lstrip().startswith("{") else tomllib.loads(text)
    except OSError as error:
        raise ExportError(
            f"{source}: expected {FILES}, or {', '.join(PRESETS)} or the name of torchvision's weights, "
            f"found: {error.strerror or error}"
        ) from error
    except NotText as error:
        raise ExportError(str(error)) from error
    except (ValueError, RecursionError) as error:
        raise ExportError(f"{source}: expected TOML or JSON, found: {error}") from error
    try:
        return _fields(content)
    except ExportError as error:
        raise ExportError(f"{source}: {error}") from error
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise ExportError(f"{source}: expected numbers as the format has them, found others: {error}") from error


def choose_preprocessing(
    typed: Mapping[str, object] | None, recorded: Mapping[str, object] | None, fields: Mapping[str, object]
) -> Preprocessing:
    """The given preprocessing, or else the checkpoint's, with `fields` replaced; never a guess.

    Raises:
        ExportError: a field is missing, or a given mean or std is implausible. The checkpoint's own values are those of
            its training, so they are not checked.
    """
    stated = {**(typed or recorded or {"colour": "RGB"}), **fields}
    cropping = stated.get("fit", "crop") == "crop"
    if not cropping and "resize" not in fields:
        stated.pop("resize", None)  # --fit replaces it
    if missing := [
        name
        for name, field in Preprocessing.model_fields.items()
        if (field.is_required() or (name == "resize" and cropping)) and name not in stated
    ]:
        raise ExportError(f"preprocessing: {', '.join(missing)} not stated; give {', '.join(map(_option, missing))}")
    preprocessing = Preprocessing.model_validate(stated)
    if (typed or {"mean", "std"} & set(fields)) and (problem := normalisation_problem(preprocessing)):
        raise ExportError(problem)
    return preprocessing


def preprocessing_at(preprocessing: Preprocessing, image_size: tuple[int, int]) -> Preprocessing:
    """The same preprocessing for crops of `image_size` (H, W); the resize scales with it."""
    if preprocessing.resize is None:
        return preprocessing.model_copy(update={"crop": image_size})
    ratios = [new / old for new, old in zip(image_size, preprocessing.crop, strict=True)]
    if isinstance(preprocessing.resize, int):
        resize: int | tuple[int, int] = max(round(preprocessing.resize * max(ratios)), *image_size)
    else:
        height, width = (round(side * ratio) for side, ratio in zip(preprocessing.resize, ratios, strict=True))
        resize = height, width
    return Preprocessing.model_validate(preprocessing.model_dump() | {"crop": image_size, "resize": resize})


def _fields(content: Mapping[str, Any]) -> Mapping[str, object]:
    """The fields that the content of a file defines."""
    if isinstance(config := content.get("pretrained_cfg"), Mapping):
        return from_timm(config)
    if is_huggingface(content):
        return from_huggingface(content)
    if isinstance(table := content.get("preprocessing"), Mapping):
        return table
    keys = list(content)
    found = ", ".join(keys[:_KEYS_SHOWN]) + (", …" if len(keys) > _KEYS_SHOWN else "")
    raise ExportError(f"expected {FILES}, found {found or 'nothing'}")


def _from_torchvision(name: str) -> dict[str, object]:
    """The preprocessing with which torchvision evaluates the weights of this name."""
    table = tomllib.loads(Path(__file__).with_name("torchvision.toml").read_text())["presets"]
    known = {weights: preset for preset in table for weights in preset["weights"].split()}
    if name not in known:
        like = difflib.get_close_matches(name, known) or known
        raise ExportError(f"{name}: expected the name of torchvision's weights, such as {', '.join(list(like)[:3])}")
    fields = {field: value for field, value in known[name].items() if field != "weights"}
    return {"colour": "RGB", **fields}


def _option(field: str) -> str:
    if field == "exif_orientation":
        return "--exif-orientation or --no-exif-orientation"
    return 'colour = "RGB" in the table' if field == "colour" else f"--{field}"


def parse_image_size(text: str) -> tuple[int, int]:
    """Read "N" or "HxW", in pixels."""
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdigit() and int(side) > 0 for side in sides):
        raise argparse.ArgumentTypeError(f"expected N or HxW in pixels, found {text!r}")
    return int(sides[0]), int(sides[-1])


def parse_resize(text: str) -> int | tuple[int, int]:
    """Read "N", the shorter side in pixels, or "HxW"."""
    height, width = parse_image_size(text)
    return (height, width) if "x" in text.lower() else height


def parse_three(text: str) -> tuple[float, ...]:
    """Read "R,G,B"."""
    try:
        red, green, blue = map(float, text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected three numbers R,G,B, found {text!r}") from error
    return red, green, blue
