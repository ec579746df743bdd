"""preprocessor_config.json of HuggingFace --> the fields of `Preprocessing` that it states.

The class that it names decides what its numbers mean, so only classes whose resize and crop are known are read:
https://github.com/huggingface/transformers, src/transformers/models/*/image_processing_*.py.
"""

import math
from collections.abc import Mapping
from typing import Any

from aaserve.export.errors import ExportError

# "size" given as one number is both sides for some, and the shorter one for the others.
BOTH_SIDES = ("Beit", "DeiT", "EfficientNet", "Siglip", "ViT")
SHORTER_SIDE = ("Bit", "CLIP", "ConvNext", "Levit", "MobileNetV1", "MobileNetV2")
FILTERS = ("nearest", "lanczos", "bilinear", "bicubic")  # by Pillow's numbers
CONVNEXT_UNCROPPED = 384  # from this size on, the class resizes both sides and crops nothing


def is_huggingface(content: Mapping[str, Any]) -> bool:
    return bool({"image_processor_type", "feature_extractor_type"} & set(content))


def from_huggingface(content: Mapping[str, Any]) -> dict[str, object]:
    """The fields that the file states; it never says anything of EXIF and transparency.

    Raises:
        ExportError: a class that is not known, or a step that the service does not have.
    """
    stated = str(content.get("image_processor_type") or content.get("feature_extractor_type"))
    kind = stated.removesuffix("Fast").removesuffix("ImageProcessor").removesuffix("FeatureExtractor")
    if kind not in BOTH_SIDES + SHORTER_SIDE:
        known = ", ".join(sorted(BOTH_SIDES + SHORTER_SIDE))
        raise ExportError(f"expected an image processor of {known}, found {stated}; say it all by options or in TOML")
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
    if (number := content.get("resample")) is not None:
        if number not in range(len(FILTERS)):
            raise ExportError(f"expected a resample of 0 to {len(FILTERS) - 1} ({', '.join(FILTERS)}), found {number}")
        fields["interpolation"] = FILTERS[number]
    return fields


def _resize_and_crop(content: Mapping[str, Any], kind: str) -> dict[str, object]:
    if "size" not in content:
        return {}
    size = _sides(content["size"], square=kind in BOTH_SIDES)
    if kind == "ConvNext" and isinstance(size, int):
        if size >= CONVNEXT_UNCROPPED:
            return {"resize": (size, size), "crop": (size, size)}
        return {"resize": int(size / content["crop_pct"]), "crop": (size, size)} if content.get("crop_pct") else {}
    if kind == "Levit" and isinstance(size, int):
        size = int(256 / 224 * size)
    if content.get("do_center_crop", "crop_size" in content):
        crop = _sides(content["crop_size"], square=True) if "crop_size" in content else None
        return {"resize": size, "crop": crop} if crop else {"resize": size}
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
    if not content.get("do_normalize", True):
        stated = {"image_mean": (0.0, 0.0, 0.0), "image_std": (1.0, 1.0, 1.0)}
    else:
        stated = {name: content[name] for name in ("image_mean", "image_std") if name in content}
        if kind == "EfficientNet" and "image_std" in stated and content.get("include_top", True):
            stated["image_std"] = [value**2 for value in stated["image_std"]]  # the class divides by it twice
    times = 255 * float(content.get("rescale_factor", 1 / 255))
    if math.isclose(times, 1, rel_tol=1e-6):
        times = 1.0
    return {name.removeprefix("image_"): tuple(value / times for value in values) for name, values in stated.items()}
