"""preprocessor_config.json of HuggingFace --> the fields of `Preprocessing` that it defines.

The class in the file defines the meaning of its numbers and the defaults. So only classes with known resize and crop
are read, as in transformers 4.46 and 5.24 (src/transformers/models/*/image_processing_*.py);
where the two versions differ, the file must have a value. Centre crops with an odd margin start one pixel earlier
there.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aaserve.export.errors import ExportError

FILTERS = ("nearest", "lanczos", "bilinear", "bicubic")  # by Pillow's numbers
BILINEAR, BICUBIC = 2, 3
CONVNEXT_UNCROPPED = 384  # from this size on, the class resizes both sides and does not crop
CONVNEXT_CROP = 224 / 256


@dataclass(frozen=True)
class Processor:
    """The defaults of a class; None: its versions differ.

    Attributes:
        square: a single number is the size of both sides, not of the shorter one.
        crops: whether it crops the centre to `crop_size`.
        resample: Pillow's number of the filter.
    """

    square: bool
    crops: bool | None
    resample: int | None


PROCESSORS = {
    "Beit": Processor(square=True, crops=None, resample=BICUBIC),
    "Bit": Processor(square=False, crops=True, resample=BICUBIC),
    "CLIP": Processor(square=False, crops=True, resample=BICUBIC),
    "ConvNext": Processor(square=False, crops=False, resample=None),
    "DeiT": Processor(square=True, crops=True, resample=BICUBIC),
    "EfficientNet": Processor(square=True, crops=False, resample=None),
    "Levit": Processor(square=False, crops=True, resample=BICUBIC),
    "MobileNetV1": Processor(square=False, crops=True, resample=BILINEAR),
    "MobileNetV2": Processor(square=False, crops=True, resample=BILINEAR),
    "Siglip": Processor(square=False, crops=False, resample=BICUBIC),
    "ViT": Processor(square=True, crops=False, resample=BILINEAR),
}
_STEPS = {"do_resize", "do_normalize", "do_rescale", "image_mean", "image_std"}


def is_huggingface(content: Mapping[str, Any]) -> bool:
    return bool(({"image_processor_type", "feature_extractor_type"} | _STEPS) & set(content))


def from_huggingface(content: Mapping[str, Any]) -> dict[str, object]:
    """The fields that the file defines; it never defines EXIF orientation and transparency.

    Raises:
        ExportError: an unknown class, or a step that the service does not have.
    """
    content = {name: value for name, value in content.items() if value is not None}
    stated = content.get("image_processor_type") or content.get("feature_extractor_type")
    if stated is None:  # older files: transformers takes the class from the model's config.json
        raise ExportError('expected image_processor_type, found none; add it, such as "ViTImageProcessor" for a ViT')
    kind = re.sub(r"(ImageProcessor|FeatureExtractor)(Fast|Pil)?$", "", str(stated))
    if kind not in PROCESSORS:
        known = ", ".join(PROCESSORS)
        raise ExportError(f"expected an image processor of {known}, found {stated}; use options or TOML")
    for name, supported in (
        ("do_resize", True),
        ("do_rescale", True),
        ("do_pad", False),
        ("do_flip_channel_order", False),
        ("rescale_offset", False),
    ):
        if content.get(name, supported) != supported:
            raise ExportError(f"expected {name} {str(supported).lower()}, found {content[name]!r}")
    fields: dict[str, object] = {"colour": "RGB", **_resize_and_crop(content, kind), **_normalisation(content, kind)}
    number = content.get("resample", PROCESSORS[kind].resample)
    if number is None:
        return fields
    if number not in range(len(FILTERS)):
        raise ExportError(f"expected a resample of 0 to {len(FILTERS) - 1} ({', '.join(FILTERS)}), found {number}")
    return fields | {"interpolation": FILTERS[number]}


def _resize_and_crop(content: Mapping[str, Any], kind: str) -> dict[str, object]:
    if "size" not in content:
        return {}
    size = _sides(content["size"], square=PROCESSORS[kind].square)
    if kind == "ConvNext":
        if not isinstance(size, int):
            raise ExportError("expected a size with shortest_edge, as in this class, found height and width")
        if size >= CONVNEXT_UNCROPPED:
            return {"resize": (size, size), "crop": (size, size)}
        return {"resize": int(size / content.get("crop_pct", CONVNEXT_CROP)), "crop": (size, size)}
    if kind == "Levit" and isinstance(size, int):
        size = int(256 / 224 * size)
    crops = content.get("do_center_crop", PROCESSORS[kind].crops)
    if crops is None:
        raise ExportError("expected do_center_crop true or false, found none")
    if crops:
        return (
            {"resize": size, "crop": _sides(content["crop_size"], square=True)}
            if "crop_size" in content
            else {"resize": size}
        )
    if isinstance(size, int):
        raise ExportError("expected do_center_crop true or a size with height and width, found neither")
    return {"resize": size, "crop": size}


def _sides(size: Any, *, square: bool) -> int | tuple[int, int]:
    """{"height", "width"}, {"shortest_edge"} or a number --> (height, width) or the shorter side."""
    if isinstance(size, Mapping):
        if set(size) == {"height", "width"}:
            return int(size["height"]), int(size["width"])
        if set(size) == {"shortest_edge"}:
            return int(size["shortest_edge"])
        raise ExportError(f"expected a size of height and width or of shortest_edge, found {', '.join(sorted(size))}")
    return (int(size), int(size)) if square else int(size)


def _normalisation(content: Mapping[str, Any], kind: str) -> dict[str, object]:
    """Mean and std for RGB in 0..1, converted from those for the file's rescale_factor."""
    stated = {name: content[name] for name in ("image_mean", "image_std") if name in content}
    again = kind == "EfficientNet" and content.get("include_top", True)  # this class divides by std twice
    if not content.get("do_normalize", True):
        stated = {"image_mean": (0.0, 0.0, 0.0), "image_std": (1.0, 1.0, 1.0)} | (
            {"image_std": content["image_std"]} if again else {}
        )
    elif again and "image_std" in stated:
        stated["image_std"] = [value**2 for value in stated["image_std"]]
    times = 255 * float(content.get("rescale_factor", 1 / 255))
    if math.isclose(times, 1, rel_tol=1e-6):
        times = 1.0
    return {name.removeprefix("image_"): tuple(value / times for value in values) for name, values in stated.items()}
