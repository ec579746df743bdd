"""python -m benchmarks.resizing PICTURES --output FILE [--megapixels 0.1,0.2,0.5,1,3,6,12] [--rounds 7]

What `bundle.resizing` costs and brings against Pillow's own resize. PICTURES is a folder of JPEG photographs.

Agreement: variants of the photographs as in benchmarks/reduced_jpeg.py, all read as the service reads them, but for the
resize: Pillow's with the same box, ours, one call of the library in the place of our two, and Pillow's with a
`reducing_gap`. The shipped bundle answers all; for measure, also the same pictures saved once more at quality 95.
Time: the resize alone, and bytes to pixels, all in turn, by the size of the picture.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
from cykooz_resizer import CropBox, FilterType, ResizeAlg, ResizeOptions, Resizer
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track

from aaserve.bundle import preprocessing as reading
from aaserve.bundle.bundle import open_bundle
from aaserve.bundle.preprocessing import Preprocessing, read_pixels
from aaserve.bundle.resizing import Box, resize
from aaserve.export.graph.runtime import Graph
from aaserve.export.preprocessing.presets import PRESETS
from benchmarks.circumstances import ROOT, write_result
from benchmarks.reduced_jpeg import MAX_PIXELS, SCALES, agreement, enlarged, in_batches, photographs_in, speed, variants

Size = tuple[int, int]  # (width, height)
Resize = Callable[[Image.Image, Size, Box, str], NDArray[np.uint8]]

_FILTERS = {
    "bilinear": (Image.Resampling.BILINEAR, FilterType.bilinear),
    "bicubic": (Image.Resampling.BICUBIC, FilterType.catmull_rom),
}


def with_pillow(
    image: Image.Image, size: Size, box: Box, interpolation: str, *, gap: float | None = None
) -> NDArray[np.uint8]:
    return np.asarray(image.resize(size, _FILTERS[interpolation][0], box=box, reducing_gap=gap))


def in_one_call(image: Image.Image, size: Size, box: Box, interpolation: str) -> NDArray[np.uint8]:
    """The library in its own order of the passes."""
    left, top, right, bottom = box
    found = Image.new("RGB", size)
    convolution = ResizeAlg.convolution(_FILTERS[interpolation][1])
    options = ResizeOptions(convolution, crop_box=CropBox(left, top, right - left, bottom - top))
    Resizer().resize_pil(image, found, options)
    return np.asarray(found)


FASTER: dict[str, Resize] = {"ours": resize, "one call": in_one_call}
GAPS: dict[str, Resize] = {f"reducing_gap {gap}": partial(with_pillow, gap=gap) for gap in (3, 4, 6)}


def _read(way: Resize, preprocessing: Preprocessing, picture: bytes) -> NDArray[np.uint8]:
    with patch.object(reading, "resize", lambda *asked, reproducible: way(*asked)):
        return read_pixels(picture, preprocessing, max_pixels=MAX_PIXELS)


def _resize_of(preprocessing: Preprocessing, picture: bytes) -> tuple[Image.Image, Size, Box, str]:
    """What the resize is asked for when this picture is read."""
    asked: list[tuple[Image.Image, Size, Box, str]] = []

    def note(*arguments: object) -> NDArray[np.uint8]:
        asked.append(arguments)  # type: ignore[arg-type]
        return resize(*asked[-1])

    _read(note, preprocessing, picture)
    return asked[0]


def _speeds(
    photograph: Image.Image, preprocessing: Preprocessing, megapixels: Sequence[float], rounds: int
) -> dict[str, object]:
    """By megapixels; the resize alone, and all from bytes to pixels."""
    ways = {"pillow": with_pillow, **FASTER}
    found: dict[str, object] = {}
    for size, picture in track(
        enlarged(photograph, megapixels), f"speed, resize {preprocessing.resize}", total=len(megapixels)
    ):
        calls = max(1, round(1 / size))
        asked = _resize_of(preprocessing, picture)
        resizes = {name: partial(way, *asked) for name, way in ways.items()}
        reads = {name: partial(_read, way, preprocessing, picture) for name, way in ways.items()}
        found[f"{size:g}"] = {
            "resize": speed(resizes, calls=calls, rounds=rounds),
            "bytes to pixels": speed(reads, calls=calls, rounds=rounds),
        }
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.resizing")
    parser.add_argument("pictures", type=Path, help="folder of JPEG photographs")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    sizes = "0.1,0.2,0.5,1,3,6,12"
    parser.add_argument("--megapixels", default=sizes, help=f"of the timing, with commas between (default: {sizes})")
    parser.add_argument("--rounds", type=int, default=7, help="of the timing (default: 7)")
    given = parser.parse_args()
    megapixels = [float(size) for size in given.megapixels.split(",")]
    photographs = photographs_in(given.pictures)
    shipped = open_bundle(ROOT / "model_repository" / "aa-cifar100" / "1")
    small, large = shipped.manifest.preprocessing, PRESETS["imagenet"]
    pictures = list(variants(photographs, SCALES))
    answer = in_batches(Graph(shipped.model_path.read_bytes(), small))
    others = {name: partial(_read, way, small) for name, way in (FASTER | GAPS).items()}
    detailed = max(photographs, key=lambda image: image.width * image.height)
    measured: dict[str, object] = {
        "photographs": len(photographs),
        "pictures": len(pictures),
        "aa-cifar100": agreement(answer, partial(_read, with_pillow, small), others, pictures),
        "speed": {
            f"resize {each.resize}": _speeds(detailed, each, megapixels, given.rounds) for each in (small, large)
        },
    }
    write_result(given.output, measured, "pillow", "cykooz-resizer", "numpy", "onnxruntime")
    print(given.output.read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
