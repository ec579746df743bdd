"""What the samples of a TIFF mean: every depth, photometric interpretation, layout and byte order."""

import itertools
from typing import Any

import numpy as np
import pytest

from tests.bundle.pictures.expected_pixels import BACKGROUND, HEIGHT, RANDOM, WIDTH, decoded, eight, over, rgb, samples
from tests.encoders import LONG, LONG8, SHORT, tiff

LAYOUTS: dict[str, dict[str, Any]] = {
    "strips": {},
    "strips, BigTIFF": {"big": True},
    "tiles": {"tile": 16, "compressed": True},
    "compressed": {"compressed": True},
    "predictor": {"compressed": True, "predictor": 2},
    "predictor, tiles": {"compressed": True, "predictor": 2, "tile": 16},
    "planes": {"planar": True},
    "planes, tiles": {"planar": True, "tile": 16},
    "planes, predictor": {"planar": True, "compressed": True, "predictor": 2},
}

TIFF_KINDS = [
    *itertools.product((1, 2, 4, 8, 16), ("white is zero", "black is zero")),
    *itertools.product(
        (8, 16), ("grey+associated", "grey+unassociated", "grey+unspecified", "white is zero+unassociated")
    ),
    *itertools.product((8, 16), ("RGB", "RGB+associated", "RGB+unassociated", "RGB+unspecified", "CMYK")),
    *itertools.product((1, 2, 4, 8), ("palette",)),
]


@pytest.mark.parametrize("order", ["<", ">"], ids=["little", "big"])
@pytest.mark.parametrize(("bits", "kind"), TIFF_KINDS, ids=str)
def test_tiff(bits: int, kind: str, order: str) -> None:
    photometric = {"whi": 0, "bla": 1, "gre": 1, "RGB": 2, "pal": 3, "CMY": 5}[kind[:3]]
    colours = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4}[photometric]
    extra = {"unspecified": 0, "associated": 1, "unassociated": 2}.get(kind.partition("+")[2])
    values = samples(bits, colours + (extra is not None))
    if extra == 1:  # colours that are multiplied by alpha
        values[..., :colours] = values[..., :colours] * values[..., -1:] // (2**bits - 1)
    found = eight(values, bits)
    alpha = found[..., -1:] if extra else np.full((HEIGHT, WIDTH, 1), 255)
    tags: dict[int, tuple[int, list[int]]] = {338: (SHORT, [extra])} if extra is not None else {}
    shown = found[..., :colours]
    if photometric == 3:
        entries = RANDOM.integers(0, 2**16, (2**bits, 3))
        tags[320] = (SHORT, entries.T.reshape(-1).tolist())
        shown = (entries >> 8)[values[..., 0]]
    elif photometric == 5:
        shown = (255 - shown[..., :3]) * (255 - shown[..., 3:]) / 255
    elif photometric == 0:
        shown = rgb(255 - shown)
    elif photometric == 1:
        shown = rgb(shown)
    expected = shown + BACKGROUND * (255 - alpha) / 255 if extra == 1 else over(shown, alpha)
    for name, layout in LAYOUTS.items():
        if "predictor" in name and bits < 8:
            continue
        image_bytes = tiff(values, bits, photometric, order=order, tags=tags, **layout)
        assert np.abs(decoded(image_bytes) - expected).max() <= 2, name


def test_12_bit_grey_is_as_light_as_it_is_meant() -> None:
    values = samples(12, 1)
    rows = [f"{int(''.join(f'{value:012b}' for value in row) + '0000', 2):034x}" for row in values[..., 0]]
    stored = np.frombuffer(bytes.fromhex("".join(rows)), np.uint8).reshape(HEIGHT, 17, 1)
    image_bytes = tiff(stored, 8, 1, tags={256: (LONG, [WIDTH]), 258: (SHORT, [12])})
    np.testing.assert_array_equal(decoded(image_bytes), rgb(values >> 4))


def test_a_palette_of_8_bits_is_understood_as_libtiff_does() -> None:
    values, entries = samples(8, 1), RANDOM.integers(0, 256, (256, 3))
    image_bytes = tiff(values, 8, 3, tags={320: (SHORT, entries.T.reshape(-1).tolist())})
    np.testing.assert_array_equal(decoded(image_bytes), entries[values[..., 0]])


def test_a_tiff_that_does_not_say_what_its_samples_mean_is_read_as_libtiff_does() -> None:
    for count in (1, 3):
        values = samples(8, count)
        found = decoded(tiff(values, 8, 1, tags={262: None}))
        np.testing.assert_array_equal(found, values if count == 3 else rgb(values))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("planar", [False, True])
def test_a_tiff_is_turned_once(orientation: int, planar: bool) -> None:
    values = samples(8, 3)
    upright = {
        1: values,
        2: values[:, ::-1],
        3: values[::-1, ::-1],
        4: values[::-1],
        5: values.swapaxes(0, 1),
        6: np.rot90(values, -1),
        7: values[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(values),
    }[orientation]
    for applied in (True, False):  # it is how the rows are stored, not EXIF data
        image_bytes = tiff(values, 8, 2, planar=planar, tags={274: (SHORT, [orientation])})
        np.testing.assert_array_equal(decoded(image_bytes, exif_orientation=applied), upright)


def test_big_tiff_values_of_8_bytes_are_read() -> None:
    values = samples(8, 3)
    found = decoded(tiff(values, 8, 2, big=True, rows=HEIGHT, tags={273: (LONG8, [16])}))
    np.testing.assert_array_equal(found, values)
