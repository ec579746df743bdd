"""What samples mean: every format, depth, kind of colour and transparency, against values that are written here."""

import itertools
import json
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aaserve.bundle.errors import InvalidImage
from aaserve.bundle.pictures.decoding import decode
from tests.encoders import (
    LONG,
    LONG8,
    SHORT,
    bmp,
    gif,
    jpeg_segment,
    packed,
    png,
    png_chunk,
    riff,
    tiff,
    webp_chunk,
    webp_chunks,
    with_segment,
    without_applications,
)
from tests.helpers import encode, noise

BACKGROUND = np.array([10, 20, 30])
HEIGHT, WIDTH = 13, 11  # no multiple of anything
RANDOM = np.random.default_rng(7)


def decoded(image_bytes: bytes, **options: Any) -> np.ndarray:
    found = decode(
        image_bytes, **{"max_pixels": 10**5, "background": (10, 20, 30), "exif_orientation": True, **options}
    )
    assert found.mode == "RGB"
    return np.asarray(found).astype(int)


def samples(bits: int, count: int) -> np.ndarray:
    return RANDOM.integers(0, 2**bits, (HEIGHT, WIDTH, count))


def eight(values: np.ndarray, bits: int) -> np.ndarray:
    """Samples as 0..255: the upper byte of more than 8 bits, the whole range of fewer."""
    return values >> bits - 8 if bits >= 8 else values * 255 // (2**bits - 1)


def rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey.reshape(HEIGHT, WIDTH, 1), 3, axis=2)


def over(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colours over the background, alpha 0..255."""
    return (colours * alpha + BACKGROUND * (255 - alpha)) / 255


PALETTE = RANDOM.integers(0, 256, (256, 3))


@pytest.mark.parametrize("interlaced", [False, True], ids=["", "interlaced"])
@pytest.mark.parametrize("transparent", [False, True], ids=["", "tRNS"])
@pytest.mark.parametrize(
    ("bits", "colour"),
    [
        *itertools.product((1, 2, 4, 8, 16), (0,)),
        *itertools.product((8, 16), (2, 4, 6)),
        *itertools.product((1, 2, 4, 8), (3,)),
    ],
)
def test_png(bits: int, colour: int, transparent: bool, interlaced: bool) -> None:
    values = samples(bits, {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour])
    found = eight(values, bits)
    before, alpha = b"", np.full((HEIGHT, WIDTH, 1), 255)
    if colour == 3:
        entries = PALETTE[: 2**bits]
        before = png_chunk(b"PLTE", entries.astype(np.uint8).tobytes())
        found = entries[values[..., 0]]
    elif colour in (0, 2):
        values[3:5, 2:7] = values[4, 5]  # several pixels of one colour
        found = eight(values, bits)
        found = found if colour == 2 else rgb(found)
    else:
        alpha = found[..., -1:]
        found = found[..., :3] if colour == 6 else rgb(found[..., 0])
    if transparent and colour == 3:
        alphas = RANDOM.integers(0, 256, max(1, len(entries) - 1))
        before += png_chunk(b"tRNS", alphas.astype(np.uint8).tobytes())
        alpha = np.append(alphas, 255)[values]
    elif transparent and colour in (0, 2):
        before += png_chunk(b"tRNS", values[4, 5].astype(">u2").tobytes())
        alpha = np.where((values == values[4, 5]).all(axis=2), 0, 255)[..., None]
        assert 10 <= (alpha == 0).sum() < HEIGHT * WIDTH
    elif transparent:
        before += png_chunk(b"tRNS", bytes(6))  # has no meaning beside an alpha channel
    expected = over(found, alpha)
    image_bytes = png(values, bits, colour, interlaced=interlaced, before=before, pieces=3)
    assert np.abs(decoded(image_bytes) - expected).max() <= 1


def test_a_colour_that_is_transparent_in_16_bits_is_compared_in_16_bits() -> None:
    grey = np.array([[[0x1234], [0x1235]]])
    image_bytes = png(grey, 16, 0, before=png_chunk(b"tRNS", b"\x12\x34"))
    assert decoded(image_bytes).tolist() == [[[10, 20, 30], [0x12] * 3]]
    colours = np.array([[[0x1234, 0x5678, 0x9ABC], [0x1234, 0x5678, 0x9ABD]]])
    image_bytes = png(colours, 16, 2, before=png_chunk(b"tRNS", colours[0, 0].astype(">u2").tobytes()))
    assert decoded(image_bytes).tolist() == [[[10, 20, 30], [0x12, 0x56, 0x9A]]]


def test_indices_beyond_a_palette_are_black() -> None:
    image_bytes = png(np.array([[[0], [9]]]), 8, 3, before=png_chunk(b"PLTE", b"\xff\x80\x40"))
    assert decoded(image_bytes).tolist() == [[[255, 128, 64], [0, 0, 0]]]


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


NO_COLOUR = {
    "8-bit grey of signed integer": tiff(samples(8, 1), 8, 1, tags={339: (SHORT, [2])}),
    "16-bit grey of signed integer": tiff(samples(16, 1), 16, 1, tags={339: (SHORT, [2])}),
    "32-bit grey of floating-point": tiff(samples(32, 1), 32, 1, tags={339: (SHORT, [3])}),
    "16-bit grey of floating-point": tiff(samples(16, 1), 16, 1, tags={339: (SHORT, [3])}, order=">"),
    "32-bit grey": tiff(samples(32, 1), 32, 1),
    "32-bit RGB": tiff(samples(32, 3), 32, 2),
    "CIE L": tiff(samples(8, 3), 8, 8),
    "photometric 32803": tiff(samples(16, 1), 16, 32803),  # the colour filter of a raw picture
    "uncompressed YCbCr": tiff(samples(8, 3), 8, 6),
    "16 bits, colour type 3": png(samples(16, 1), 16, 3),
    "4 bits, colour type 2": png(samples(8, 3), 8, 2).replace(b"\x08\x02\0\0\0", b"\x04\x02\0\0\0"),
    "BMP images of 8 bits with compression 4": bmp(b"", (4, 4), 8, compression=4),
    "BMP images of 2 bits": bmp([b"\0"], (4, 1), 2),
    "a BMP image of -40000x4 pixels": bmp([b"\0"], (-40000, 4), 24),
    "a BMP image of -40000x-40000 pixels": bmp([b"\0"], (-40000, -40000), 24),
    "a BMP image of 0x4 pixels": bmp([b"\0"], (0, 4), 8, compression=1),
}


@pytest.mark.parametrize(("kind", "image_bytes"), NO_COLOUR.items(), ids=NO_COLOUR)
def test_a_bitmap_of_undefined_colours_is_refused_by_name(kind: str, image_bytes: bytes) -> None:
    if kind.startswith("4 bits"):
        header = image_bytes[16:29]
        image_bytes = image_bytes[:8] + png_chunk(b"IHDR", header) + image_bytes[33:]
    with pytest.raises(InvalidImage, match=kind):
        decoded(image_bytes)


ENTRIES = [tuple(int(value) for value in entry) for entry in PALETTE[:16]]
FOUR_BY_TWO = np.array([[1, 2, 3, 4], [15, 14, 13, 0]])  # upper row first


@pytest.mark.parametrize("down", [False, True], ids=["upwards", "downwards"])
@pytest.mark.parametrize("bits", [1, 4, 8])
def test_bmp_with_a_palette(bits: int, down: bool) -> None:
    values = FOUR_BY_TWO % 2**bits
    rows = [packed(row, bits) for row in (values if down else values[::-1])]
    image_bytes = bmp(rows, (4, -2 if down else 2), bits, palette=ENTRIES[: min(16, 2**bits)])
    np.testing.assert_array_equal(decoded(image_bytes), PALETTE[values])


RUNS = {
    "RLE8": (8, 1, b"\0\4\x0f\x0e\x0d\0" + b"\0\0" + b"\1\1\1\2\1\3\1\4" + b"\0\1"),
    "RLE4": (4, 2, b"\0\4\xfe\xd0" + b"\0\0" + b"\4\x12"),  # without an end, but whole
    "RLE8, moved": (8, 1, b"\1\x0f\1\x0e\1\x0d\0\0\0\2\2\0\1\3\1\4\0\1"),
}


@pytest.mark.parametrize("down", [False, True], ids=["upwards", "downwards"])
@pytest.mark.parametrize("kind", RUNS)
def test_bmp_of_runs(kind: str, down: bool) -> None:
    bits, compression, coded = RUNS[kind]
    upper = {"RLE8": [1, 2, 3, 4], "RLE4": [1, 2, 1, 2], "RLE8, moved": [0, 0, 3, 4]}[kind]
    values = np.array([upper, [15, 14, 13, 0]])
    image_bytes = bmp(coded, (4, -2 if down else 2), bits, palette=ENTRIES, compression=compression)
    np.testing.assert_array_equal(decoded(image_bytes), PALETTE[values[::-1] if down else values])


@pytest.mark.parametrize("kind", ["555", "555 masks", "565 masks", "24", "32", "32 masks", "32 alpha", "32 profile"])
def test_bmp_without_a_palette(kind: str) -> None:
    colours = RANDOM.integers(0, 256, (2, 4, 4))
    red, green, blue, alpha = (colours[..., index] for index in range(4))
    masks: tuple[int, ...] = ()
    header, bits = 40, int(kind[:2]) if kind[:2] in ("24", "32") else 16
    if bits == 16:
        wide = 6 if "565" in kind else 5
        stored = (red >> 3) << 5 + wide | (green >> 8 - wide) << 5 | blue >> 3
        masks = {"555": (), "555 masks": (0x7C00, 0x3E0, 0x1F), "565 masks": (0xF800, 0x7E0, 0x1F)}[kind]
        red, blue = ((value >> 3) * 255 // 31 for value in (red, blue))
        green = (green >> 8 - wide) * 255 // (2**wide - 1)
    else:
        stored = alpha << 24 | red << 16 | green << 8 | blue
    expected = np.stack([red, green, blue], axis=-1)
    if kind == "32 masks":
        masks = (0xFF0000, 0xFF00, 0xFF)
    if kind == "32 alpha":
        masks, header = (0xFF0000, 0xFF00, 0xFF, 0xFF000000), 56
        expected = over(expected, alpha[..., None])
    if kind == "32 profile":
        header = 124
    rows = [row.astype("<u4").view(np.uint8).reshape(4, 4)[:, : bits // 8].tobytes() for row in stored[::-1]]
    rest = b"\xff" * 84 if header == 124 else b""  # a profile that lies nowhere
    image_bytes = bmp(rows, (4, 2), bits, compression=3 if masks else 0, masks=masks, header=header, rest=rest)
    assert np.abs(decoded(image_bytes) - expected).max() <= 1


@pytest.mark.parametrize("local", [False, True], ids=["global palette", "local palette"])
@pytest.mark.parametrize("transparent", [None, 3], ids=["", "transparent"])
@pytest.mark.parametrize("frame", [(0, 0, 4, 2), (2, 1, 4, 2), (7, 5, 4, 2)], ids=str)
def test_gif(frame: tuple[int, int, int, int], transparent: int | None, local: bool) -> None:
    """What the frame leaves free of its screen is transparent; a frame beyond the screen makes it larger."""
    image_bytes = gif(
        (8, 6), frame, bytes(FOUR_BY_TWO.reshape(-1).tolist()), ENTRIES, transparent=transparent, local=local
    )
    left, top, _, _ = frame
    expected = np.tile(BACKGROUND, (max(6, top + 2), max(8, left + 4), 1)) if left else np.tile(BACKGROUND, (6, 8, 1))
    shown = PALETTE[FOUR_BY_TWO].copy()
    if transparent is not None:
        shown[transparent == FOUR_BY_TWO] = BACKGROUND
    expected[top : top + 2, left : left + 4] = shown
    np.testing.assert_array_equal(decoded(image_bytes), expected)


def alpha_picture() -> Image.Image:
    pixels = np.random.default_rng(3).integers(0, 256, (8, 6, 4), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_webp() -> None:
    picture = alpha_picture()
    pixels = np.asarray(picture).astype(int)
    lossless = encode(picture, "WEBP", lossless=True, exact=True)
    assert np.abs(decoded(lossless) - over(pixels[..., :3], pixels[..., 3:])).max() <= 1
    opaque = encode(picture.convert("RGB"), "WEBP", lossless=True)
    np.testing.assert_array_equal(decoded(opaque), pixels[..., :3])


def test_lossy_webp_with_an_alpha_channel() -> None:
    even = Image.new("RGBA", (16, 16), (200, 100, 50, 255))
    even.paste((200, 100, 50, 0), (0, 0, 8, 16))
    content = encode(even, "WEBP", quality=95)
    assert set(webp_chunks(content)) == {b"VP8X", b"ALPH", b"VP8 "}
    found = decoded(content)
    assert np.abs(found[4, 3] - BACKGROUND).max() <= 1
    assert np.abs(found[4, 13] - [200, 100, 50]).max() <= 8


@pytest.mark.parametrize("lossless", [False, True])
def test_the_first_frame_of_an_animated_webp_lies_on_its_canvas(lossless: bool) -> None:
    frame = Image.new("RGBA", (16, 16), (200, 100, 50, 255))
    frame.paste((0, 0, 0, 0), (0, 0, 8, 16))
    inner = webp_chunks(encode(frame, "WEBP", quality=95, lossless=lossless))
    inner.pop(b"VP8X", None)
    anmf = b"".join(value.to_bytes(3, "little") for value in (4 // 2, 2 // 2, 15, 15)) + bytes(4)
    anmf += b"".join(webp_chunk(*chunk) for chunk in inner.items())
    canvas = bytes((0x12, 0, 0, 0, 31, 0, 0, 23, 0, 0))
    found = decoded(riff((b"VP8X", canvas), (b"ANIM", bytes(6)), (b"ANMF", anmf), (b"ANMF", anmf)))
    assert found.shape == (24, 32, 3)
    expected = np.tile(BACKGROUND, (24, 32, 1))
    expected[2:18, 12:20] = [200, 100, 50]
    assert np.abs(found - expected).max() <= (2 if lossless else 20)


def adobe(transform: int) -> bytes:
    return jpeg_segment(0xEE, b"Adobe" + struct.pack(">HHHB", 100, 0, 0, transform))


def smooth() -> np.ndarray:
    ramp = np.linspace(0, 255, 32).astype(np.uint8)
    return np.stack(np.broadcast_arrays(ramp[None, :], ramp[:, None], 255 - ramp[None, :], ramp[:, None] // 2), axis=-1)


def test_jpeg_components_mean_what_the_file_says() -> None:
    """Stored without conversion, then marked in every way there is."""
    values = smooth()
    options = {"quality": 100, "subsampling": 0}
    bare = without_applications(encode(Image.fromarray(values[..., :3]), "JPEG", keep_rgb=True, **options))
    as_rgb, as_ycc = (
        values[..., :3].astype(int),
        np.asarray(Image.fromarray(values[..., :3], "YCbCr").convert("RGB")).astype(int),
    )
    jfif = jpeg_segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0")
    for segments, expected in (
        (b"", as_rgb),  # the components are called R, G and B
        (adobe(0), as_rgb),
        (adobe(1), as_ycc),
        (jfif, as_ycc),
    ):
        assert np.abs(decoded(with_segment(bare, segments)) - expected).max() <= 6
    grey = encode(Image.fromarray(values[..., 0]), "JPEG", quality=100)
    assert np.abs(decoded(grey) - values[..., :1]).max() <= 2


def test_jpeg_of_four_components_is_inverted_cmyk() -> None:
    values = smooth()
    inverted = Image.fromarray(values, "CMYK")
    content = without_applications(encode(inverted, "JPEG", quality=100, subsampling=0))
    cmyk = values.astype(int)  # Pillow's encoder inverts
    expected = (255 - cmyk[..., :3]) * (255 - cmyk[..., 3:]) / 255
    assert np.abs(decoded(with_segment(content, adobe(0))) - expected).max() <= 6
    assert np.abs(decoded(content) - expected).max() <= 6  # nothing says otherwise
    stored = 255 - values  # what the encoder writes; the first three are now taken for Y, Cb and Cr
    light = np.asarray(Image.fromarray(stored[..., :3], "YCbCr").convert("RGB")).astype(int)
    expected = (255 - light) * stored[..., 3:].astype(int) / 255
    assert np.abs(decoded(with_segment(content, adobe(2))) - expected).max() <= 6


@pytest.mark.parametrize(
    "options", [{"progressive": True}, {"restart_marker_blocks": 2}, {"subsampling": 2}], ids=json.dumps
)
def test_jpeg_processes(options: dict[str, Any]) -> None:
    values = smooth()[..., :3]
    found = decoded(encode(Image.fromarray(values), "JPEG", quality=100, **options))
    assert np.abs(found - values).max() <= 12


def test_jpeg_of_12_bits_is_refused_by_name() -> None:
    content = encode(noise(8, 8), "JPEG")
    place = content.index(b"\xff\xc0")
    with pytest.raises(InvalidImage, match="12 bits a sample"):
        decoded(content[: place + 4] + b"\x0c" + content[place + 5 :])


def test_big_tiff_values_of_8_bytes_are_read() -> None:
    values = samples(8, 3)
    found = decoded(tiff(values, 8, 2, big=True, rows=HEIGHT, tags={273: (LONG8, [16])}))
    np.testing.assert_array_equal(found, values)
