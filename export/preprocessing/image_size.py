"""An image size that differs from the one in training."""

import argparse

from aaserve.bundle.preprocessing import Preprocessing


def parse_image_size(text: str) -> tuple[int, int]:
    """Read "N" or "HxW", in pixels."""
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdigit() and int(side) > 0 for side in sides):
        raise argparse.ArgumentTypeError(f"expected N or HxW in pixels, found {text!r}")
    return int(sides[0]), int(sides[-1])


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
