"""Preprocessing that is typed: a preset or a TOML file, and single fields that replace its own."""

import argparse
import tomllib
from collections.abc import Mapping
from pathlib import Path

from aaserve.bundle.preprocessing import Preprocessing, normalisation_problem
from aaserve.bundle.text import NotText, read_text
from aaserve.export.errors import ExportError
from aaserve.export.preprocessing.image_size import parse_image_size

PRESETS = {
    # What torchvision's ResNet weights of IMAGENET1K_V1 were evaluated with (torchvision/models/resnet.py:
    # ImageClassification, crop_size=224); EXIF and transparency, which those weights know nothing of, as browsers do.
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


def read_preprocessing(source: str) -> Preprocessing:
    """Read the name of a preset, or a TOML file with a [preprocessing] table.

    Raises:
        ExportError: neither.
    """
    if source in PRESETS:
        return PRESETS[source]
    try:
        table = tomllib.loads(read_text(Path(source))).get("preprocessing")
    except OSError as error:
        raise ExportError(
            f"{source}: expected a TOML file or {', '.join(PRESETS)}, found: {error.strerror or error}"
        ) from error
    except NotText as error:
        raise ExportError(str(error)) from error
    except ValueError as error:
        raise ExportError(f"{source}: expected TOML, found: {error}") from error
    if table is None:
        raise ExportError(f"{source}: expected a [preprocessing] table, found none")
    return Preprocessing.model_validate(table)


def choose_preprocessing(
    typed: Preprocessing | None, recorded: Mapping[str, object] | None, fields: Mapping[str, object]
) -> Preprocessing:
    """What was typed, or else what the checkpoint records, with `fields` in the place of its own; never a guess.

    Raises:
        ExportError: that leaves a field unsaid, or a typed mean or std cannot be meant. What the checkpoint records is
            what it was trained with, so it is right whatever it is.
    """
    base: Mapping[str, object] = typed.model_dump() if typed else recorded or {"colour": "RGB"}
    stated = {**base, **fields}
    if missing := [
        name for name, field in Preprocessing.model_fields.items() if field.is_required() and name not in stated
    ]:
        raise ExportError(
            f"--preprocessing is needed: neither it nor the checkpoint nor another option says {', '.join(missing)}"
        )
    preprocessing = Preprocessing.model_validate(stated)
    if (typed or {"mean", "std"} & set(fields)) and (problem := normalisation_problem(preprocessing)):
        raise ExportError(problem)
    return preprocessing


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
