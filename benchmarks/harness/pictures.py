"""Pictures for benchmarks, made from the examples: the same everywhere, without a download."""

import io
import math

import numpy as np
from PIL import Image, ImageOps

from benchmarks.harness.circumstances import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.jpg"))
PHOTOGRAPH_BYTES = 100_000
PHOTOGRAPH_SIZE = (500, 375)  # pixels, like most of ImageNet
GRAIN = 4.0  # standard deviation, of 255: gives an enlarged picture the detail and bytes of a photograph


def small_pngs() -> list[bytes]:
    """Eight PNGs of 32x32 pixels: each example, and its mirrored centre."""
    return [_file(view.resize((32, 32)), "PNG") for view in _views()]


def photographs() -> list[bytes]:
    """Eight JPEGs of 500x375 pixels and almost 100 kB each."""
    return [_jpeg_of(_enlarged(view, PHOTOGRAPH_SIZE), PHOTOGRAPH_BYTES) for view in _views()]


def photograph(megapixels: float) -> bytes:
    """A JPEG with this number of pixels, 4:3, quality 85."""
    height = round(math.sqrt(megapixels * 1e6 * 3 / 4))
    return _file(_enlarged(_views()[0], (height * 4 // 3, height)), "JPEG", quality=85)


def _views() -> list[Image.Image]:
    views = []
    for path in EXAMPLES:
        image = Image.open(path).convert("RGB")
        views += [image, ImageOps.mirror(ImageOps.crop(image, image.height // 5))]
    return views


def _enlarged(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    pixels = np.asarray(image.resize(size), np.float32)  # (H, W, 3)
    grain = np.random.default_rng(0).standard_normal(pixels.shape[:2], np.float32)[..., np.newaxis]
    return Image.fromarray((pixels + GRAIN * grain).clip(0, 255).astype(np.uint8))


def _jpeg_of(image: Image.Image, most: int) -> bytes:
    """A JPEG with the best quality that has at most `most` bytes."""
    files = (_file(image, "JPEG", quality=quality) for quality in range(100, 0, -1))
    return next(file for file in files if len(file) <= most)


def _file(image: Image.Image, image_format: str, **options: int) -> bytes:
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()
