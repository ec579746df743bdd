"""Picture bytes --> the network's input. Used by training (evaluation), export (checks) and the service.

    bytes --decode--> upright RGB --resize, centre crop--> (crop h, crop w, 3) --normalise--> (3, crop h, crop w)
                                  --stretch----------^
                                  --letterbox--------^

The last step happens here or, with the same numbers, in the graph; the manifest's input says which.
"""

from functools import partial
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from aaserve.bundle.pictures.decoding import Decoded, decode_reduced
from aaserve.bundle.pictures.fitting import placement
from aaserve.bundle.pictures.resizing import resize

Side = Annotated[int, Field(ge=1, le=4096)]
Byte = Annotated[int, Field(ge=0, le=255)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Gap = Annotated[float, Field(ge=2, le=64)]

# Plausible values for RGB in 0..1, wider than networks need: for a network that takes 0..255, std is 1 / 255 = 0.004.
MEANS, DEVIATIONS = (-1.0, 2.0), (0.001, 10.0)


class Preprocessing(BaseModel):
    """How pictures become tensors. This depends on the weights, so nothing is guessed: an absent step is not done."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    colour: Literal["RGB"] = Field(description="Order of the channels.")
    background: tuple[Byte, Byte, Byte] = Field(description="RGB behind transparent pixels.")
    exif_orientation: bool = Field(description="Apply the EXIF orientation.")
    fit: Literal["crop", "stretch", "letterbox"] = Field(
        "crop",
        exclude_if=lambda fit: fit == "crop",  # as in manifests older than this field
        description="How pictures with another aspect ratio fit the input. crop: resized and cropped. "
        "stretch: resized to exactly the input. letterbox: resized to fit into it, at the upper left, with the "
        "background at the right or below.",
    )
    resize: Side | tuple[Side, Side] | None = Field(
        None,
        exclude_if=lambda resize: resize is None,
        description="Shorter side in pixels, or exact (height, width); only with fit crop.",
    )
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = Field(
        description="Pillow's filter; all except nearest are antialiased."
    )
    crop: tuple[Side, Side] = Field(
        description="Centre crop (height, width) after the resize, in pixels: the size of the input."
    )
    mean: tuple[Finite, Finite, Finite] = Field(description="Subtracted from RGB in 0..1.")
    std: tuple[Positive, Positive, Positive] = Field(description="Divides the result.")
    jpeg_reducing_gap: Gap | None = Field(
        None,
        exclude_if=lambda gap: gap is None,  # as in TOML, which has no null, and in older manifests
        description="JPEGs are decoded at 1/2, 1/4 or 1/8 of their size if they then are at least this many times "
        "as large as after the resize. Absent: at full size.",
    )

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        if self.fit != "crop":
            if self.resize is not None:
                raise ValueError(f"fit {self.fit} takes no resize, found {self.resize}")
            return self
        if self.resize is None:
            raise ValueError("expected resize, found none")
        resized = (self.resize, self.resize) if isinstance(self.resize, int) else self.resize
        if self.crop[0] > resized[0] or self.crop[1] > resized[1]:
            raise ValueError(f"crop {self.crop} does not fit into resize {self.resize}")
        return self


def normalisation_problem(preprocessing: Preprocessing) -> str | None:
    """Why a mean or deviation is implausible for RGB in 0..1; None if it is plausible.

    Not a limit of the fields: bundles with such values exist, and networks trained with them may work well.
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
    """Return float32 (3, crop height, crop width), RGB, normalised; for networks with this input.

    Args:
        reproducible: as for `read_pixels`.

    Raises:
        UnsupportedImage, ImageTooLarge, InvalidImage: as `bundle.pictures.decoding.decode`.
    """
    pixels = read_pixels(image_bytes, preprocessing, max_pixels=max_pixels, reproducible=reproducible)
    return normalise(pixels, preprocessing)


def read_pixels(
    image_bytes: bytes, preprocessing: Preprocessing, *, max_pixels: int, reproducible: bool = False
) -> NDArray[np.uint8]:
    """Return uint8 (crop height, crop width, 3), RGB; for networks that normalise in the graph.

    Args:
        reproducible: the same on every processor, for comparisons between machines; see
            `bundle.pictures.resizing.resize`.

    Raises:
        UnsupportedImage, ImageTooLarge, InvalidImage: as `bundle.pictures.decoding.decode`.
    """
    return read_picture(image_bytes, preprocessing, max_pixels=max_pixels, reproducible=reproducible)[0]


def normalise(pixels: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Map uint8 (..., H, W, 3) to float32 (..., 3, H, W): 0..1, minus the mean, over the deviation."""
    mean = np.asarray(preprocessing.mean, np.float32)
    std = np.asarray(preprocessing.std, np.float32)
    scaled = pixels / np.float32(255)  # (..., H, W, 3)
    scaled -= mean  # in place: a large input has many megabytes
    scaled /= std
    return np.ascontiguousarray(np.moveaxis(scaled, -1, -3))  # (..., 3, H, W)


def read_picture(
    image_bytes: bytes, preprocessing: Preprocessing, *, max_pixels: int, reproducible: bool = False
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Like `read_pixels`, plus the full size (width, height) of the upright picture, for its `placement`."""
    decoded = decode_reduced(
        image_bytes,
        max_pixels=max_pixels,
        background=preprocessing.background,
        exif_orientation=preprocessing.exif_orientation,
        least_size=partial(_least_size, preprocessing) if preprocessing.jpeg_reducing_gap else None,
    )
    return _placed(decoded, preprocessing, reproducible=reproducible), decoded.size


def _least_size(preprocessing: Preprocessing, width: int, height: int) -> tuple[float, float]:
    gap = preprocessing.jpeg_reducing_gap or 1
    placed = placement(preprocessing, width, height)
    return gap * placed.width, gap * placed.height


def _placed(decoded: Decoded, preprocessing: Preprocessing, *, reproducible: bool) -> NDArray[np.uint8]:
    """Resize and crop in one step, so that a 1 x 30000 picture never becomes huge in between.

    Same sizes and offsets as torchvision's Resize and CenterCrop. Pillow reads beyond the edges of `box`, so the pixels
    are the same as after resizing everything and then cropping, up to the rounding between its two passes.
    """
    x, y, right, bottom = decoded.box
    placed = placement(preprocessing, *decoded.size)
    input_height, input_width = preprocessing.crop
    left, top = -placed.left, -placed.top
    width, height = min(placed.width, input_width), min(placed.height, input_height)
    x_scale, y_scale = (right - x) / placed.width, (bottom - y) / placed.height
    box = (
        x + left * x_scale,
        y + top * y_scale,
        min(x + (left + width) * x_scale, right),
        min(y + (top + height) * y_scale, bottom),
    )
    pixels = resize(decoded.image, (width, height), box, preprocessing.interpolation, reproducible=reproducible)
    if (width, height) == (input_width, input_height):
        return pixels
    whole = np.empty((input_height, input_width, 3), np.uint8)
    whole[:height, :width] = pixels
    whole[:height, width:] = whole[height:] = preprocessing.background
    return whole
