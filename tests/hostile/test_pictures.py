"""Pictures made to hurt: the answer is a classification or a documented error, soon, and costs what a picture costs."""

import asyncio
import json
import os
import re
import struct
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from aaserve.bundle.errors import ImageError, InvalidImage
from aaserve.bundle.pictures.containers.jpeg import MAX_SCANS, check_scans
from aaserve.bundle.pictures.decoding import decode
from tests.encoders import SIGNATURE, png_chunk
from tests.helpers import BAD_IMAGES, EXAMPLES, ROOT, RunningService, encode, photograph
from tests.hostile.bad_pictures import damaged_pictures
from tests.hostile.bombs import (
    BOMBS,
    jpeg_that_says_mpo,
    progressive_jpeg,
    tiff_of_one_tile,
    tiff_of_strips,
    webp_canvas,
)

DAMAGED = int(os.environ.get("AASERVE_DAMAGED_IMAGES", "600"))
ANSWERS = {"200", "400 invalid_image", "413 image_too_large", "415 unsupported_media_type"}
TOO_SLOW = {408, 429, 504}  # the machine, for 8 clients
GROWTH = 64 * 2**20  # bytes of resident memory after the first fifth of the images, at most


def decoded(image_bytes: bytes, max_pixels: int = 50_000_000) -> Image.Image:
    return decode(image_bytes, max_pixels=max_pixels, background=(0, 0, 0), exif_orientation=True)


def peak() -> int:
    """Kilobytes that this process has had resident at once; ru_maxrss begins with those of the one that started it."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


async def answers(url: str, number: int, seed: int) -> dict[str, Counter[str]]:
    """Send damaged images from 8 clients; how often each format got each answer."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    images = damaged_pictures(number, seed=seed)
    async with httpx.AsyncClient(base_url=url, timeout=60, headers={"Content-Type": "image/*"}) as client:

        async def send() -> None:
            for name, image in images:  # one iterator for all clients
                while (answer := await client.post("/classify", content=image)).status_code in TOO_SLOW:
                    await asyncio.sleep(1)
                code = "" if answer.status_code == 200 else f" {answer.json().get('code')}"
                counts[name][f"{answer.status_code}{code}"] += 1

        await asyncio.gather(*(send() for _ in range(8)))
    return counts


def resident(process: int) -> int:
    """Bytes."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_damaged_pictures_get_documented_answers(service: RunningService) -> None:
    """And leave no memory behind. `make hostile` sends more of them."""
    url, process = str(service.client.base_url), service.process.pid
    asyncio.run(answers(url, DAMAGED // 5, seed=9))
    before = resident(process)
    counts = asyncio.run(answers(url, DAMAGED, seed=8))
    assert resident(process) - before < GROWTH
    assert sum(found.total() for found in counts.values()) == DAMAGED
    for name, found in counts.items():
        assert set(found) <= ANSWERS, name
        assert found["200"], f"{name}: nothing was decoded"
        assert found["400 invalid_image"], f"{name}: nothing was damaged"
    assert service.classify((EXAMPLES / "rocket.jpg").read_bytes()).status_code == 200


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_refused(service: RunningService, bomb: bytes) -> None:
    answer = service.classify(bomb)
    assert (answer.status_code, answer.json()["code"]) in {(400, "invalid_image"), (413, "image_too_large")}


def test_a_picture_that_is_too_large_is_told_its_size_and_the_setting(service: RunningService) -> None:
    size = struct.pack(">II", 9000, 9000)
    png = SIGNATURE + png_chunk(b"IHDR", size + b"\x08\x02\0\0\0")
    assert service.classify(png).json()["detail"] == (
        "the image is 9000x9000 = 81000000 pixels; the limit is 50000000 (max_image_pixels)"
    )
    assert service.classify(webp_canvas(5000)).json()["detail"] == (
        "the image is 5000x5000 = 25000000 pixels; the limit for WebP, 1/4 of 50000000, is 12500000 (max_image_pixels)"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_bombs_take_no_memory() -> None:
    """In a process of its own: the decoders' memory is not Python's."""
    script = (
        "import sys\n"
        "from tests.hostile.bombs import BOMBS, HARMLESS\n"
        "from tests.hostile.test_pictures import decoded, peak\n"
        "before = peak()\n"
        "for name, bomb in (BOMBS | HARMLESS).items():\n"
        "    try: decoded(bomb)\n"
        "    except ValueError: pass\n"
        "    if peak() - before > 150_000: sys.exit(f'{name}: {peak() - before} kB')\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_transparent_pictures_are_not_in_memory_several_times(tmp_path: Path) -> None:
    """In a process of its own, from the kind that takes least to the one that takes most."""
    side = 2000
    clear = Image.new("RGBA", (side, side), (1, 2, 3, 4))
    indices = Image.new("P", (side, side))
    indices.putpalette(bytes(range(48)))
    bytes_a_pixel = {"palette.png": 8, "alpha.png": 12, "alpha.webp": 20}
    (tmp_path / "palette.png").write_bytes(encode(indices, "PNG", transparency=bytes((9, 99))))
    (tmp_path / "alpha.png").write_bytes(encode(clear, "PNG", compress_level=1))
    (tmp_path / "alpha.webp").write_bytes(encode(clear, "WEBP", lossless=True, method=0, quality=0))
    script = (
        "import pathlib, sys\n"
        "from tests.hostile.test_pictures import decoded, peak\n"
        "pictures = [pathlib.Path(name).read_bytes() for name in sys.argv[1:]]\n"
        "before = peak()\n"
        "for picture in pictures:\n"
        "    decoded(picture)\n"
        "    print(peak() - before)\n"
    )
    command = [sys.executable, "-c", script, *(str(tmp_path / name) for name in bytes_a_pixel)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    for (name, allowed), kilobytes in zip(bytes_a_pixel.items(), done.stdout.split(), strict=True):
        assert int(kilobytes) * 1024 / side**2 < allowed, name


def test_a_tile_larger_than_the_picture_is_fine_and_so_are_many_strips() -> None:
    assert decoded(tiff_of_one_tile(10, 64), max_pixels=64 * 64).size == (10, 10)
    with pytest.raises(ImageError):
        decoded(tiff_of_one_tile(10, 64), max_pixels=64 * 64 - 1)
    assert decoded(tiff_of_strips(2000, data=b"\x07")).size == (1, 2000)


def test_the_layout_of_a_tiff_must_be_unambiguous() -> None:
    """Pillow and libtiff do not read the same types; what only one of them sees is no limit for the other."""
    tile = tiff_of_one_tile(10, 64)
    for kind in (1, 6, 9, 11, 17):
        hidden = tile.replace(b"\x42\x01\x04\x00", b"\x42\x01" + kind.to_bytes(2, "little"))  # TileWidth
        with pytest.raises(InvalidImage, match="directory"):
            decoded(hidden)


@pytest.mark.parametrize("big_tiff", [False, True])
def test_pages_behind_the_first_cost_nothing(big_tiff: bool) -> None:
    page = photograph()
    pages = encode(page, "TIFF", save_all=True, append_images=[page] * 20, compression="tiff_lzw", big_tiff=big_tiff)
    np.testing.assert_array_equal(np.asarray(decoded(pages)), np.asarray(page))


@pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG"])
def test_frames_behind_the_first_are_not_looked_at(image_format: str) -> None:
    frames = [Image.new("RGB", (100, 100), (80 * number, 0, 0)) for number in range(3)]
    animation = encode(frames[0], image_format, save_all=True, append_images=frames[1:], duration=50)
    middle = len(animation) // 2
    for content in (animation, animation[:middle] + bytes(30) + animation[middle + 30 :]):  # damaged further on
        assert decoded(content, max_pixels=4 * 100 * 100).getpixel((50, 50)) == (0, 0, 0)


def test_scans_are_counted_as_the_decoder_sees_them() -> None:
    check_scans(progressive_jpeg(64, MAX_SCANS - 1))
    sound = encode(photograph(), "JPEG", progressive=True)
    scans = b"\xff\xda\0\2" * 600
    check_scans(sound + b"\0\2" + scans)  # a film behind the picture, as phones have it
    check_scans(encode(photograph(), "JPEG", comment=scans))  # inside a segment
    for length in range(4):
        check_scans(b"\xff\xd8\xff"[:length])
    many = progressive_jpeg(64, 200)
    hidden = [many.replace(b"\xff\xda", before + b"\xda") for before in (b"\xff\xff", b"\xff\xd3\xff", b"x\xff\0\xff")]
    # its scans at the other places, odd for even; behind fill bytes, a restart, a stuffed byte
    for image_bytes in (progressive_jpeg(64, MAX_SCANS), many[:2] + b"\xff" + many[2:], *hidden):
        with pytest.raises(InvalidImage, match=f"more than {MAX_SCANS} scans"):
            check_scans(image_bytes)


def test_a_sequential_file_has_too_many_scans_only_if_the_decoder_reads_more_than_one() -> None:
    sequential = encode(photograph(), "JPEG")
    one_component = b"\xff\xda\0\x08\1\1\0\0\x3f\0"
    scans = one_component * (MAX_SCANS + 1)
    decoded(sequential + scans)  # all components are in the first scan, with which the picture ends
    with pytest.raises(InvalidImage, match=f"more than {MAX_SCANS} scans"):
        decoded(sequential[: sequential.index(b"\xff\xda")] + scans)


def test_files_of_other_formats_never_reach_a_decoder() -> None:
    """All of Pillow's plugins are loaded and every one off the list replaced by a tripwire."""
    if not BAD_IMAGES.is_dir():
        pytest.skip("the data set bad_images is not here")
    script = """
import json, sys, pathlib
from PIL import Image, ImageFile
Image.init()
import aaserve.bundle.pictures.decoding
reached = []
def trip(self, *_, **__):
    reached.append(type(self).__name__)
    raise SyntaxError
def classes(kind):
    for each in kind.__subclasses__():
        yield each
        yield from classes(each)
used = {"JpegImageFile", "GifImageFile", "BmpImageFile", "TiffImageFile", "WebPImageFile"}
guarded = [each for each in classes(ImageFile.ImageFile) if each.__name__ not in used]
for each in guarded:
    each.__init__ = trip
Image.OPEN.clear()  # nor is the registry asked
from tests.helpers import BAD_IMAGES
from tests.hostile.test_pictures import decoded, jpeg_that_says_mpo
pictures = [path.read_bytes() for path in sorted(BAD_IMAGES.iterdir())]
decoded_count = 0
for picture in [*pictures, *map(bytes.fromhex, sys.argv[1:])]:
    try:
        decoded(picture)
        decoded_count += 1
    except ValueError:
        pass
print(json.dumps([len(guarded), decoded_count, reached]))
"""
    mpo = jpeg_that_says_mpo().hex()
    command = [sys.executable, "-W", "ignore", "-c", script, mpo]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    guarded, count, reached = json.loads(done.stdout)
    assert guarded > 30
    assert count > 50
    assert reached == []


def test_the_picture_in_front_of_a_multi_picture_file_is_read_without_its_plugin() -> None:
    script = (
        "import sys\nfrom aaserve.bundle.pictures.decoding import decode\n"
        "picture = bytes.fromhex(sys.argv[1])\n"
        "image = decode(picture, max_pixels=10**6, background=(0, 0, 0), exif_orientation=True)\n"
        "print(image.getpixel((3, 3))[0] > 250, 'PIL.MpoImagePlugin' in sys.modules)"
    )
    command = [sys.executable, "-c", script, jpeg_that_says_mpo().hex()]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split() == [
        "True",
        "False",
    ]
