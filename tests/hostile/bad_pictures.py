"""Good pictures, damaged in seeded ways, so that a run can be repeated and its findings too."""

import io
import random
from collections.abc import Iterator
from typing import Any

from PIL import Image

from tests.helpers import ROOT

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)  # where integers overflow
_HEADER = 512  # bytes; most of what decoders believe stands there
_TIFF_COMPRESSIONS = ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "zstd", "lzma")


def good_pictures() -> list[tuple[str, bytes]]:
    """(format, file) of each format in its usual kinds: colour, palette, alpha, grey, animated, several pages."""
    photograph = Image.open(ROOT / "examples" / "rocket.jpg").convert("RGB")
    small = photograph.resize((96, 64))
    alpha = small.convert("RGBA")
    alpha.putalpha(small.convert("L"))
    frames = {"save_all": True, "append_images": [small.rotate(90), small.rotate(180)]}
    grey16 = Image.radial_gradient("L").convert("I;16")
    return [
        ("JPEG", (ROOT / "examples" / "rocket.jpg").read_bytes()),
        *(("JPEG", encoded(small, "JPEG", **options)) for options in ({}, {"progressive": True}, {"quality": 5})),
        ("JPEG", encoded(small.convert("CMYK"), "JPEG")),
        ("JPEG", encoded(small, "JPEG", exif=_orientation(6), comment=b"x" * 5000)),
        *(("PNG", encoded(picture, "PNG")) for picture in (small, alpha, small.convert("P"), grey16)),
        ("PNG", encoded(small, "PNG", exif=_orientation(3))),
        ("PNG", encoded(small, "PNG", **frames)),
        ("WEBP", encoded(small, "WEBP")),
        ("WEBP", encoded(alpha, "WEBP", lossless=True, exif=_orientation(8))),
        ("WEBP", encoded(small, "WEBP", **frames)),
        ("GIF", encoded(small, "GIF")),
        ("GIF", encoded(small.convert("P"), "GIF", transparency=1, **frames)),
        *(("BMP", encoded(picture, "BMP")) for picture in (small, small.convert("P"), small.convert("1"))),
        *(("TIFF", encoded(small, "TIFF", compression=name)) for name in _TIFF_COMPRESSIONS),
        ("TIFF", encoded(small.convert("1"), "TIFF", compression="group4")),
        ("TIFF", encoded(grey16, "TIFF")),
        ("TIFF", encoded(small, "TIFF", big_tiff=True, **frames)),
    ]


def damaged_pictures(number: int, *, seed: int) -> Iterator[tuple[str, bytes]]:
    """(format, file): each a good picture after one to three kinds of damage."""
    chance = random.Random(seed)
    pictures = good_pictures()
    good = {name: [content for kind, content in pictures if kind == name] for name in FORMATS}
    others = [content for contents in good.values() for content in contents]
    for _ in range(number):
        name = chance.choice(FORMATS)
        content = bytearray(chance.choice(good[name]))
        for _ in range(chance.randint(1, 3)):
            if content:
                chance.choice((_cut, _flip, _overwrite, _resize, _splice, _repeat))(content, chance, others)
        yield name, bytes(content)


def _cut(content: bytearray, chance: random.Random, _: list[bytes]) -> None:
    del content[chance.randrange(len(content)) :]


def _flip(content: bytearray, chance: random.Random, _: list[bytes]) -> None:
    for _ in range(chance.choice((1, 2, 8, 64))):
        content[_position(content, chance)] ^= 1 << chance.randrange(8)


def _overwrite(content: bytearray, chance: random.Random, _: list[bytes]) -> None:
    position = _position(content, chance)
    content[position : position + 4] = chance.randbytes(4)


def _resize(content: bytearray, chance: random.Random, _: list[bytes]) -> None:
    """Put an integer of a size that overflows somewhere into the header."""
    position, order = _position(content, chance), chance.choice(("big", "little"))
    width = chance.choice((1, 2, 4))
    value = chance.choice(_INTERESTING) & (1 << 8 * width) - 1
    content[position : position + width] = value.to_bytes(width, order)  # type: ignore[arg-type]


def _splice(content: bytearray, chance: random.Random, others: list[bytes]) -> None:
    """The head of one picture before the rest of another."""
    other = chance.choice(others)
    cut = chance.randrange(1, _HEADER)
    content[cut:] = other[chance.randrange(len(other)) :]


def _repeat(content: bytearray, chance: random.Random, _: list[bytes]) -> None:
    start = chance.randrange(len(content))
    piece = content[start : start + chance.choice((4, 64, 1024))]
    content[start:start] = piece * chance.choice((1, 10, 500))


def _position(content: bytearray, chance: random.Random) -> int:
    return chance.randrange(min(len(content), _HEADER) if chance.random() < 0.7 else len(content))


def _orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def encoded(image: Image.Image, image_format: str, **options: Any) -> bytes:
    """The picture as the bytes of a file."""
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()
