"""Pictures, fed by Hypothesis: for any bytes, our parsers raise only documented errors.

`make fuzz SECONDS=600` runs it for that long; what it finds becomes an @example here.
"""

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from aaserve.bundle.errors import ImageError
from aaserve.bundle.pictures.containers.exif import orientation_of
from aaserve.bundle.pictures.containers.jpeg import check_scans
from aaserve.bundle.pictures.containers.tiff import read_layout
from aaserve.bundle.pictures.decoding import decode
from tests.encoders import bmp, gif, jpeg_segment, png, png_chunk, tiff, tiff_file, with_segment
from tests.helpers import encode, noise
from tests.hostile.bombs import tiff_of_one_tile
from tests.hostile.fuzzing import changes, damaged, documented, thoroughly

tiffs = st.builds(damaged, st.just(tiff_of_one_tile(10, 64)), changes, st.just(0) | st.integers(0, 200))


@thoroughly
@given(tiffs | st.binary(max_size=100).map(lambda rest: b"MM\0+" + rest))
@example(b"II+\0\x08\0\0\0" + b"\xff" * 100)
def test_tiff_directories(content: bytes) -> None:
    with documented(ImageError):
        read_layout(content, max_pixels=10_000)


@thoroughly
@given(
    st.lists(
        st.sampled_from([b"\xff\xda", b"\xff\xd8", b"\xff\xd9", b"\xff", b"\0", b"\0\2", b"\xff\xe1\xff\xff", b"x"]),
        max_size=300,
    )
)
def test_jpeg_markers(pieces: list[bytes]) -> None:
    content = b"\xff\xd8" + b"".join(pieces)
    try:
        check_scans(content)
    except ImageError:
        assert content.count(b"\xda") > 100


def pictures() -> list[bytes]:
    """One or two small pictures of each format, with all that a reader of ours looks at."""
    small = noise(5, 7)
    turned = tiff_file(b"", {274: (3, [6])})
    half = small.convert("RGBA")
    half.putalpha(Image.linear_gradient("L").resize(half.size))
    frames = {"save_all": True, "append_images": [small.rotate(90)], "duration": 20}
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    before = png_chunk(b"PLTE", bytes(range(48))) + png_chunk(b"tRNS", bytes(9)) + png_chunk(b"eXIf", turned)
    return [
        png(np.arange(35).reshape(5, 7, 1) % 16, 4, 3, interlaced=True, before=before),
        png(np.arange(105).reshape(5, 7, 3) * 600, 16, 2, before=png_chunk(b"tRNS", bytes(6))),
        with_segment(encode(small, "JPEG", progressive=True), jpeg_segment(0xE1, b"Exif\0\0" + turned)),
        encode(small, "TIFF", compression="tiff_lzw"),
        tiff(np.arange(105).reshape(5, 7, 3) * 600, 16, 2, planar=True, compressed=True, predictor=2, order=">"),
        tiff(np.arange(70).reshape(5, 7, 2) * 900, 16, 1, tile=16, big=True, tags={338: (3, [1])}),
        gif((9, 9), (1, 1, 3, 2), bytes((0, 1, 2, 1, 2, 0)), colours, transparent=1, before=b"!\xfe\2ab\0"),
        encode(half, "WEBP", exif=turned),
        encode(half, "WEBP", lossless=True, **frames),
        bmp(b"\0\4\x0f\x0e\x0d\0\0\0\1\1\0\2\1\0\1\4\0\1", (4, 2), 8, compression=1, palette=colours),
        encode(small, "BMP"),
    ]


@thoroughly
@given(
    st.sampled_from(pictures()),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=6),
    st.just(0) | st.integers(0, 2000),
)
def test_pictures(content: bytes, changes: list[tuple[int, int]], cut: int) -> None:
    with documented(ImageError):
        found = decode(damaged(content, changes, cut), max_pixels=10_000, background=(1, 2, 3), exif_orientation=True)
        assert found.mode == "RGB"
        assert 1 <= found.width * found.height <= 10_000


@thoroughly
@given(
    st.builds(damaged, st.just(tiff_file(b"", {274: (3, [6])})), changes, st.integers(0, 20)) | st.binary(max_size=60)
)
def test_exif_data(content: bytes) -> None:
    assert 1 <= orientation_of(content) <= 8
