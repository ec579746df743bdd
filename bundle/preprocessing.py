"""Picture bytes --> the network's input. Training evaluates with this, export checks with it, the service runs it.

    bytes --decode--> upright RGB --resize, centre crop--> (crop h, crop w, 3) --normalise--> (3, crop h, crop w)

The last step happens here or, with the same numbers, inside the graph; the manifest's input says which.
"""

from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator

from bundle.decoding import decode

Side = Annotated[int, Field(ge=1, le=4096)]
Byte = Annotated[int, Field(ge=0, le=255)]
Positive = Annotated[float, Field(gt=0)]

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


class Preprocessing(BaseModel):
    """How pictures become tensors. A property of the weights, so nothing here has a default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    colour: Literal["RGB"] = Field(description="Order of the channels.")
    background: tuple[Byte, Byte, Byte] = Field(description="RGB seen through transparent pixels.")
    exif_orientation: bool = Field(description="Turn pictures upright as their EXIF data says.")
    resize: Side | tuple[Side, Side] = Field(description="Shorter side in pixels, or exact (height, width).")
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = Field(
        description="Pillow's filter; all but nearest are antialiased."
    )
    crop: tuple[Side, Side] = Field(description="Centre crop (height, width) after the resize, in pixels.")
    mean: tuple[float, float, float] = Field(description="Subtracted from RGB in 0..1.")
    std: tuple[Positive, Positive, Positive] = Field(description="Divides what is left.")

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        resized = (self.resize, self.resize) if isinstance(self.resize, int) else self.resize
        if self.crop[0] > resized[0] or self.crop[1] > resized[1]:
            raise ValueError(f"crop {self.crop} does not fit into resize {self.resize}")
        return self


def preprocess(image_bytes: bytes, preprocessing: Preprocessing, *, max_pixels: int) -> NDArray[np.float32]:
    """Return float32 (3, crop height, crop width), RGB, normalised; for networks that take that.

    Raises:
        UnsupportedImage, ImageTooLarge, InvalidImage: as `bundle.decoding.decode`.
    """
    return normalise(read_pixels(image_bytes, preprocessing, max_pixels=max_pixels), preprocessing)


def read_pixels(image_bytes: bytes, preprocessing: Preprocessing, *, max_pixels: int) -> NDArray[np.uint8]:
    """Return uint8 (crop height, crop width, 3), RGB; for networks that normalise themselves.

    Raises:
        UnsupportedImage, ImageTooLarge, InvalidImage: as `bundle.decoding.decode`.
    """
    image = decode(
        image_bytes,
        max_pixels=max_pixels,
        background=preprocessing.background,
        exif_orientation=preprocessing.exif_orientation,
    )
    return np.asarray(_resize_and_crop(image, preprocessing))


def normalise(pixels: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Map uint8 (..., H, W, 3) to float32 (..., 3, H, W): 0..1, less the mean, over the standard deviation."""
    mean = np.asarray(preprocessing.mean, np.float32)
    std = np.asarray(preprocessing.std, np.float32)
    scaled = (pixels / np.float32(255) - mean) / std  # (..., H, W, 3)
    return np.ascontiguousarray(np.moveaxis(scaled, -1, -3))  # (..., 3, H, W)


def _resize_and_crop(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """Resize and centre-crop in one step, so that a 1 x 30000 picture never becomes a huge one on the way.

    Same sizes and offsets as torchvision's Resize and CenterCrop. Pillow reads beyond `box` at its edges, so the pixels
    are those of resizing everything and cropping then, up to the rounding between its two passes.
    """
    width, height = image.size
    if isinstance(preprocessing.resize, int):
        shorter = min(width, height)
        resized_height = preprocessing.resize * height // shorter
        resized_width = preprocessing.resize * width // shorter
    else:
        resized_height, resized_width = preprocessing.resize
    crop_height, crop_width = preprocessing.crop
    top = round((resized_height - crop_height) / 2)
    left = round((resized_width - crop_width) / 2)
    x_scale, y_scale = width / resized_width, height / resized_height
    box = (
        left * x_scale,
        top * y_scale,
        min((left + crop_width) * x_scale, width),
        min((top + crop_height) * y_scale, height),
    )
    return image.resize((crop_width, crop_height), _RESAMPLING[preprocessing.interpolation], box=box)
