"""Picture bytes --> the network's input. Training evaluates with this, export checks with it, the service runs it.

    bytes --decode--> upright RGB --resize, centre crop--> (crop h, crop w, 3) --normalise--> (3, crop h, crop w)

The last step happens here or, with the same numbers, inside the graph; the manifest's input says which.
"""

from functools import partial
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from aaserve.bundle.pictures.decoding import Decoded, decode_reduced
from aaserve.bundle.pictures.resizing import resize

Side = Annotated[int, Field(ge=1, le=4096)]
Byte = Annotated[int, Field(ge=0, le=255)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Gap = Annotated[float, Field(ge=2, le=64)]

# What can be meant for RGB in 0..1, and wider than networks need: for one that takes 0..255, std is 1 / 255 = 0.004.
MEANS, DEVIATIONS = (-1.0, 2.0), (0.001, 10.0)


class Preprocessing(BaseModel):
    """How pictures become tensors. A property of the weights, so nothing is guessed: what is absent is not done."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    colour: Literal["RGB"] = Field(description="Order of the channels.")
    background: tuple[Byte, Byte, Byte] = Field(description="RGB seen through transparent pixels.")
    exif_orientation: bool = Field(description="Turn pictures upright as their EXIF data says.")
    resize: Side | tuple[Side, Side] = Field(description="Shorter side in pixels, or exact (height, width).")
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = Field(
        description="Pillow's filter; all but nearest are antialiased."
    )
    crop: tuple[Side, Side] = Field(description="Centre crop (height, width) after the resize, in pixels.")
    mean: tuple[Finite, Finite, Finite] = Field(description="Subtracted from RGB in 0..1.")
    std: tuple[Positive, Positive, Positive] = Field(description="Divides what is left.")
    jpeg_reducing_gap: Gap | None = Field(
        None,
        exclude_if=lambda gap: gap is None,  # as in TOML, which has no null, and in manifests older than this field
        description="JPEG pictures are decoded at 1/2, 1/4 or 1/8 of their size, where that leaves them at least this "
        "many times as large as the resize makes them. Absent: at their full size.",
    )

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        resized = (self.resize, self.resize) if isinstance(self.resize, int) else self.resize
        if self.crop[0] > resized[0] or self.crop[1] > resized[1]:
            raise ValueError(f"crop {self.crop} does not fit into resize {self.resize}")
        return self


def normalisation_problem(preprocessing: Preprocessing) -> str | None:
    """What is wrong with a mean or deviation that cannot be meant for RGB in 0..1; None for all others.

    Not a bound of the fields: bundles with such values exist, and a network trained with them may answer well.
    """
    mean, std = preprocessing.mean, preprocessing.std
    if _within(mean, MEANS) and _within(std, DEVIATIONS):
        return None
    text = (
        f"mean {mean} and std {std}: expected values for RGB in 0..1, "
        f"a mean within {MEANS[0]:g}..{MEANS[1]:g} and a std within {DEVIATIONS[0]:g}..{DEVIATIONS[1]:g}"
    )
    if MEANS[1] < max(*mean, *std) <= 255:
        stated = {"mean": (mean, MEANS), "std": (std, DEVIATIONS)}
        divided = {name: tuple(value / 255 for value in values) for name, (values, _) in stated.items()}
        better = [
            f"{name} {','.join(f'{value:.4g}' for value in divided[name])}"
            for name, (_, bounds) in stated.items()
            if _within(divided[name], bounds)
        ]
        text += f"; these look like values for 0..255, divided by 255 they are {' and '.join(better)}"
    return text


def _within(values: tuple[float, ...], bounds: tuple[float, float]) -> bool:
    return all(bounds[0] <= value <= bounds[1] for value in values)


def preprocess(
    image_bytes: bytes, preprocessing: Preprocessing, *, max_pixels: int, reproducible: bool = False
) -> NDArray[np.float32]:
    """Return float32 (3, crop height, crop width), RGB, normalised; for networks that take that.

    Args:
        reproducible: as for `read_pixels`.

    Raises:
        UnsupportedImage, ImageTooLarge, InvalidImage: as `bundle.decoding.decode`.
    """
    pixels = read_pixels(image_bytes, preprocessing, max_pixels=max_pixels, reproducible=reproducible)
    return normalise(pixels, preprocessing)


def read_pixels(
    image_bytes: bytes, preprocessing: Preprocessing, *, max_pixels: int, reproducible: bool = False
) -> NDArray[np.uint8]:
    """Return uint8 (crop height, crop width, 3), RGB; for networks that normalise themselves.

    Args:
        reproducible: alike on every processor, as `bundle.resizing.resize` has it; for what is compared between them.

    Raises:
        UnsupportedImage, ImageTooLarge, InvalidImage: as `bundle.decoding.decode`.
    """
    decoded = decode_reduced(
        image_bytes,
        max_pixels=max_pixels,
        background=preprocessing.background,
        exif_orientation=preprocessing.exif_orientation,
        least_size=partial(_least_size, preprocessing) if preprocessing.jpeg_reducing_gap else None,
    )
    return _resize_and_crop(decoded, preprocessing, reproducible=reproducible)


def normalise(pixels: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Map uint8 (..., H, W, 3) to float32 (..., 3, H, W): 0..1, less the mean, over the standard deviation."""
    mean = np.asarray(preprocessing.mean, np.float32)
    std = np.asarray(preprocessing.std, np.float32)
    scaled = pixels / np.float32(255)  # (..., H, W, 3)
    scaled -= mean  # in place: a row of a large input takes many megabytes
    scaled /= std
    return np.ascontiguousarray(np.moveaxis(scaled, -1, -3))  # (..., 3, H, W)


def _least_size(preprocessing: Preprocessing, width: int, height: int) -> tuple[float, float]:
    gap = preprocessing.jpeg_reducing_gap or 1
    resized_width, resized_height = _resized(preprocessing, width, height)
    return gap * resized_width, gap * resized_height


def _resized(preprocessing: Preprocessing, width: float, height: float) -> tuple[int, int]:
    """(width, height) after the resize, of a picture all of which is kept."""
    if isinstance(preprocessing.resize, int):
        shorter = min(width, height)
        return int(preprocessing.resize * width // shorter), int(preprocessing.resize * height // shorter)
    return preprocessing.resize[1], preprocessing.resize[0]


def _resize_and_crop(decoded: Decoded, preprocessing: Preprocessing, *, reproducible: bool) -> NDArray[np.uint8]:
    """Resize and centre-crop in one step, so that a 1 x 30000 picture never becomes a huge one on the way.

    Same sizes and offsets as torchvision's Resize and CenterCrop. Pillow reads beyond `box` at its edges, so the pixels
    are those of resizing everything and cropping then, up to the rounding between its two passes.
    """
    x, y, right, bottom = decoded.box
    width, height = right - x, bottom - y
    resized_width, resized_height = _resized(preprocessing, width, height)
    crop_height, crop_width = preprocessing.crop
    top = round((resized_height - crop_height) / 2)
    left = round((resized_width - crop_width) / 2)
    x_scale, y_scale = width / resized_width, height / resized_height
    box = (
        x + left * x_scale,
        y + top * y_scale,
        min(x + (left + crop_width) * x_scale, right),
        min(y + (top + crop_height) * y_scale, bottom),
    )
    size = (crop_width, crop_height)
    return resize(decoded.image, size, box, preprocessing.interpolation, reproducible=reproducible)
