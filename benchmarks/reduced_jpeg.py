"""python -m benchmarks.reduced_jpeg PICTURES --output FILE [--gaps 2,3,4,8] [--rounds 7] [--network aa_resnet50]

What `jpeg_reducing_gap` costs and brings. PICTURES is a folder of JPEG photographs.

Agreement: photographs as they are, cut, scaled, turned, with noise and saved anew, read in full and reduced, and only
those that were reduced at all. The shipped bundle answers both; for measure, also the same pictures saved once more at
quality 95. `--network` asks an untrained network for 224 pixels too, its mean logits taken away, since without that
it says the same of every picture. Time: bytes to pixels, both ways in turn, by the size of the picture.
"""

import argparse
import io
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track

from aaserve.bundle.bundle import open_bundle
from aaserve.bundle.preprocessing import Preprocessing, read_pixels
from aaserve.export.graph.runtime import Graph
from aaserve.export.preprocessing.presets import PRESETS
from benchmarks.bad_pictures import encoded
from benchmarks.circumstances import ROOT, write_result

MEGAPIXELS = (0.1, 0.2, 0.5, 1, 3, 6, 12, 24)
SCALES = (0.7, 1, 2.2, 4.5)
VARIANTS = 3  # of each photograph at each scale
MAX_PIXELS = 10**9
Answer = Callable[[NDArray[np.uint8]], NDArray[np.float32]]  # (N, H, W, 3) --> (N, num_classes)
Read = Callable[[bytes], NDArray[np.uint8]]  # a file --> (H, W, 3)


def variants(photographs: Sequence[Image.Image], scales: Sequence[float]) -> Iterator[bytes]:
    """JPEG files of every kind; enlarged ones get noise, so that they have detail at every size as photographs do."""
    random = np.random.default_rng(0)
    for photograph in photographs:
        for scale in scales:
            for variant in range(VARIANTS):
                image = _cut(photograph, random) if variant else photograph
                image = _scaled(image, scale, random)
                if random.random() < 0.5:
                    image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
                yield encoded(
                    image,
                    "JPEG",
                    quality=int(random.integers(60, 97)),
                    subsampling=int(random.choice([0, 2])),
                    progressive=bool(random.random() < 0.25),
                )


def _cut(image: Image.Image, random: np.random.Generator) -> Image.Image:
    width, height = (round(side * random.uniform(0.5, 0.95)) for side in image.size)
    left, top = random.integers(0, image.width - width + 1), random.integers(0, image.height - height + 1)
    return image.crop((left, top, left + width, top + height))


def _scaled(image: Image.Image, scale: float, random: np.random.Generator) -> Image.Image:
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    if scale <= 1:
        return image
    noise = random.normal(0, 4, (image.height, image.width, 1))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


def photographs_in(folder: Path) -> list[Image.Image]:
    """Its JPEG files, in the order of their names."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg"))
    return [Image.open(path).convert("RGB") for path in paths]


def agreement(
    answer: Answer, read: Read, others: Mapping[str, Read], pictures: Sequence[bytes]
) -> dict[str, dict[str, float]]:
    """How answers differ from those to `read`, by the name of the other, among the pictures that it reads otherwise.

    And how, for measure, those to the same pictures saved anew do.
    """
    usual = np.stack([read(picture) for picture in track(pictures, description="as usual")])  # (N, H, W, 3)
    expected = answer(usual)
    found = {}
    for name, other in others.items():
        pixels = np.stack([other(picture) for picture in track(pictures, description=name)])
        found[name] = _differences(usual, expected, pixels, answer)
    again = (encoded(Image.open(io.BytesIO(one)), "JPEG", quality=95) for one in pictures)
    saved = np.stack([read(picture) for picture in track(again, "saved anew", total=len(pictures))])
    return found | {"saved anew at quality 95": _differences(usual, expected, saved, answer)}


def _differences(
    usual: NDArray[np.uint8], expected: NDArray[np.float32], other: NDArray[np.uint8], answer: Answer
) -> dict[str, float]:
    changed = (usual != other).any(axis=(1, 2, 3))  # (N,)
    if not changed.any():
        return {"pictures": 0}
    logits, right = answer(other)[changed], expected[changed]
    difference = np.abs(logits - right).max(axis=1)
    pixels = np.abs(usual[changed].astype(int) - other[changed])
    return {
        "pictures": int(changed.sum()),
        "top_1_agreement": round(float((logits.argmax(1) == right.argmax(1)).mean()), 4),
        "logit_difference_p50": round(float(np.median(difference)), 3),
        "logit_difference_p99": round(float(np.quantile(difference, 0.99)), 3),
        "pixel_difference": round(float(pixels.mean()), 5),
        "pixel_difference_max": int(pixels.max()),
        "values_changed": round(float((pixels > 0).mean()), 5),
    }


def in_batches(graph: Graph) -> Answer:
    return lambda pixels: np.concatenate([graph(batch) for batch in np.array_split(pixels, -(-len(pixels) // 32))])


def _untrained(name: str, preprocessing: Preprocessing) -> Answer:
    import torch  # the other figures need none of it

    from aaserve.export.graph.convert import convert
    from aaserve.export.graph.normalisation import PixelInput
    from aaserve.models import create_model

    torch.manual_seed(0)
    network = PixelInput(create_model(name, image_size=preprocessing.crop).eval(), preprocessing).eval()
    ask = in_batches(
        Graph(convert(network, torch.zeros(2, *preprocessing.crop, 3, dtype=torch.uint8), {}), preprocessing)
    )
    means: list[NDArray[np.float32]] = []

    def answer(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits = ask(pixels)
        means.append(logits.mean(axis=0))
        return (logits - means[0]) / (logits - means[0]).std()

    return answer


def enlarged(photograph: Image.Image, megapixels: Sequence[float]) -> Iterator[tuple[float, bytes]]:
    """(megapixels, JPEG file) of each size."""
    random = np.random.default_rng(0)
    for size in megapixels:
        scale = (size * 1e6 / photograph.width / photograph.height) ** 0.5
        yield size, encoded(_scaled(photograph, scale, random), "JPEG", quality=90)


def speed(ways: Mapping[str, Callable[[], object]], *, calls: int, rounds: int) -> dict[str, float]:
    """Milliseconds that a call of the first way takes, and how many times as fast each other is, all in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            for _ in range(calls):
                way()
            if turn:
                seconds[name].append((time.perf_counter() - started) / calls)
    first, *others = ways
    return {f"{first}_ms": round(1000 * statistics.median(seconds[first]), 3)} | {
        name: round(statistics.median(a / b for a, b in zip(seconds[first], seconds[name], strict=True)), 2)
        for name in others
    }


def _speeds(
    photograph: Image.Image, preprocessing: Preprocessing, gaps: Sequence[float], rounds: int
) -> dict[str, dict[str, float]]:
    """Bytes to pixels, in full and with each gap, by megapixels."""
    readers = {"full": _read(preprocessing, None), **_by_gap(preprocessing, gaps)}
    found = {}
    for megapixels, picture in track(
        enlarged(photograph, MEGAPIXELS), f"speed, resize {preprocessing.resize}", total=len(MEGAPIXELS)
    ):
        ways = {name: partial(read, picture) for name, read in readers.items()}
        calls = max(1, round(1 / megapixels))
        found[f"{megapixels:g}"] = {"bytes": len(picture), **speed(ways, calls=calls, rounds=rounds)}
    return found


def _read(preprocessing: Preprocessing, gap: float | None) -> Read:
    chosen = preprocessing.model_copy(update={"jpeg_reducing_gap": gap})
    return partial(read_pixels, preprocessing=chosen, max_pixels=MAX_PIXELS)


def _by_gap(preprocessing: Preprocessing, gaps: Sequence[float]) -> dict[str, Read]:
    return {f"gap {gap:g}": _read(preprocessing, gap) for gap in gaps}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reduced_jpeg")
    parser.add_argument("pictures", type=Path, help="folder of JPEG photographs")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--gaps", default="2,3,4,8", help="with commas between (default: 2,3,4,8)")
    parser.add_argument("--rounds", type=int, default=7, help="of the timing (default: 7)")
    parser.add_argument("--network", help="an untrained network to ask too, such as aa_resnet50")
    given = parser.parse_args()
    gaps = [float(gap) for gap in given.gaps.split(",")]
    photographs = photographs_in(given.pictures)
    shipped = open_bundle(ROOT / "model_repository" / "aa-cifar100" / "1")
    small, large = shipped.manifest.preprocessing, PRESETS["imagenet"]
    measured: dict[str, object] = {"photographs": len(photographs)}
    pictures = list(variants(photographs, SCALES))
    answer = in_batches(Graph(shipped.model_path.read_bytes(), small))
    measured["aa-cifar100"] = agreement(answer, _read(small, None), _by_gap(small, gaps), pictures)
    if given.network:
        pictures = list(variants(photographs[::4], SCALES[-1:]))  # smaller ones are not reduced for 224 pixels
        measured[f"{given.network}, untrained"] = agreement(
            _untrained(given.network, large), _read(large, None), _by_gap(large, gaps), pictures
        )
    detailed = max(photographs, key=lambda image: image.width * image.height)
    measured["speed"] = {
        f"resize {spec.resize}": _speeds(detailed, spec, gaps, given.rounds) for spec in (small, large)
    }
    write_result(given.output, measured, "pillow", "numpy", "onnxruntime")
    print(given.output.read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
